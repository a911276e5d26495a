"""Nothing that one client sends ends the process."""

import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import Process, SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.text import TextReceiveStream

from .conftest import PATIENCE_S, Client, reset

WEBSOCKET = (
    b"GET %s HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
H2C = (
    b"GET / HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: %s\r\n\r\n"
)


class Victim:
    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port

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
        assert self.process.returncode is None
        async with self.connect() as client:
            answer = await client.get("/")
            assert (answer.status, answer.body) == (200, b"alive")
        assert self.process.returncode is None


@asynccontextmanager
async def victim(anyio_backend: Any, *arguments: str) -> AsyncIterator[Victim]:
    """Run a server; in the end it must drain, exit with 0 and have said nothing."""
    backend, options = anyio_backend
    command = [sys.executable, "-W", "error", str(Path(__file__).with_name("victim.py"))]
    command += [backend, str(options.get("use_uvloop", False)), *arguments]
    async with await anyio.open_process(command) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with anyio.fail_after(PATIENCE_S):
                port = int(await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 20))
            server = Victim(process, port)
            yield server
            await server.assert_alive()
            process.send_signal(signal.SIGTERM)
            with anyio.fail_after(PATIENCE_S):
                said = "".join([text async for text in TextReceiveStream(process.stderr)])
                await process.wait()
            assert process.returncode == 0
            if not arguments:
                assert said == "", said
        finally:
            if process.returncode is None:
                process.kill()


async def test_stray_bytes_after_a_websocket_upgrade(anyio_backend: Any) -> None:
    async with victim(anyio_backend) as server:
        for path in (b"/echo", b"/missing", b"/"):
            for stray in (b"x", bytes(20), b"GET / HTTP/1.1\r\n\r\n"):
                for writes in ([WEBSOCKET % path + stray], [WEBSOCKET % path, stray, stray]):
                    await server.probe(*writes)
            await server.assert_alive()


async def test_an_upgrade_to_h2c_with_any_settings(anyio_backend: Any) -> None:
    async with victim(anyio_backend) as server:
        for settings in (b"AAMAAABkAAQAAP__", b"AAMAAABkAAQ", b"A", b"", b"????", b"AAMA" * 1000):
            await server.probe(H2C % settings)
            await server.probe(H2C % settings + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
            await server.assert_alive()


async def test_the_http_2_preface_and_frames(anyio_backend: Any) -> None:
    async with victim(anyio_backend) as server:
        await server.probe(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x06\x04\x00\x00\x00\x00\x00" + b"\xff" * 64)
        await server.assert_alive()


async def test_broken_websocket_frames(anyio_backend: Any) -> None:
    frames = [b"\xff" * 14, b"\x81\xff" + b"\xff" * 12, b"\x88\x81\x00\x00\x00\x00x", b"\x8f\x80\x00\x00\x00\x00"]
    frames += [b"\x81\x84\x00\x00\x00\x00\xff\xff\xff\xff", b"\xc1\x83\x00\x00\x00\x00abc", b"\x80\x80\x00\x00\x00\x00"]
    async with victim(anyio_backend) as server:
        for frame in frames:
            async with server.connect() as client:
                await client.send(WEBSOCKET % b"/echo")
                assert (await client.answer()).status == 101
                await client.send(frame)
                with anyio.move_on_after(0.05):
                    await client.closed()
        await server.assert_alive()


async def test_random_bytes_and_broken_copies_of_good_requests(anyio_backend: Any) -> None:
    choice = random.Random(20)
    good = [WEBSOCKET % b"/echo" + b"\x81\x82\x00\x00\x00\x00hi", H2C % b"AAMAAABkAAQAAP__"]
    good += [b"POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
    async with victim(anyio_backend) as server, anyio.create_task_group() as tasks:
        for _ in range(100):
            data = bytearray(choice.choice(good))
            for _ in range(choice.randrange(1, 4)):
                data[choice.randrange(len(data))] = choice.randrange(256)
            cut = choice.randrange(len(data))
            tasks.start_soon(server.probe, bytes(data[:cut]), bytes(data[cut:]))
            tasks.start_soon(server.probe, choice.randbytes(choice.randrange(1, 200)))


async def test_resets_in_every_phase(anyio_backend: Any) -> None:
    phases = [b"", b"GET", b"GET / HTTP/1.1\r\nHost: t\r\n\r\n", b"GET / HTTP/1.1\r\nHost: t\r\n\r\n" * 100]
    phases += [b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nabc", WEBSOCKET % b"/echo"]
    async with victim(anyio_backend) as server:
        for phase in phases * 5:
            async with server.connect() as client:
                if phase:
                    await client.send(phase)
                reset(client)
        await server.assert_alive()


async def test_a_lack_of_descriptors_passes(anyio_backend: Any) -> None:
    async with victim(anyio_backend, "40") as server:
        clients = [await anyio.connect_tcp("127.0.0.1", server.port) for _ in range(60)]
        assert clients[0].extra(SocketAttribute.remote_port) == server.port
        for client in clients:
            await client.aclose()
        await server.assert_alive()
