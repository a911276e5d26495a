"""The floor of a gateway request: one Quart route that does the same work by hand, on Hypercorn.

Usage: `python -m benchmarks.floors.quart_route`; it prints its address when it listens.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys

import msgspec
from hypercorn.asyncio import serve
from hypercorn.config import Config
from quart import Quart, Response, request

from benchmarks.executor.contract import RunCode
from benchmarks.executor.service import run_code

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(RunCode).decode

app = Quart(__name__)
app.config["MAX_CONTENT_LENGTH"] = 1024 * 1024


@app.post("/api/executor/run-code")
async def route() -> Response:
    """Read the message, have it handled, write the reply."""
    try:
        message = _decode(await request.get_data())
    except msgspec.MsgspecError as error:
        return Response(str(error), 422)
    return Response(_encode(await run_code(message)), 200, content_type="application/json")


async def main() -> None:
    """Serve until killed."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    config.keep_alive_timeout = 60.0
    with socket.socket(fileno=int(config.bind[0].removeprefix("fd://"))) as bound:
        port = bound.getsockname()[1]
        bound.detach()
    sys.stderr.write(f"http://127.0.0.1:{port}\n")
    sys.stderr.flush()
    await serve(app, config, mode="asgi")


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
