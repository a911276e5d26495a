"""What the views of derived routes share: the request in hand, the type of its body, and an answer without one."""

from __future__ import annotations

from typing import cast

from quart import Response, request

from fissile_gateway._exchange import EXCHANGE, Exchange, Scope
from fissile_gateway._problems import Problem, ProblemError

JSON = "application/json"
_JSON = JSON.encode()


def exchange() -> Exchange:
    """Return the exchange of the request in hand."""
    this: Exchange = cast("Scope", request.scope)[EXCHANGE]
    return this


def nothing(status: int = 204) -> Response:
    """Return an answer that has no body."""
    response = Response(b"", status)
    del response.headers["content-type"]  # of nothing; and a length must not be told (RFC 9110, 8.6)
    del response.headers["content-length"]
    return response


def check_media_type(media_type: bytes, encoding: bytes) -> None:
    """Refuse a body that is not plain JSON.

    Raises:
        ProblemError: 415.
    """
    if encoding.strip().lower() not in (b"", b"identity"):
        shown = encoding.decode("latin-1")
        detail = f"The body is encoded as {shown!r}; send it without Content-Encoding."
        raise ProblemError(Problem(415, "unsupported-media-type", detail))
    kind, _, parameters = media_type.partition(b";")
    parameter = parameters.strip().lower().replace(b'"', b"")
    if kind.strip().lower() == _JSON and parameter in (b"", b"charset=utf-8"):
        return
    shown = media_type.decode("latin-1")
    said = f"The body is {shown!r}" if media_type else "The request has no Content-Type"
    detail = f"{said}; send JSON with Content-Type: {JSON}."
    raise ProblemError(Problem(415, "unsupported-media-type", detail, headers=(("accept-post", JSON),)))
