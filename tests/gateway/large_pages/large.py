"""An answer that takes a while to be read, made as it is read."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from quart import Blueprint

PIECE = bytes(64 * 1024)
PIECES = 64

blueprint = Blueprint("large", __name__)


@blueprint.get("/large")
async def large() -> AsyncGenerator[bytes]:
    """Get many zeros."""

    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(PIECES):
            yield PIECE

    return pieces()
