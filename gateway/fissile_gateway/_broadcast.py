"""One tap per topic and gateway process, whose events go to all streams of the topic.

So ten thousand clients cost the log what one costs. A stream that is behind, since its client was away, first reads what it has missed: out
of the latest events, which are kept here, or through a tap of its own until it has come to where this one is (`_stream.py`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from fissile import Bus, Event, FissileError, PositionLost, Tap, Tapped, Topic
from fissile_gateway._event_ids import mark_of
from fissile_gateway._present import presenter
from fissile_gateway._settings import GatewaySettings

_SLICE = 16
"""How many streams are told of an event before others get a turn: each writes to a socket then, and a plain request must not wait for all."""
_BEAT_S = 0.1
_BEATS = 64
_LINGER_S = 30.0
"""How long the tap stays open after its last stream, in seconds: clients come back soon, and find what they have missed."""

_logger = logging.getLogger("fissile.gateway")


class Frame(msgspec.Struct, frozen=True, gc=False):
    """An event as it is sent, the same bytes to all streams.

    Attributes:
        id: Its id, which is the position after it.
        data: The event.
        key: Its key.
        partition: Where it is in the log.
        offset: Its place in there.
        event: The event itself, for streams that end with one.
    """

    id: str
    data: bytes
    key: str
    partition: int
    offset: int
    event: Event


class Listener(Protocol):
    """A stream, as the broadcast knows it."""

    def deliver(self, frame: Frame) -> None:
        """Take an event; never waits."""

    def beat(self) -> None:
        """Say that the stream is alive, unless something is on its way."""

    def reset(self, reason: str, event_id: str) -> None:
        """Take note that events are lost, of which nobody knows how many, and that what follows begins at an id."""

    def fail(self) -> None:
        """End the stream: there will be no more events."""


class Broadcast:
    """The events of one topic, for all streams of a process.

    Attributes:
        mark: What the ids of its events begin with.
        offsets: The next offset of each partition; whoever joins gets what comes from there on.
        error: Why it cannot be opened, or has ended.

    Args:
        bus: Opens the tap.
        topic: The topic.
        settings: How often streams say that they are alive, and how many of the latest events are kept.
        is_shared: Whether it waits some time for more streams when the last one has gone.
    """

    def __init__(self, bus: Bus, topic: Topic[Any], settings: GatewaySettings, *, is_shared: bool) -> None:
        self.mark = ""
        self.offsets: Mapping[int, int] = {}
        self.error: FissileError | None = None
        self._bus = bus
        self._topic = topic
        self._is_shared = is_shared
        self._limits = settings.stream_queue_events, settings.stream_queue_bytes
        beats = max(1, min(_BEATS, int(settings.heartbeat_s / _BEAT_S)))
        self._beat_s = settings.heartbeat_s / beats
        self._beats: list[dict[Listener, None]] = [{} for _ in range(beats)]
        self._last_beat = beats - 1
        self._opened = anyio.Event()
        self._scope = anyio.CancelScope()
        self._of_all: dict[Listener, None] = {}
        self._of_key: dict[str, dict[Listener, None]] = {}
        self._claims = 0
        self._changed = anyio.Event()
        self._latest: deque[Frame] = deque()
        self._latest_bytes = 0
        self._kept_from: dict[int, int] = {}

    @property
    def event_id(self) -> str:
        """The id of the position where it is."""
        return self.make_id(self.offsets)

    def make_id(self, offsets: Mapping[int, int]) -> str:
        """Return the id of a position in the topic."""
        return f"{self.mark}-" + ".".join(f"{number}:{offset}" for number, offset in sorted(offsets.items()))

    # --- its streams -------------------------------------------------------------------------------------------------

    async def opened(self) -> None:
        """Wait until it has a position.

        Raises:
            FissileError: The log cannot be read.
        """
        await self._opened.wait()
        if self.error is not None:
            raise self.error

    def claim(self) -> None:
        """Keep it running for a stream that is about to join, or has joined."""
        self._claims += 1
        self._change()

    def join(self, stream: Listener, key: str | None) -> None:
        """Send a stream what comes from here on.

        Args:
            stream: The stream.
            key: Only events of this key.
        """
        streams = self._of_all if key is None else self._of_key.setdefault(key, {})
        streams[stream] = None
        self._beats[self._last_beat][stream] = None  # its turn comes last: it has just been sent something
        if self.error is not None:
            stream.fail()

    def leave(self, stream: Listener, key: str | None) -> None:
        """Let go of a stream that has claimed it, whether or not it has joined."""
        self.part(stream, key)
        self._claims -= 1
        self._change()

    def part(self, stream: Listener, key: str | None) -> None:
        """Send a stream nothing more for now; it may join again."""
        if key is None:
            self._of_all.pop(stream, None)
        elif key in self._of_key:
            self._of_key[key].pop(stream, None)
            if not self._of_key[key]:
                del self._of_key[key]
        for beat in self._beats:
            beat.pop(stream, None)

    def since(self, offsets: Mapping[int, int], key: str | None) -> list[Frame] | None:
        """Return the events after a position that are among the latest ones, or None where some are not."""
        if any(
            not self._kept_from.get(number, -1) <= offset <= self.offsets[number]
            for number, offset in offsets.items()
            if number in self.offsets
        ):
            return None
        return [
            frame
            for frame in self._latest
            if frame.offset >= offsets.get(frame.partition, frame.offset + 1) and key in (None, frame.key)
        ]

    def is_reached(self, offsets: Mapping[int, int]) -> bool:
        """Tell whether a tap has read as far as this one has, in the partitions that it reads."""
        return all(offset >= self.offsets[number] for number, offset in offsets.items())

    def frame(self, tapped: Tapped[Event], offsets: Mapping[int, int]) -> Frame:
        """Make the frame of an event that a tap has read, and is at a position now."""
        event_id = self.make_id(offsets)
        name = tapped.name.rpartition(".")[2]
        event = type(tapped.event)
        present = _presenters.get(event) or _presenters.setdefault(event, presenter(event))
        # JSON has no line ends outside of strings, and inside they are escaped: one line is all.
        data = b"id: %s\nevent: %s\ndata: %s\n\n" % (event_id.encode(), name.encode(), present(tapped.event))
        return Frame(event_id, data, tapped.key, tapped.partition, tapped.offset, tapped.event)

    # --- its life ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read and deliver until there are no more streams, or the log cannot be read any more. Raises nothing."""
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._end_without_streams)
                    tasks.start_soon(self._keep_alive)
                    await self._read()
        except* FissileError as errors:
            self.error = _first(errors)
            _logger.warning("streams of %s end: %s", self._topic.name, self.error)
        except* Exception as errors:  # it runs among the listeners of all requests
            self.error = FissileError(f"{self._topic.name} could not be read; the log tells why.")
            _logger.exception("streams of %s end", self._topic.name, exc_info=errors)
        finally:
            self.error = self.error or FissileError(f"The streams of {self._topic.name} have ended.")
            self._opened.set()
            for stream in self._listeners():
                stream.fail()

    async def _read(self) -> None:
        reason: str | None = None
        while True:
            try:
                async with self._bus.tap(self._topic) as tap:
                    self._begin(tap, reason)
                    async for tapped in tap:
                        await self._deliver(self.frame(tapped, tap.offsets))
            except PositionLost as lost:
                reason = str(lost)

    def _begin(self, tap: Tap[Any], reason: str | None) -> None:
        self.mark = mark_of(self._topic.name, tap.log)
        self.offsets = tap.offsets
        self._kept_from = dict(tap.offsets)
        self._latest.clear()
        self._latest_bytes = 0
        self._opened.set()
        if reason is not None:
            for stream in self._listeners():
                stream.reset(reason, self.event_id)

    async def _deliver(self, frame: Frame) -> None:
        # Whoever joins from now on has a position after this event, and whoever is there gets it.
        streams = (*self._of_all, *self._of_key.get(frame.key, ()))
        self._keep(frame)
        for number, stream in enumerate(streams, 1):
            stream.deliver(frame)
            if not number % _SLICE:
                await checkpoint()

    def _keep(self, frame: Frame) -> None:
        self._latest.append(frame)
        self._latest_bytes += len(frame.data)
        events, size = self._limits
        while len(self._latest) > events or self._latest_bytes > size:
            gone = self._latest.popleft()
            self._latest_bytes -= len(gone.data)
            self._kept_from[gone.partition] = gone.offset + 1

    async def _keep_alive(self) -> None:
        # Each stream has its own turn, so that not all of them write at the same time.
        while True:
            for number_of_beat, beat in enumerate(self._beats):
                await anyio.sleep(self._beat_s)
                self._last_beat = number_of_beat
                for number, stream in enumerate(tuple(beat), 1):
                    stream.beat()
                    if not number % _SLICE:
                        await checkpoint()

    async def _end_without_streams(self) -> None:
        while True:
            self._changed = anyio.Event()
            if self._claims:
                await self._changed.wait()
                continue
            with anyio.move_on_after(_LINGER_S if self._is_shared else 0.0) as lingering:
                await self._changed.wait()
            if lingering.cancelled_caught and not self._claims:
                self.error = FissileError(f"The last stream of {self._topic.name} has gone.")  # nobody joins any more
                self._scope.cancel()
                return

    def _change(self) -> None:
        self._changed.set()

    def _listeners(self) -> tuple[Listener, ...]:
        return (*self._of_all, *(stream for streams in self._of_key.values() for stream in streams))


class Broadcasts:
    """The broadcasts of a gateway, one per topic that anybody listens to.

    Args:
        bus: Opens taps.
        settings: See `Broadcast`.
    """

    def __init__(self, bus: Bus, settings: GatewaySettings) -> None:
        self._bus = bus
        self._settings = settings
        self._running: dict[str, Broadcast] = {}

    def of(self, topic: Topic[Any], start: Callable[..., object], *, is_shared: bool) -> Broadcast:
        """Return the broadcast of a topic, claimed for one stream.

        Args:
            topic: The topic.
            start: Starts a task, which outlives the stream if the broadcast is shared.
            is_shared: Whether it is for other streams too.
        """
        broadcast = self._running.get(topic.name) if is_shared else None
        if broadcast is None or broadcast.error is not None:
            broadcast = Broadcast(self._bus, topic, self._settings, is_shared=is_shared)
            if is_shared:
                self._running[topic.name] = broadcast
            start(broadcast.run)
        broadcast.claim()
        return broadcast


_presenters: dict[type[Event], Callable[[Any], bytes]] = {}


def _first(errors: BaseExceptionGroup[FissileError]) -> FissileError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, FissileError)
    return error
