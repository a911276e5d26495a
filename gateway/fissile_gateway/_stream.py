"""A topic as server-sent events.

The stream is pulled: the next event is read from the tap when the client has taken the one before, so that a slow client holds back
nothing but itself, and loses its position when the log has moved on. Then it is told (`event: reset`) and goes on from now.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from math import inf
from typing import Any, Self

import anyio
import msgspec
from quart.wrappers.response import ResponseBody

from fissile import Bus, Clock, Event, FissileError, PositionLost, Tap, Tapped, Topic
from fissile_gateway._exchange import Exchange
from fissile_gateway._present import presenter

RETRY_MS = 2000
"""After which time a browser connects again, in milliseconds."""

_ALIVE = b": alive\n\n"
_LAST_WORDS_S = 1.0
"""How long a client may take for what it is being sent when the process drains, in seconds."""

_logger = logging.getLogger("fissile.gateway")
_encode = msgspec.json.Encoder().encode


class EventStream(ResponseBody):
    """The body of an answer that has no end.

    Args:
        bus: Opens the tap.
        topic: What to read.
        key: Only events of this key.
        heartbeat_s: How often an idle stream says that it is alive, in seconds.
    """

    def __init__(self, bus: Bus, topic: Topic[Any], key: str | None, heartbeat_s: float) -> None:
        self._bus = bus
        self._topic = topic
        self._key = key
        self._heartbeat_s = heartbeat_s
        self._tap: Tap[Event]
        self._opened = AsyncExitStack()
        self._ahead = b""
        self._is_ending = False
        self._waiting = anyio.CancelScope()
        self._exchange: Exchange

    async def open(self, exchange: Exchange, after: str | None) -> None:
        """Open the tap; what closes it is left to the exchange.

        Args:
            exchange: The request that asks for it.
            after: The position to go on from; from now on unless told.

        Raises:
            Unavailable: The log cannot be reached.
        """
        self._exchange = exchange
        stack = exchange.become_stream()
        remove: Callable[[], None] = exchange.gateway.add_stream(self.end)
        stack.callback(remove)
        stack.push_async_callback(self._close)
        try:
            await self._open(after)
        except PositionLost as lost:
            await self._begin_anew(lost)
        else:
            # An id without data moves the client's position and is no event to it.
            self._ahead = b"retry: %d\nid: %s\n\n" % (RETRY_MS, self._tap.position.encode())
        if exchange.expires != inf and exchange.gateway.authenticator is not None:
            expiring = anyio.CancelScope()
            stack.callback(expiring.cancel)
            exchange.listeners.start_soon(self._end_at, exchange.gateway.authenticator.clock, expiring)
        if exchange.gateway.draining.is_set():
            self.end()

    async def _end_at(self, clock: Clock, scope: anyio.CancelScope) -> None:
        """End the stream when it is no longer known who reads it; the client asks anew, and says who it is."""
        with scope:
            await clock.sleep(max(0.0, self._exchange.expires - clock.now().timestamp()))
            self.end()

    def end(self) -> None:
        """End the stream now; the client may take what it is being sent."""
        self._is_ending = True
        self._waiting.cancel()
        self._exchange.scope.deadline = anyio.current_time() + _LAST_WORDS_S

    async def __aenter__(self) -> Self:
        """Return what gives the pieces of the body."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Do nothing: the exchange closes the tap, also where the body was never asked for."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        if self._is_ending:
            raise StopAsyncIteration
        try:
            with anyio.move_on_after(self._heartbeat_s) as self._waiting:
                return _frame(await anext(self._tap))
        except PositionLost as lost:
            await self._begin_anew(lost)
            return await self.__anext__()
        except FissileError as error:
            _logger.warning("a stream of %s ends: %s", self._topic.name, error)
            raise StopAsyncIteration from None
        if self._is_ending:
            raise StopAsyncIteration
        return _ALIVE

    async def _open(self, after: str | None) -> None:
        self._tap = await self._opened.enter_async_context(self._bus.tap(self._topic, after=after, key=self._key))

    async def _begin_anew(self, lost: PositionLost) -> None:
        await self._close()
        await self._open(None)
        data = _encode({"reason": str(lost)})
        self._ahead = b"retry: %d\nid: %s\nevent: reset\ndata: %s\n\n" % (RETRY_MS, self._tap.position.encode(), data)

    async def _close(self) -> None:
        opened, self._opened = self._opened, AsyncExitStack()
        await opened.aclose()


_presenters: dict[type[Event], Callable[[Any], bytes]] = {}


def _frame(tapped: Tapped[Event]) -> bytes:
    name = tapped.name.rpartition(".")[2]
    event = type(tapped.event)
    present = _presenters.get(event) or _presenters.setdefault(event, presenter(event))
    # JSON has no line ends outside of strings, and inside they are escaped: one line is all.
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (
        tapped.position.encode(),
        name.encode(),
        present(tapped.event),
    )
