"""Quart's side of one HTTP request, on AnyIO for both kinds of event loop.

Quart's own classes are replaced for four reasons. On asyncio the handler runs in a task of its own, which outlives a cancelled server
(until Quart 0.23) and does not see the deadline of the scope around the request. On Trio the answer's last message can be cut off. What
a stream holds open has to be closed where it was opened, once its last byte is sent. And most requests are answered without ever
waiting: they need nobody who listens meanwhile for the client to go away, which costs a fifth of such a request.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, cast

import anyio
from quart.asgi import ASGIHTTPConnection
from quart.utils import encode_headers
from quart.wrappers import Request, Response
from quart.wrappers.request import Body
from quart.wrappers.response import DataBody

from fissile_gateway._exchange import EXCHANGE, Exchange, Receive, Scope, Send
from fissile_gateway._http_application import GONE
from fissile_gateway._step import step
from fissile_gateway._stream import EventStream

_READ_FIRST_BYTES = 64 * 1024
"""A body up to this size is read before the view is called; a view may read a larger one piece by piece."""


class _Body:
    """Quart's body, for a view that waits for all of it, without a place among the requests in progress.

    Read piece by piece it is Quart's own: then the view is at work, and the request keeps its place.
    """

    def __init__(self, body: Body, exchange: Exchange) -> None:
        self._body = body
        self._exchange = exchange

    def __await__(self) -> Generator[Any, None, Any]:  # Any: Quart's own
        exchange = self._exchange
        return exchange.gateway.protection.uploads.wait(self._body.__await__, exchange).__await__()

    def __aiter__(self) -> Body:
        return self._body

    def clear(self) -> None:
        """Forget what has come."""
        self._body.clear()


class Connection(ASGIHTTPConnection):
    """Answers one request; when the client goes away, whatever is being done for it is cancelled."""

    async def __call__(self, receive: Receive, send: Send) -> None:
        """Read the request and answer it."""
        exchange: Exchange = cast("Scope", self.scope)[EXCHANGE]
        request = self._create_request_from_scope(send)
        if not is_small(exchange):
            request.max_content_length = exchange.max_body_bytes
            coming = request.body_class(exchange.length, exchange.max_body_bytes)
            request.body = cast("Body", _Body(coming, exchange))
            exchange.body, exchange.is_read = request.body, False
            exchange.listen(_read, coming, receive, exchange)
            await self._respond(request, send, exchange)
        elif await read_whole(receive, exchange):
            request.body.set_result(cast("bytes", exchange.body))
            responding = self._respond(request, send, exchange)
            del request  # a stream would hold it open, with all that Quart knows of it
            await attend(responding, cast("Scope", self.scope), receive, exchange)

    async def _respond(self, request: Request, send: Send, exchange: Exchange) -> None:
        try:
            try:
                response = await self.app.handle_request(request)
            finally:
                if request.url_rule is not None:
                    exchange.route = request.url_rule.rule
            body = response.response if isinstance(response, Response) else None
            if isinstance(response, Response) and isinstance(body, DataBody):
                await _send_at_once(send, response, body)
            elif isinstance(response, Response) and isinstance(body, EventStream):
                start = {"status": response.status_code, "headers": encode_headers(response.headers)}
                del request, response
                await _send_stream(send, start, body)
            else:
                await self._send_response(send, response)
        finally:
            if exchange.close is not None:
                with anyio.CancelScope(shield=True):
                    await exchange.close()


async def _send_at_once(send: Send, response: Response, body: DataBody) -> None:
    """Send an answer in two messages; Quart takes three, of which the last one is empty."""
    headers = encode_headers(response.headers)
    await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": body.data[body.begin : body.end], "more_body": False})


async def _send_stream(send: Send, start: dict[str, Any], body: EventStream) -> None:
    """Send an answer that goes on: piece by piece, with nothing at hand but the piece. Any: ASGI's own."""
    await send({"type": "http.response.start", **start})
    async for piece in body:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def is_small(exchange: Exchange) -> bool:
    """Tell whether a body is so small that it is read before the view is called."""
    return exchange.length is not None and exchange.length <= min(_READ_FIRST_BYTES, exchange.max_body_bytes)


async def read_whole(receive: Receive, exchange: Exchange) -> bool:
    """Read a small body; return False if the client went away.

    Raises:
        ProblemError: It was slow to come, and when it was there, the request found no place any more.
    """
    exchange.is_read = False
    if not exchange.length:
        return await _read_whole(receive, exchange)
    return await exchange.gateway.protection.uploads.wait(lambda: _read_whole(receive, exchange), exchange)


async def _read_whole(receive: Receive, exchange: Exchange) -> bool:
    data = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            exchange.is_gone = True
            return False
        data += message.get("body", b"")
        if not message.get("more_body", False):
            exchange.body = data
            exchange.is_read = True
            return True


async def attend(responding: Coroutine[Any, Any, None], scope: Scope, receive: Receive, exchange: Exchange) -> None:
    """Run what answers a request that was read; once it waits for anything, cancel it when the client goes away.

    Args:
        responding: Answers it.
        scope: The request.
        receive: Tells of the client.
        exchange: The request.
    """

    def listen() -> None:
        extensions: Scope = scope.get("extensions") or {}
        when_gone: Callable[[Callable[[], None]], None] | None = extensions.get(GONE)
        if when_gone is not None:
            when_gone(exchange.leave)
        else:  # another server than ours
            exchange.listen(_listen, receive)

    await step(responding, listen)


async def _read(body: Any, receive: Receive, exchange: Exchange) -> None:
    """Read a body as it comes, and return when the client has gone away."""
    # Any: a Body; `append` became `put`, which waits, in Quart 0.23
    while (message := await receive())["type"] == "http.request":
        if hasattr(body, "put"):
            await body.put(message.get("body", b""))
        else:
            body.append(message.get("body", b""))
        if not message.get("more_body", False):
            exchange.is_read = True
            body.set_complete()


async def _listen(receive: Receive) -> None:
    """Return when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
