"""A server under test and a client that sends exactly what it is told to."""

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import attrs
import pytest
from anyio.abc import SocketAttribute, SocketStream
from quart import Quart
from quart_trio import QuartTrio

from fissile_gateway import _http_socket, _server
from fissile_gateway._server import ASGIApp, HttpServer, ServerSettings

PATIENCE_S = 20.0
"""How long a test waits for what must come; nothing is asserted about how soon."""


MakeQuart = Callable[[], Quart]


@pytest.fixture
def make_quart(anyio_backend_name: str) -> MakeQuart:
    """Make an empty Quart application of the backend's kind."""
    kind = QuartTrio if anyio_backend_name == "trio" else Quart
    return lambda: kind("probe")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses of the server that have no setting, a second each, for a test that has to sit one out."""
    monkeypatch.setattr(_server, "_CUT_S", 0.1)
    monkeypatch.setattr(_http_socket, "_LINGER_S", 0.1)


@attrs.frozen
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes


class Client:
    """One raw connection."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def get(self, path: str = "/", *fields: str) -> Answer:
        lines = [f"GET {path} HTTP/1.1", "Host: test", *fields, "", ""]
        await self.send("\r\n".join(lines).encode())
        return await self.answer()

    async def answer(self) -> Answer:
        """Read one answer."""
        with anyio.fail_after(PATIENCE_S):
            head = (await self._until(b"\r\n\r\n")).decode()
            status, *lines = head.split("\r\n")[:-2]
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            if "content-length" in fields:
                body = await self._exactly(int(fields["content-length"]))
            elif fields.get("transfer-encoding") == "chunked":
                body = await self._chunked()
            else:
                body = b""
            return Answer(int(status.split()[1]), fields, body)

    async def until(self, mark: bytes) -> bytes:
        with anyio.fail_after(PATIENCE_S):
            return await self._until(mark)

    async def closed(self) -> bytes:
        """Wait until the server closes, and return what it sent before."""
        with anyio.fail_after(PATIENCE_S):
            while await self._more():
                pass
        return self._buffer

    async def _more(self) -> bool:
        try:
            self._buffer += await self.stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return False
        return True

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            assert await self._more(), f"closed after {self._buffer!r}"
        head, _, self._buffer = self._buffer.partition(mark)
        return head + mark

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            assert await self._more(), "closed in the body"
        body, self._buffer = self._buffer[:size], self._buffer[size:]
        return body

    async def _chunked(self) -> bytes:
        body = b""
        while size := int(await self._until(b"\r\n"), 16):
            body += await self._exactly(size)
            await self._exactly(2)
        await self._exactly(2)
        return body


class Site:
    """A running server."""

    def __init__(self, server: HttpServer, address: tuple[str, int]) -> None:
        self.server = server
        self.address = address
        self.returned = anyio.Event()
        self.scope = anyio.CancelScope()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Client]:
        async with await anyio.connect_tcp(*self.address) as stream:
            yield Client(stream)

    async def get(self, path: str = "/") -> Answer:
        async with self.connect() as client:
            return await client.get(path)

    async def drained(self) -> None:
        """Drain and wait until `serve` returned."""
        self.server.drain()
        with anyio.fail_after(PATIENCE_S):
            await self.returned.wait()


@asynccontextmanager
async def serving(app: ASGIApp, **settings: Any) -> AsyncIterator[Site]:
    """Serve an application on a free port, and drain in the end."""
    server = HttpServer(app, ServerSettings(port=0, **settings))
    sites: list[Site] = []
    started = anyio.Event()

    def note(address: tuple[str, int]) -> None:
        sites.append(Site(server, address))
        started.set()

    async def run() -> None:
        with anyio.CancelScope() as scope:
            tasks.start_soon(link, scope)
            await server.serve(started=note)
        sites[0].returned.set()

    async def link(scope: anyio.CancelScope) -> None:
        await started.wait()
        sites[0].scope = scope

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        with anyio.fail_after(PATIENCE_S):
            await started.wait()
        await anyio.lowlevel.checkpoint()
        try:
            yield sites[0]
        finally:
            server.drain()


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until the condition holds."""
    with anyio.fail_after(PATIENCE_S):
        while not condition():
            await anyio.sleep(0.01)


async def hello(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Answer every request, after its body; knows no lifespan."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        more = message["more_body"]
    body = b"%d" % size
    fields = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def reset(client: Client) -> None:
    """Make the client's close a reset."""
    client.stream.extra(SocketAttribute.raw_socket).setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
