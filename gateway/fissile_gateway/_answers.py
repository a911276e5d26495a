"""What the view of a derived route answers with, whether a framework stands around it or not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from fissile_gateway._exchange import Exchange
from fissile_gateway._problems import Problem, ProblemError

JSON = "application/json"
_JSON = JSON.encode()


class Answer(msgspec.Struct, frozen=True):
    """An answer to a command or a query.

    Attributes:
        status: Its status.
        body: Its body.
        media_type: What the body is; None if there is none.
        headers: Fields besides.
        is_final: Whether a repeat gets it again: a reply or an error of the contract, not a failure of which a repeat may make something else.
    """

    status: int
    body: bytes = b""
    media_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    is_final: bool = True


View = Callable[[Exchange], Awaitable[Answer]]
"""Answers a request for a command or a query; raises what `problem_of` knows."""


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
