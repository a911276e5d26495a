"""What Quart's views share: the request in hand, and answers as Quart has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from quart import Response, has_request_context, request, websocket

from fissile_gateway._answers import Answer, View
from fissile_gateway._exchange import EXCHANGE, Exchange, Scope


def exchange() -> Exchange:
    """Return the exchange of the request in hand, or of the handshake of a WebSocket."""
    this: Exchange = cast("Scope", (request if has_request_context() else websocket).scope)[EXCHANGE]
    return this


def in_quart(view: View) -> Callable[[], Awaitable[Response]]:
    """Return the view of a command or query as a view of Quart."""

    async def quart_view() -> Response:
        return response_of(await view(exchange()))

    return quart_view


def response_of(answer: Answer) -> Response:
    """Return an answer as a response of Quart."""
    if answer.media_type is None:
        response = Response(b"", answer.status)
        del response.headers["content-type"]  # of nothing; and a length must not be told (RFC 9110, 8.6)
        del response.headers["content-length"]
    else:
        response = Response(answer.body, answer.status, content_type=answer.media_type)
    for name, value in answer.headers:
        response.headers[name] = value
    return response
