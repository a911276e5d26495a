"""A server in a process of its own, so that its death can be seen: ``victim.py BACKEND USE_UVLOOP [DESCRIPTORS]``."""

import logging
import resource
import signal
import sys
from functools import partial
from typing import Any

import anyio
from quart import Quart, websocket
from quart_trio import QuartTrio

from fissile_gateway._server import HttpServer, ServerSettings


def make_app(kind: type[Quart]) -> Quart:
    app = kind("victim")
    logging.getLogger("victim").disabled = True  # Quart from 0.23 logs that a WebSocket's client is gone

    @app.get("/")
    async def index() -> str:
        return "alive"

    @app.websocket("/echo")
    async def echo() -> None:
        while True:
            await websocket.send(await websocket.receive())

    return app


async def serve(backend: str) -> None:
    """Serve until SIGTERM; each SIGHUP drains the server and starts another one."""

    def started(address: tuple[str, int]) -> None:
        print(address[1], flush=True)

    again = True
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        while again:
            app = make_app(QuartTrio if backend == "trio" else Quart)
            server = HttpServer(app, ServerSettings(port=0, drain_s=5, head_timeout_s=60))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(server.serve, started=started))
                again = await anext(signals) is signal.SIGHUP
                server.drain()


if __name__ == "__main__":
    backend, uvloop, *descriptors = sys.argv[1:]
    if descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(descriptors[0]), int(descriptors[0])))
    options: dict[str, Any] = {"use_uvloop": True} if uvloop == "True" else {}
    anyio.run(serve, backend, backend=backend, backend_options=options)
