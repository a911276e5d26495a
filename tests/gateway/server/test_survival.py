"""Nothing that one client sends ends the process."""

import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute

from tests.conftest import BACKENDS

from .conftest import PATIENCE_S, Client, reset

WEBSOCKET = (
    b"GET %s HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
H2C = (
    b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: %s\r\n\r\n"
)


class Victim:
    def __init__(self, process: subprocess.Popen[bytes], stderr: Path) -> None:
        self.process = process
        self._stderr = stderr
        self._said = ""
        self.port = self._read_port()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Client]:
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            yield Client(stream)

    async def probe(self, *writes: bytes) -> None:
        """Send, ignore what comes, and leave."""
        async with self.connect() as client:
            try:
                for data in writes:
                    await client.send(data)
                with anyio.move_on_after(0.05):
                    await client.closed()
            except anyio.BrokenResourceError:
                pass

    async def assert_alive(self) -> None:
        self.assert_running()
        async with self.connect() as client:
            answer = await client.get("/")
            assert (answer.status, answer.body) == (200, b"alive")
        self.assert_running()

    def assert_running(self) -> None:
        assert self.process.poll() is None, f"the server has ended: {self._stderr.read_text()}"

    def assert_silent(self) -> None:
        before, self._said = self._said, self._stderr.read_text()
        assert self._said == before

    def renew(self) -> None:
        """Drain, and serve again in the same process."""
        self.process.send_signal(signal.SIGHUP)
        self.port = self._read_port()

    def _read_port(self) -> int:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the server has ended: {self._stderr.read_text()}"
        return int(line)


@contextmanager
def running(anyio_backend: Any, stderr: Path, *arguments: str) -> Iterator[Victim]:
    """Run a server; in the end it must drain and exit with 0, unless it has ended before."""
    backend, options = anyio_backend
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("victim.py"))]
    command += [backend, str(options.get("use_uvloop", False)), *arguments]
    with stderr.open("wb") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors) as process:
        try:
            yield Victim(process, stderr)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(PATIENCE_S) == 0, stderr.read_text()
        finally:
            process.kill()


@pytest.fixture(scope="module", params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The event loop of several tests, which share a process."""
    return request.param


@pytest.fixture(scope="module")
def process(anyio_backend: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    with running(anyio_backend, tmp_path_factory.mktemp("victim") / "stderr") as server:
        yield server
    server.assert_silent()


@pytest.fixture
def server(process: Victim) -> Iterator[Victim]:
    """A server of its own in a process that must neither end nor say anything, also when the server drains."""
    process.assert_running()
    yield process
    process.renew()
    process.assert_silent()


@pytest.fixture
def poor_server(anyio_backend: Any, tmp_path: Path) -> Iterator[Victim]:
    """A server that may open 40 files."""
    with running(anyio_backend, tmp_path / "stderr", "40") as server:
        yield server
        server.assert_running()


async def test_stray_bytes_after_a_websocket_upgrade(server: Victim) -> None:
    for path in (b"/echo", b"/missing", b"/"):
        async with anyio.create_task_group() as tasks:
            for stray in (b"x", bytes(20), b"GET / HTTP/1.1\r\n\r\n"):
                for writes in ([WEBSOCKET % path + stray], [WEBSOCKET % path, stray, stray]):
                    tasks.start_soon(server.probe, *writes)
        await server.assert_alive()


async def test_an_upgrade_to_h2c_with_any_settings(server: Victim) -> None:
    for settings in (b"AAMAAABkAAQAAP__", b"AAMAAABkAAQ", b"A", b"", b"????", b"AAMA" * 1000):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.probe, H2C % settings)
            tasks.start_soon(server.probe, H2C % settings + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        await server.assert_alive()


async def test_the_http_2_preface_and_frames(server: Victim) -> None:
    await server.probe(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x06\x04\x00\x00\x00\x00\x00" + b"\xff" * 64)
    await server.assert_alive()


async def test_broken_websocket_frames(server: Victim) -> None:
    frames = [b"\xff" * 14, b"\x81\xff" + b"\xff" * 12, b"\x88\x81\x00\x00\x00\x00x", b"\x8f\x80\x00\x00\x00\x00"]
    frames += [b"\x81\x84\x00\x00\x00\x00\xff\xff\xff\xff", b"\xc1\x83\x00\x00\x00\x00abc", b"\x80\x80\x00\x00\x00\x00"]
    for frame in frames:
        async with server.connect() as client:
            await client.send(WEBSOCKET % b"/echo")
            assert (await client.answer()).status == 101
            await client.send(frame)
            with anyio.move_on_after(0.05):
                await client.closed()
    await server.assert_alive()


async def test_random_bytes_and_broken_copies_of_good_requests(server: Victim) -> None:
    choice = random.Random(20)
    good = [WEBSOCKET % b"/echo" + b"\x81\x82\x00\x00\x00\x00hi", H2C % b"AAMAAABkAAQAAP__"]
    good += [b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            data = bytearray(choice.choice(good))
            for _ in range(choice.randrange(1, 4)):
                data[choice.randrange(len(data))] = choice.randrange(256)
            cut = choice.randrange(len(data))
            tasks.start_soon(server.probe, bytes(data[:cut]), bytes(data[cut:]))
            tasks.start_soon(server.probe, choice.randbytes(choice.randrange(1, 200)))
    await server.assert_alive()


async def test_resets_in_every_phase(server: Victim) -> None:
    phases = [b"", b"GET", b"GET / HTTP/1.1\r\nHost: t\r\n\r\n", b"GET / HTTP/1.1\r\nHost: t\r\n\r\n" * 100]
    phases += [b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nabc", WEBSOCKET % b"/echo"]
    for phase in phases * 5:
        async with server.connect() as client:
            if phase:
                await client.send(phase)
            reset(client)
    await server.assert_alive()


async def test_a_lack_of_descriptors_passes(poor_server: Victim) -> None:
    clients = [await anyio.connect_tcp("127.0.0.1", poor_server.port) for _ in range(60)]
    assert clients[0].extra(SocketAttribute.remote_port) == poor_server.port
    for client in clients:
        await client.aclose()
    await poor_server.assert_alive()
