"""Reading a socket on asyncio and uvloop."""

import asyncio
import socket

READ_BYTES = 64 * 1024


class Reader:
    """Reads a socket that stays registered with the event loop between two reads.

    `anyio.wait_readable` registers it anew each time, which costs two system calls and a tenth of a small request.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[bytes] | None = None
        self._unread: list[bytes] = []
        self._registered = False

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
            return self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""


def asyncio_reader(sock: socket.socket) -> Reader | None:
    """Make a reader if this is a task of asyncio."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return None
    return None if task is None else Reader(sock)
