"""A client's socket, on any event loop."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import anyio

_READ_BYTES = 64 * 1024
_LINGER_S = 1.0


class Duplex(Protocol):
    """A client's connection, secure or not."""

    def addresses(self) -> tuple[Any, Any]:
        """Return the client's and the server's address; none if the client is gone already."""
        ...

    async def receive(self) -> bytes:
        """Wait for bytes; none is the end."""
        ...

    def send(self, data: bytes | memoryview) -> int:
        """Send what is taken at once, and return how many bytes that were; the rest is to be sent next."""
        ...

    async def wait_writable(self) -> None:
        """Wait until `send` takes something."""

    def send_eof(self) -> None:
        """Close the sending side."""

    def forget_unsent(self) -> None:
        """Make closing a reset: what the operating system holds for the client is thrown away."""

    def close(self) -> None:
        """Close the connection."""


class Stream:
    """A connected socket, on any event loop.

    AnyIO's socket streams would do, at a price: on uvloop each of their writes waits for the loop's next round, a fifth
    of a small request. Nothing is buffered here, so that a deadline on writing is one on what the client took.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._reader = _asyncio_reader(sock)

    def divert(self, takes: Callable[[bytes], bool]) -> bool:
        """Offer bytes to a function as they come, before they wake whoever waits for them; return False where that cannot be done.

        Args:
            takes: Returns True for what it has dealt with.
        """
        if self._reader is None:
            return False
        self._reader.takes = takes
        return True

    def addresses(self) -> tuple[Any, Any]:
        """Return the client's and the server's address; none if the client is gone already."""
        try:
            return self._sock.getpeername()[:2], self._sock.getsockname()[:2]
        except OSError:
            return None, None

    async def receive(self) -> bytes:
        """Wait for bytes; none is the end, whether the client closed or reset the connection."""
        if self._reader is not None:
            return await self._reader.receive()
        while True:
            await anyio.wait_readable(self._sock)
            try:
                return self._sock.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    def send(self, data: bytes | memoryview) -> int:
        """Send what the operating system takes at once, and return how many bytes that were."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    async def wait_writable(self) -> None:
        """Wait until `send` takes something."""
        await anyio.wait_writable(self._sock)

    def send_eof(self) -> None:
        """Close the sending side."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def forget_unsent(self) -> None:
        """Make closing a reset: what the operating system holds for the client is thrown away."""
        with suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        """Close the socket; whoever waits for it gets `anyio.ClosedResourceError`."""
        if self._sock.fileno() >= 0:
            if self._reader is not None:
                self._reader.close()
            anyio.notify_closing(self._sock)
            self._sock.close()


async def linger(stream: Duplex) -> None:
    """Read on for a while: closing with unread bytes sends a reset, which can overtake the answer."""
    with anyio.move_on_after(_LINGER_S):
        stream.send_eof()
        while await stream.receive():
            pass


class _AsyncioReader:
    """Reads a socket on asyncio and uvloop that stays registered with the event loop between two reads.

    `anyio.wait_readable` registers it anew each time, which costs two system calls and a tenth of a small request.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[bytes] | None = None
        self._unread: list[bytes] = []
        self._registered = False
        self.takes: Callable[[bytes], bool] | None = None

    async def receive(self) -> bytes:
        """Wait for bytes; none is the end, whether the client closed or reset the connection."""
        if self._unread:
            return self._unread.pop(0)
        if not self._registered:
            self._loop.add_reader(self._sock.fileno(), self._readable)
            self._registered = True
        waiting: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting = waiting
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled():
                self._unread.insert(0, waiting.result())
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        """Let go of the socket, before it is closed."""
        if self._registered:
            self._registered = False
            self._loop.remove_reader(self._sock.fileno())

    def _readable(self) -> None:
        if self._waiting is None or self._waiting.done():
            self.close()  # what comes now waits in the operating system, which slows the client down
            return
        data = self._receive_nowait()
        if self.takes is not None:
            while data and self.takes(data):
                data = self._receive_nowait()
        if data:
            # libuv reports an error once, maybe together with data, and watches no longer: look for what is behind.
            behind = self._receive_nowait()
            if behind:
                data += behind
                self.close()
            elif behind is not None:
                self._unread.append(behind)
        if data is not None:
            self._waiting.set_result(data)

    def _receive_nowait(self) -> bytes | None:
        try:
            return self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""


def _asyncio_reader(sock: socket.socket) -> _AsyncioReader | None:
    """Make a reader if this is a task of asyncio."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    return None if task is None else _AsyncioReader(sock)
