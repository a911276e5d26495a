"""What was stored before, in the order of time: partitions, and topics, are merged by when their records were stored."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import anyio

from fissile.abc import Partition, Reader, Record, Status

PATIENCE_S = 2.0
"""How long to wait for a record that is to be there, in seconds: it may have expired since."""


class InTime(Reader):
    """A reader that gives what is in the log already in the order of time, and what comes later as it comes.

    Records of one partition keep their order. What it holds meanwhile is what the other reader is ahead in one partition of the others.

    Args:
        reader: The reader of all partitions.
    """

    def __init__(self, reader: Reader) -> None:
        self.begins, self.ends = reader.begins, reader.ends
        self._reader = reader
        # Of these something is still to come that was stored before.
        self._behind = {place for place, end in reader.ends.items() if reader.begins[place] < end}
        self._held: dict[Partition, deque[Record]] = {}

    async def receive(self) -> Sequence[Record]:
        """Wait for at least one record."""
        while True:
            found = self._take_ready()
            if found:
                return found
            with anyio.move_on_after(PATIENCE_S if self._behind else None) as waiting:
                self._hold(await self._reader.receive())
            if waiting.cancelled_caught:
                self._behind.clear()

    def positions(self) -> Mapping[Partition, int]:
        """Return what the other reader has come to."""
        return self._reader.positions()

    def status(self) -> Status:
        """Return how it is doing."""
        return self._reader.status()

    def _hold(self, records: Sequence[Record]) -> None:
        for record in records:
            place = record.topic, record.partition
            self._held.setdefault(place, deque()).append(record)
            if record.offset + 1 >= self.ends.get(place, 0):
                self._behind.discard(place)

    def _take_ready(self) -> list[Record]:
        """Take what nothing older can come after."""
        found: list[Record] = []
        while self._held and all(place in self._held for place in self._behind):
            place = min(self._held, key=lambda place: (self._held[place][0].timestamp_ms, place))
            held = self._held[place]
            found.append(held.popleft())
            if not held:
                del self._held[place]
        return found
