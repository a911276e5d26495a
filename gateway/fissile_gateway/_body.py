"""The JSON body of a hand-written route, read as strictly as that of a derived one."""

from __future__ import annotations

from typing import TypeVar

from fissile_gateway._context import decoder_of

T = TypeVar("T")


async def read_body(kind: type[T]) -> T:
    """Return the body of the request in hand: JSON that fits the class, with no field that is not known and none that comes twice.

    Args:
        kind: A class that a contract may use.

    Raises:
        ProblemError: It is not plain JSON by its `Content-Type`: 415.
        InvalidInput: It does not fit: 400, with every place and what is wrong there.
    """
    from fissile_gateway._answers import check_media_type
    from fissile_gateway._responses import exchange

    this = exchange()
    check_media_type(this.media_type or b"", this.encoding or b"")
    body = this.body
    return decoder_of(kind).decode(body if isinstance(body, bytes) else await body)
