"""A topic as server-sent events, to one client.

Events come from the broadcast of the topic into a queue, and from there to the client as it takes them. The queue is bounded: a client that
is too slow holds nobody back, loses the oldest events, and is told how many (`event: lost`). A client that comes back with the id of the event
it had last gets what it has missed, from a tap of its own where that is long ago; what the log no longer has, nobody can count (`event: reset`).

The route of an application may want more (`Wish`): all that is kept first, from a replay of its own, and an end (`event: end`), after some
event or after what is kept. The id of the last event says that it was the last.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Literal, Self

import anyio
import msgspec
from quart import Response
from quart.wrappers.response import ResponseBody

from fissile import Bus, Event, FissileError, PositionLost, Tap, Topic
from fissile._parking import Parked, parking
from fissile_gateway._auth import Authenticator
from fissile_gateway._auth_again import until_over
from fissile_gateway._broadcast import Broadcast, Broadcasts, Frame
from fissile_gateway._event_ids import is_last, last_of, place_of, position_in
from fissile_gateway._exchange import Exchange
from fissile_gateway._problems import ProblemError
from fissile_gateway._settings import GatewaySettings

RETRY_MS = 2000
"""After which time a browser connects again, in milliseconds."""

STREAM = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store", "x-accel-buffering": "no"}
"""The fields of an answer that is a stream."""

_ALIVE = b": alive\n\n"
_BEGIN = b"retry: %d\n\n" % RETRY_MS
_PIECE_BYTES = 16 * 1024
"""How much is written at a time. It is copied, for each client: ten thousand that do not read hold no more than that besides what they share."""
_LAST_WORDS_S = 1.0
"""How long a client may take for what it is being sent when the process drains, in seconds."""
_LOOK_S = 0.05
"""How often a stream that has nothing left to catch up with looks whether it may join the others, in seconds."""
_CATCHING_UP = 32
"""How many streams may have a tap of their own at once; thousands of clients that come back after a restart would open as many consumers."""

_logger = logging.getLogger("fissile.gateway")
_encode = msgspec.json.Encoder().encode


class Streams:
    """What the event streams of a gateway share.

    Args:
        bus: Opens taps.
        settings: The bounds.
    """

    def __init__(self, bus: Bus, settings: GatewaySettings) -> None:
        self.bus = bus
        self.settings = settings
        self.broadcasts = Broadcasts(bus, settings)
        self.park = parking()
        self.catching_up = anyio.Semaphore(_CATCHING_UP)


class Wish(msgspec.Struct, frozen=True):
    """What a stream is to give.

    Attributes:
        key: Only events of this key.
        start: Where a client that has had nothing yet begins: at the earliest event kept, or now.
        until: Tells of an event whether it is the last one.
        follows: Whether the stream goes on when all that is kept has been given.
    """

    key: str | None = None
    start: Literal["earliest", "latest"] = "latest"
    until: Callable[[Any], bool] | None = None  # Any: an event of the topic
    follows: bool = True


async def open_stream(
    streams: Streams, exchange: Exchange, topic: Topic[Any], wish: Wish, method: str, after: str | None
) -> Response:
    """Answer a request with a stream.

    Args:
        streams: What it shares with the others.
        exchange: The request.
        topic: What to read.
        wish: What of it.
        method: The method of the request; HEAD gets the head only.
        after: The id of the event that the client had last.

    Raises:
        ProblemError: Too many streams are open, of all or of this client.
        Unavailable: The log cannot be reached.
    """
    if after is not None and is_last(after) and (wish.until is not None or not wish.follows):
        return Response(b"", 204, {"cache-control": "no-store"})  # and a browser connects no more
    problem = exchange.gateway.refuse_stream(exchange)
    if problem is not None:
        raise ProblemError(problem)
    if method == "HEAD":
        return Response(b"", 200, STREAM)
    stream = EventStream(streams, topic, wish)
    await stream.open(exchange, after)
    return Response(stream, 200, STREAM)


class EventStream(ResponseBody):
    """The body of an answer that has no end, unless one is wished for.

    Args:
        streams: What it shares with the others.
        topic: What to read.
        wish: What of it.
    """

    __slots__ = (
        "_ahead",
        "_arrived",
        "_bytes",
        "_exchange",
        "_expiring",
        "_is_at_start",
        "_is_ending",
        "_key",
        "_last_id",
        "_lost",
        "_own",
        "_own_tap",
        "_queue",
        "_seen",
        "_source",
        "_streams",
        "_topic",
        "_wish",
    )

    def __init__(self, streams: Streams, topic: Topic[Any], wish: Wish) -> None:
        self._streams = streams
        self._topic = topic
        self._wish = wish
        self._key = wish.key
        self._source: Broadcast
        self._exchange: Exchange
        self._expiring: anyio.CancelScope | None = None
        self._queue: deque[Frame] | None = None  # an empty one takes 600 bytes, and most are empty most of the time
        self._bytes = 0
        self._lost = 0
        self._last_id = ""
        self._ahead = b""
        self._arrived: Parked | None = None
        self._is_ending = False
        self._is_at_start = False
        self._seen: dict[int, int] | None = None
        self._own: AsyncExitStack | None = None
        self._own_tap: Tap[Event] | None = None

    async def open(self, exchange: Exchange, after: str | None) -> None:
        """Find out where to begin; what closes the stream is left to the exchange.

        Args:
            exchange: The request that asks for it.
            after: The id of the event to go on after; where a client begins that has had nothing, unless told.

        Raises:
            Unavailable: The log cannot be reached.
        """
        self._exchange = exchange
        gateway = exchange.gateway
        exchange.become_stream(self._close)
        is_shared = gateway.listeners is not None
        self._source = self._streams.broadcasts.of(self._topic, exchange.listeners.start_soon, is_shared=is_shared)
        gateway.add_stream(self, exchange)
        await self._source.opened()
        self._last_id = self._source.event_id
        if after is not None:
            self._go_on(after)
        else:
            self._begin()
        if self._is_at_start:
            self._ahead = self._ahead or _BEGIN  # without an id: a client that has had nothing is to begin anew
        elif not self._ahead:
            # An id without data moves the client's position and is no event to it.
            self._ahead = b"retry: %d\nid: %s\n\n" % (RETRY_MS, self._last_id.encode())
        if exchange.credentials is not None and gateway.authenticator is not None:
            self._expiring = anyio.CancelScope()
            exchange.listeners.start_soon(self._end_with_credential, gateway.authenticator, self._expiring)
        if gateway.draining.is_set():
            self.end()

    async def _end_with_credential(self, authenticator: Authenticator, scope: anyio.CancelScope) -> None:
        """End the stream when it is no longer known who reads it; the client asks anew, and says who it is."""
        with scope:
            await until_over(authenticator, self._exchange)
            self.end()

    def _go_on(self, after: str) -> None:
        """Find what comes after an event that the client had."""
        source = self._source
        offsets = position_in(after, source.mark)
        if (
            offsets is None
            or not set(offsets) <= set(source.offsets)
            or (self._key is None and len(offsets) != len(source.offsets))
        ):
            self._lose(f"{after[:100]!r} is no position of {self._topic.name} in this log.")
            return
        self._last_id = source.make_id(offsets)
        if not (self._wish.follows and self._join_after(offsets)):
            self._own = AsyncExitStack()  # the tap is opened when the client has its head, and there is room

    def _begin(self) -> None:
        """Begin where a client begins that has had nothing."""
        if self._wish.start == "earliest":
            self._is_at_start = True
            self._own = AsyncExitStack()
        else:
            self._join()

    def _join(self) -> None:
        self._source.join(self, self._key)

    def _join_after(self, offsets: Mapping[int, int]) -> bool:
        """Join the others with what has come after a position; return False where that is not at hand."""
        missed = self._source.since(offsets, self._key)
        if missed is None:
            return False
        self._join()
        for frame in missed:
            self.deliver(frame)
        return True

    def _lose(self, reason: str) -> None:
        """Begin anew, and tell the client so."""
        self.reset(reason, self._source.event_id)
        if not self._is_at_start:
            self._join()

    # --- what the broadcast says ---------------------------------------------------------------------------------------

    def deliver(self, frame: Frame) -> None:
        """Take an event; the oldest ones that are still here make room for it."""
        if self._seen is not None and frame.offset < self._seen.get(frame.partition, 0):
            return  # it came through the stream's own tap
        if self._wish.until is not None:
            if self._is_ending:
                return
            frame = self._looked_at(frame, self._wish.until)
        queue = self._queue
        if queue is None:
            queue = self._queue = deque()
        queue.append(frame)
        self._bytes += len(frame.data)
        settings = self._streams.settings
        while len(queue) > settings.stream_queue_events or (
            self._bytes > settings.stream_queue_bytes and len(queue) > 1
        ):
            self._bytes -= len(queue.popleft().data)
            self._lost += 1
        self._wake()

    def beat(self) -> None:
        """Say that the stream is alive, unless something is on its way."""
        if self._arrived is not None and not self._ahead:
            self._ahead = _ALIVE
            self._wake()

    def reset(self, reason: str, event_id: str) -> None:
        """Tell the client that events are lost, of which nobody knows how many."""
        if self._is_ending:
            return  # what it is still to have is at hand
        data = _encode({"reason": reason})
        self._queue = None
        self._bytes = self._lost = 0
        self._last_id = event_id
        if self._wish.start == "earliest":
            # Not from now on: it might wait for an event that has come already. And it forgets which one it had last.
            self._source.part(self, self._key)
            self._seen, event_id = None, ""
            self._begin()
        self._ahead = b"retry: %d\nid: %s\nevent: reset\ndata: %s\n\n" % (RETRY_MS, event_id.encode(), data)
        self._wake()

    def fail(self) -> None:
        """End the stream: there will be no more events."""
        self._is_ending = True
        self._wake()

    def end(self) -> None:
        """End the stream now; the client may take what it is being sent."""
        self.fail()
        self._exchange.scope.deadline = anyio.current_time() + _LAST_WORDS_S

    def _looked_at(self, frame: Frame, until: Callable[[Any], bool]) -> Frame:  # Any: an event of the topic
        """Return the frame of an event; if it is the last one, with what ends the stream behind it."""
        try:
            if not until(frame.event):
                return frame
        except Exception:
            _logger.exception(
                "a stream of %s ends: its route cannot tell whether an event is the last one", self._topic.name
            )
            self._is_ending = True
            return frame
        self._is_ending = True
        event_id = last_of(frame.id)
        data = frame.data.replace(frame.id.encode(), event_id.encode(), 1) + _end(event_id)
        return msgspec.structs.replace(frame, id=event_id, data=data)

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set(None)

    # --- the body ------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Return what gives the pieces of the body."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Do nothing: the exchange closes the stream, also where the body was never asked for."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while True:
            if piece := self._take():
                return piece
            if self._is_ending:
                raise StopAsyncIteration
            if self._own is not None:
                try:
                    self._ahead = await self._catch_up(self._own)
                except FissileError as error:
                    _logger.warning("a stream of %s ends: %s", self._topic.name, error)
                    raise StopAsyncIteration from None
                continue
            self._arrived = self._streams.park()
            await self._arrived.wait()
            self._arrived = None

    def _take(self) -> bytes:
        """Take what is there for the client, up to some size."""
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        queue = self._queue
        if not queue:
            return b""
        pieces: list[bytes] = []
        size = 0
        if self._lost:
            lost, self._lost = self._lost, 0
            # Without an id: the client's position stays before what is lost until the next event moves it.
            pieces.append(b"event: lost\ndata: %s\n\n" % _encode({"count": lost, "after": self._last_id}))
        while queue and (not size or size + len(queue[0].data) <= _PIECE_BYTES):
            frame = queue.popleft()
            size += len(frame.data)
            self._last_id = frame.id
            pieces.append(frame.data)
        self._bytes -= size
        if not queue:
            self._queue = None
        return b"".join(pieces)

    async def _catch_up(self, own: AsyncExitStack) -> bytes:
        """Return the next event that the client has missed, or nothing when it has them all and has joined the others."""
        until = anyio.current_time() + self._streams.settings.heartbeat_s
        try:
            if self._own_tap is None and not await self._open_own(own, until):
                return _ALIVE
            assert self._own_tap is not None
            while not self._is_ending:
                if not self._is_at_start and self._wish.follows and self._source.is_reached(self._own_tap.offsets):
                    self._seen = dict(self._own_tap.offsets)
                    self._join()
                    await self._close_own()
                    return b""
                with anyio.move_on_after(_LOOK_S):
                    tapped = await anext(self._own_tap)
                    frame = self._source.frame(tapped, {**self._source.offsets, **self._own_tap.offsets})
                    if self._wish.until is not None:
                        frame = self._looked_at(frame, self._wish.until)
                    self._last_id = frame.id
                    return frame.data
                if anyio.current_time() >= until:
                    return _ALIVE
        except StopAsyncIteration:
            return await self._after_what_is_kept()
        except PositionLost as lost:
            await self._close_own()
            self._lose(str(lost))
            return self._ahead
        return b""

    async def _after_what_is_kept(self) -> bytes:
        """Go on when a replay has ended, or end."""
        assert self._own_tap is not None
        offsets = dict(self._own_tap.offsets)
        self._last_id = self._source.make_id({**self._source.offsets, **offsets})
        self._is_at_start = False
        if not self._wish.follows:
            self._is_ending = True
            return _end(last_of(self._last_id))
        has_joined = self._join_after(offsets)
        await self._close_own()
        if not has_joined:
            self._own = AsyncExitStack()  # a tap gives what has come since
        return b""

    async def _open_own(self, own: AsyncExitStack, until: float) -> bool:
        """Open what goes on after what the client had last; return False where there is no room for it yet."""
        with anyio.move_on_after(until - anyio.current_time()) as waiting:
            await self._streams.catching_up.acquire()
        if waiting.cancelled_caught:
            return False
        own.callback(self._streams.catching_up.release)
        bus, after = self._streams.bus, None if self._is_at_start else place_of(self._last_id)
        opening: AbstractAsyncContextManager[Tap[Event]] = (
            bus.replay(self._topic, after=after, key=self._key)
            if self._is_at_start or not self._wish.follows
            else bus.tap(self._topic, after=after, key=self._key)
        )
        self._own_tap = await own.enter_async_context(opening)
        return True

    async def _close_own(self) -> None:
        own, self._own, self._own_tap = self._own, None, None
        if own is not None:
            await own.aclose()

    async def _close(self) -> None:
        self._exchange.gateway.remove_stream(self)
        if self._expiring is not None:
            self._expiring.cancel()
        self._source.leave(self, self._key)
        await self._close_own()


def _end(event_id: str) -> bytes:
    return b"id: %s\nevent: end\ndata: {}\n\n" % event_id.encode()
