"""A tap: reads a topic without a consumer group, in every process, from a position, and commits nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypeVar

import msgspec

from fissile._codec import Codec
from fissile._contract import Topic
from fissile._envelope import content_type_in, header
from fissile._errors import InvalidMessage, PositionLost
from fissile._messages import Event
from fissile.abc import Reader, Record

E_co = TypeVar("E_co", bound=Event, covariant=True)

Position = str
"""Where a tap stands, as text: `<partition>:<next offset>` for each partition it reads, joined by dots."""


class Tapped(msgspec.Struct, Generic[E_co], frozen=True):
    """One event that a tap has read.

    Attributes:
        event: The event.
        name: Its name on the wire, such as `orders.order-placed`.
        id: Its id.
        key: Its key.
        position: Where the tap stands after it; a tap opened `after` it goes on with the next event.
        timestamp_ms: When it was stored, in milliseconds since 1970.
        published_at: When it was published, in UTC: before it was stored, where it waited in the outbox of its module.
        partition: The partition it is in.
        offset: Its place in there.
    """

    event: E_co
    name: str
    id: str
    key: str
    position: Position
    timestamp_ms: int
    published_at: datetime
    partition: int = 0
    offset: int = 0


class Tap(Generic[E_co]):
    """Iterates over the events of a topic as they come: `async for tapped in tap`. It never ends by itself.

    Attributes:
        topic: The topic.
        log: Names the log among those that come and go at the same place; a position of one is none of another. Empty where it has no name.
    """

    def __init__(
        self,
        topic: Topic[Any],
        reader: Reader,
        codecs: Mapping[str, Codec[Any]],
        offsets: dict[int, int],
        key: str | None,
        log: str = "",
    ) -> None:
        self.topic = topic
        self.log = log
        self._reader = reader
        self._codecs = codecs
        self._offsets = offsets
        self._key = None if key is None else key.encode()
        self._ahead: deque[Record] = deque()

    @property
    def offsets(self) -> Mapping[int, int]:
        """The next offset of each partition that the tap reads; it goes on with the tap."""
        return self._offsets

    @property
    def position(self) -> Position:
        """Where the tap stands."""
        return format_position(self._offsets)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Tapped[E_co]:
        """Wait for the next event. What is no event of the topic, or cannot be decoded, is passed over.

        Raises:
            PositionLost: The log has expired what comes next: this tap was too slow.
        """
        while True:
            while self._ahead:
                tapped = self._take(self._ahead.popleft())
                if tapped is not None:
                    return tapped
            self._ahead.extend(await self._reader.receive())

    def _take(self, record: Record) -> Tapped[E_co] | None:
        self._offsets[record.partition] = record.offset + 1
        if self._key is not None and record.key != self._key:
            return None
        name = header(record.headers, "ce_type") or ""
        codec = self._codecs.get(name)
        if codec is None:
            return None
        try:
            event = codec.read(record.value, content_type_in(record.headers))
        except InvalidMessage:
            return None
        return Tapped(
            event,
            name,
            header(record.headers, "ce_id") or "",
            (record.key or b"").decode(errors="replace"),
            self.position,
            record.timestamp_ms,
            _published_at(record),
            record.partition,
            record.offset,
        )


def _published_at(record: Record) -> datetime:
    """Return when an event was published; when it was stored, where another program does not say so."""
    try:
        moment = datetime.fromisoformat(header(record.headers, "ce_time") or "")
    except ValueError:
        return datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
    return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def format_position(offsets: Mapping[int, int]) -> Position:
    """Return next offsets per partition as text."""
    return ".".join(f"{number}:{offset}" for number, offset in sorted(offsets.items()))


def parse_position(position: Position) -> dict[int, int]:
    """Return the next offsets per partition that a text names.

    Raises:
        PositionLost: The text is no position.
    """
    try:
        pairs = [part.split(":") for part in position.split(".")] if position else []
        offsets = {int(number): int(offset) for number, offset in pairs}
    except ValueError:
        raise PositionLost(f"{position!r} is no position of a tap.") from None
    if any(value < 0 for pair in offsets.items() for value in pair):
        raise PositionLost(f"{position!r} is no position of a tap.")
    return offsets
