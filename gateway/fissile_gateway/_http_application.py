"""The application as the server sees it: what it is told, what is done with its errors, its startup and shutdown."""

import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import anyio

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI 3 application; the types of scope, receive and send differ between the frameworks."""

DRAINING = "fissile.draining"
"""Name in ``scope["extensions"]`` of an `anyio.Event` that is set when the server drains.

An endless answer waits for it next to its own source and ends, instead of being cut off after ``drain_s``.
"""

GONE = "fissile.gone"
"""Name in ``scope["extensions"]`` of a function that takes another one, to be called when there is nothing more to be heard of the client.

An application that has read the whole request would need a task of its own to wait for that.
"""

Message = dict[str, Any]
"""One message between an ASGI server and its application."""

_MAILBOX_MESSAGES = 8  # of at most one read each, that is 512 KiB that an application has not asked for yet
_LIFESPAN_SHUTDOWN_S = 10.0

_logger = logging.getLogger("fissile.gateway.server")


class ClientGone(ConnectionError):
    """Raised in an application that sends to a client which is no longer there."""


class Mailbox:
    """What the server tells one call of the application.

    Its end never waits: Hypercorn's queue does when it is full, so that a body which nobody reads keeps its connection.
    """

    __slots__ = ("_arrived", "_last", "_messages", "_on_close", "_room")

    def __init__(self) -> None:
        self._messages: list[Message] = []  # an empty deque takes 600 bytes, and most are empty most of the time
        self._on_close: Callable[[], None] | None = None
        self._last: Message | None = None
        self._arrived: anyio.Event | None = None
        self._room: anyio.Event | None = None

    async def put(self, message: Message) -> None:
        """Add a message; waits while there are too many."""
        if self._last is not None:
            return
        if message["type"] in {"http.disconnect", "websocket.disconnect"}:
            self.close(message)
            return
        self._messages.append(message)
        if self._arrived is not None:
            self._arrived.set()
        while len(self._messages) > _MAILBOX_MESSAGES and self._last is None:
            self._room = anyio.Event()
            await self._room.wait()

    def close(self, last: Message) -> None:
        """Add the message after which nothing comes."""
        if self._last is None:
            self._last = last
            if self._on_close is not None:
                self._on_close()
            for waiting in (self._arrived, self._room):
                if waiting is not None:
                    waiting.set()

    def when_closed(self, function: Callable[[], None]) -> None:
        """Have a function called when there is the last message; at once if it is there. It must not raise."""
        self._on_close = function
        if self._last is not None:
            function()

    async def receive(self) -> Message:
        """Take the next message; the last one again and again."""
        while not self._messages:
            if self._last is not None:
                return self._last
            if self._arrived is None:
                self._arrived = anyio.Event()
            await self._arrived.wait()
            self._arrived = None
        if self._room is not None:
            self._room.set()
        return self._messages.pop(0)


class Lifespan:
    """The application's startup and shutdown (ASGI lifespan); an application may do without."""

    def __init__(self, app: ASGIApp, state: dict[str, Any]) -> None:
        self.failure: str | None = None
        self._app = app
        self._state = state
        self._mailbox = Mailbox()
        self._started = anyio.Event()
        self._stopped = anyio.Event()

    async def run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            with contained("the application's lifespan", logging.DEBUG):
                await self._app(scope, self._mailbox.receive, self._send)
        finally:
            self._started.set()
            self._stopped.set()

    async def startup(self) -> None:
        await self._mailbox.put({"type": "lifespan.startup"})
        await self._started.wait()

    async def shutdown(self) -> None:
        await self._mailbox.put({"type": "lifespan.shutdown"})
        with anyio.move_on_after(_LIFESPAN_SHUTDOWN_S) as deadline:
            await self._stopped.wait()
        if deadline.cancelled_caught:
            _logger.warning("the application's shutdown did not end within %s s", _LIFESPAN_SHUTDOWN_S)

    async def _send(self, message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            self.failure = str(message.get("message", ""))
        elif message["type"] == "lifespan.shutdown.failed":
            _logger.error("the application's shutdown failed: %s", message.get("message", ""))
        if message["type"].startswith("lifespan.startup."):
            self._started.set()
        else:
            self._stopped.set()


@contextmanager
def contained(what: str, level: int = logging.ERROR) -> Generator[None]:
    """Log errors instead of raising them; cancellation and the like still go out."""
    try:
        yield
    except Exception as error:
        if not _client_gone(error):
            _logger.log(level, "%s failed", what, exc_info=True)
    except BaseExceptionGroup as group:
        errors, others = group.split(Exception)
        if errors is not None and not _client_gone(errors):
            _logger.log(level, "%s failed", what, exc_info=errors)
        if others is not None:
            raise others from None


def _client_gone(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        members = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return all(_client_gone(member) for member in members)
    # By name: Quart from 0.23 raises ClientDisconnectedError in its place, Starlette ClientDisconnect.
    return isinstance(error, ClientGone) or type(error).__name__.startswith("ClientDisconnect")
