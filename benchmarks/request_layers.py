"""`python -m benchmarks.request_layers`: where the time of a request goes, as a table of layers for docs/performance.md.

Everything runs in one process and without sockets: what stands in for one hands the server's connection the next request when the last was
answered. Told is the processor's time between two requests, at the second percentile, which other processes disturb least. A layer is the
difference to what was measured without it.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from time import thread_time
from typing import IO, Any

import anyio
from attrs import define, field

from benchmarks.executor import service
from benchmarks.executor.contract import RunCode
from benchmarks.floors import quart_route
from benchmarks.gateway import BODY, RATE_LIMIT
from fissile import App, Bus, Contract, Lifespan, Module, Process
from fissile._api_keys import new_key
from fissile._garbage import collect_less
from fissile._logging import JsonFormatter
from fissile_gateway import GatewaySettings, ProtectionSettings, create_app
from fissile_gateway._gatekeeper import Gatekeeper
from fissile_gateway._http_connection import Connection
from fissile_gateway._server import HttpServer, ServerSettings

REQUESTS = 300
"""On one connection."""
ROUNDS = 12
PATH = "/api/executor/run-code"

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]  # Any: ASGI's own


@define(eq=False)
class Socket:
    """Stands in for the socket of a client that sends the next request when the last was answered."""

    request: bytes
    left: int = REQUESTS
    times: list[float] = field(factory=list[float])
    answer: bytes = b""
    _answered: anyio.Event = field(factory=anyio.Event)

    def addresses(self) -> tuple[Any, Any]:
        return ("127.0.0.1", 50_000), ("127.0.0.1", 8000)

    async def receive(self) -> bytes:
        if self.left < REQUESTS:
            await self._answered.wait()
        self._answered = anyio.Event()
        self.left -= 1
        self.times.append(thread_time())
        return self.request if self.left > 0 else b""

    def send(self, data: bytes | memoryview) -> int:
        self.answer = bytes(data)
        self._answered.set()
        return len(data)

    async def wait_writable(self) -> None:
        pass

    def send_eof(self) -> None:
        pass

    def forget_unsent(self) -> None:
        pass

    def close(self) -> None:
        pass


def request(key: str = "") -> bytes:
    """Return the request of the benchmark `gateway`."""
    head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:8000\r\n" + (f"x-api-key: {key}\r\n" if key else "")
    return f"{head}content-type: application/json\r\ncontent-length: {len(BODY)}\r\n\r\n".encode() + BODY


@define(eq=False)
class Subject:
    """What is measured: a server, and how long each request took, in seconds."""

    app: ASGIApp
    gatekeeper: Gatekeeper | None = None
    key: str = ""
    taken: list[float] = field(factory=list[float])

    async def measure(self) -> None:
        """Answer the requests of one connection."""
        server = HttpServer(self.app, ServerSettings(), gatekeeper=self.gatekeeper)
        socket = Socket(request(self.key))
        connection = Connection(server, socket)
        server.connections.take(connection, "")
        await connection.run()
        if not socket.answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"A request was answered {socket.answer[:300]!r}.")
        self.taken += [after - before for before, after in pairwise(socket.times)]

    def microseconds(self) -> float:
        """Return how long a request takes where little disturbs it."""
        return _low(self.taken)


async def time_of_call(bus: Bus) -> float:
    """Return how long the call itself takes, in microseconds."""
    taken: list[float] = []
    for _ in range(ROUNDS * REQUESTS):
        began = thread_time()
        await bus.execute(RunCode("python", "print(6*7)"))
        taken.append(thread_time() - began)
    return _low(taken)


def _low(taken: list[float]) -> float:
    return sorted(taken)[len(taken) // 50] * 1e6


async def bare(scope: Any, receive: Any, send: Any) -> None:
    """Answer what the route of the benchmark answers; nothing else."""
    if scope["type"] == "http":
        await receive()
        body = b"x" * 108
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def measure(bus: Bus, process: Process, folder: Path) -> list[tuple[str, float]]:
    """Return the layers and how long each takes."""
    key, sha256 = new_key("benchmark")
    keys = folder / "keys.toml"
    keys.write_text(f'[[key]]\nid = "benchmark"\nsha256 = "{sha256}"\n')
    keys.chmod(0o600)
    subjects: tuple[Subject, ...] = ()
    async with anyio.create_task_group() as listeners:

        def through(key: str = "", protection: ProtectionSettings | None = None, **settings: Any) -> Subject:
            gateway = create_app(bus, process, GatewaySettings(**settings), protection=protection)
            gateway.listeners = listeners
            return Subject(gateway, gateway.gatekeeper, key)

        subjects = (
            Subject(bare),
            through(access_log=False),
            through(),
            through(key, api_keys_file=str(keys)),
            through(key, ProtectionSettings(rate_limit=RATE_LIMIT), api_keys_file=str(keys)),
            Subject(quart_route.app),
        )
        for number in range(ROUNDS + 1):
            for subject in subjects:
                await subject.measure()
                if not number:
                    subject.taken.clear()  # the first round makes what later ones find
    call = await time_of_call(bus)
    server, silent, logged, known, limited, quart = (subject.microseconds() for subject in subjects)
    return [
        ("reading HTTP/1.1, a task, writing the answer: the server with an application that only answers", server),
        ("the gateway: limits, deadline, trace, fields, metrics; decoding, encoding", silent - server - call),
        ("the call: the message and its reply as bytes, isolation, the handler", call),
        ("the access log: one line of JSON", logged - silent),
        ("**a request to the gateway**", logged),
        ("an API key", known - logged),
        ("a rate limit", limited - known),
        ("for comparison: the bare Quart route of the benchmark on the same server", quart),
    ]


async def main(out: IO[str]) -> None:
    """Measure, and print the table."""
    found: list[tuple[Bus, Process]] = []
    module = Module(Contract("gateway"))

    @module.worker
    async def take(bus: Bus, process: Process, lifespan: Lifespan) -> None:
        found.append((bus, process))
        lifespan.started()
        await lifespan.draining()

    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        handler = logging.StreamHandler(log)
        handler.setFormatter(JsonFormatter())
        logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
        async with App([service.module, module]):
            collect_less()
            layers = await measure(*found[0], Path(folder))
    out.write("| layer | µs |\n| --- | ---: |\n")
    for what, taken_us in layers:
        out.write(f"| {what} | {taken_us:.0f} |\n")


if __name__ == "__main__":
    anyio.run(main, sys.stdout, backend_options={"use_uvloop": find_spec("uvloop") is not None})
