"""The body of one HTTP/2 request, on its way to the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from fissile_gateway._http_application import Message

_FULL_BYTES = 48 * 1024
"""With so much unread, the client has no room for another frame in the window of 64 KiB."""


class BodyMailbox:
    """What the server tells one call of the application, over HTTP/2.

    It never makes its end wait: what is unread is bounded by the client's window, which grows as the application takes the body.

    Attributes:
        unread: How many bytes the application has not taken.

    Args:
        taken: Is told how many bytes the application has taken.
    """

    __slots__ = ("_arrived", "_closed", "_complete", "_data", "_is_whole_taken", "_on_close", "_taken")

    def __init__(self, taken: Callable[[int], Awaitable[None]]) -> None:
        self._taken = taken
        self._data = bytearray()
        self._complete = False
        self._is_whole_taken = False
        self._closed = False
        self._on_close: Callable[[], None] | None = None
        self._arrived = anyio.Event()

    @property
    def unread(self) -> int:
        """How many bytes the application has not taken."""
        return len(self._data)

    @property
    def is_full(self) -> bool:
        """Whether the client has to wait for the application."""
        return len(self._data) >= _FULL_BYTES

    def add(self, data: bytes) -> None:
        """Add a piece of the body."""
        if not self._closed:
            self._data += data
            self._arrived.set()

    def complete(self) -> None:
        """Note that all of the body is there."""
        self._complete = True
        self._arrived.set()

    def close(self) -> int:
        """Note that nothing more comes; return how many bytes were never taken."""
        self._closed = True
        self._arrived.set()
        if self._on_close is not None:
            on_close, self._on_close = self._on_close, None
            on_close()
        unread = len(self._data)
        self._data.clear()
        return unread

    def when_closed(self, function: Callable[[], None]) -> None:
        """Have a function called when nothing more comes; at once if that is so. It must not raise."""
        if self._closed:
            function()
        else:
            self._on_close = function

    async def put(self, message: Message) -> None:
        """Take a message of Hypercorn's stream: that the client has gone is the only one that comes this way."""
        if message["type"] == "http.disconnect":
            self.close()

    async def receive(self) -> Message:
        """Take the next message; that the client is gone again and again."""
        while not self._closed:
            if self._data or (self._complete and not self._is_whole_taken):
                body = bytes(self._data)
                self._data.clear()
                self._is_whole_taken = self._complete
                if body:
                    await self._taken(len(body))
                return {"type": "http.request", "body": body, "more_body": not self._is_whole_taken}
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return {"type": "http.disconnect"}
