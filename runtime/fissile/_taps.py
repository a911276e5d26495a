"""Opens taps and replays: which partitions they read, and from where."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fissile._codec import Codec
from fissile._contract import Topic
from fissile._errors import PositionLost
from fissile._partitioner import partition_of
from fissile._replay import Replay
from fissile._tap import Position, Tap, parse_position
from fissile.abc import Partition, Reader, Start, Transport


class Taps:
    """What opens them for one application.

    Args:
        transport: The log.
        partitions: How many partitions each topic has.
        codecs_of: Gives the codecs of a topic's events by their names.
    """

    def __init__(
        self, transport: Transport, partitions: int, codecs_of: Callable[[Topic[Any]], dict[str, Codec[Any]]]
    ) -> None:
        self._transport = transport
        self._count = partitions
        self._codecs_of = codecs_of

    @asynccontextmanager
    async def tap(self, topic: Topic[Any], *, after: Position | None, key: str | None) -> AsyncGenerator[Tap[Any]]:
        """Open a tap; see `Bus.tap`."""
        partitions, wanted = self._places(topic, after, key)
        async with self._transport.read(partitions, wanted or "latest") as reader:
            offsets = _begin(topic, reader, wanted, after)
            yield Tap(topic, reader, self._codecs_of(topic), offsets, key, self._transport.incarnation)

    @asynccontextmanager
    async def replay(
        self, topic: Topic[Any], *, after: Position | None, key: str | None
    ) -> AsyncGenerator[Replay[Any]]:
        """Open a replay; see `Bus.replay`."""
        partitions, wanted = self._places(topic, after, key)
        async with AsyncExitStack() as stack:

            async def read(start: Start | Mapping[Partition, int]) -> Reader:
                await stack.aclose()
                return await stack.enter_async_context(self._transport.read(partitions, start))

            async def reopen(offsets: Mapping[int, int]) -> Reader:
                return await read({(topic.name, number): offset for number, offset in offsets.items()})

            reader = await read(wanted or "earliest")
            offsets = _begin(topic, reader, wanted, after)
            yield Replay(
                topic,
                reader,
                self._codecs_of(topic),
                offsets,
                key,
                self._transport.incarnation,
                reopen=None if wanted else reopen,
            )

    def _places(
        self, topic: Topic[Any], after: Position | None, key: str | None
    ) -> tuple[list[Partition], dict[Partition, int]]:
        """Return the partitions to read, and where a position says to begin in them; nothing where there is none."""
        numbers = range(self._count) if key is None else [partition_of(key.encode(), self._count)]
        partitions = [(topic.name, number) for number in numbers]
        wanted = (
            {} if after is None else {(topic.name, number): offset for number, offset in parse_position(after).items()}
        )
        # What a position does not tell of a partition would begin now, and leave a gap that nobody notices.
        if wanted and not set(partitions) <= set(wanted) <= {(topic.name, number) for number in range(self._count)}:
            raise PositionLost(f"{after} is a position of other partitions than {topic.name} is read from.")
        return partitions, {partition: wanted[partition] for partition in partitions if wanted}


def _begin(
    topic: Topic[Any], reader: Reader, wanted: Mapping[Partition, int], after: Position | None
) -> dict[int, int]:
    """Return the offsets that a reader begins at.

    Raises:
        PositionLost: They are others than a position says.
    """
    for partition, offset in wanted.items():
        if reader.begins.get(partition, offset) != offset:
            raise PositionLost(f"{topic.name} no longer holds what comes after {after}.")
    return {number: offset for (_, number), offset in reader.begins.items()}
