"""The logs in memory: one that keeps records for a while, and one that keeps the last record of each key."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import islice

from attrs import define, field

from fissile.abc import Outgoing, Partition, Record

COMPACT_AFTER_S = 60.0
"""How long an older record of a key is kept in a compacted topic, in seconds: who reads along sees it. Compaction needs an append."""


@define(eq=False)
class Log:
    """One partition of one topic."""

    name: Partition
    retention_s: float
    retention_bytes: int
    records: deque[Record] = field(factory=deque[Record])
    next_offset: int = 0
    size_bytes: int = 0

    @property
    def first_offset(self) -> int:
        """The offset of the first record kept."""
        return self.records[0].offset if self.records else self.next_offset

    @property
    def lost_before(self) -> int:
        """What is before this offset has expired."""
        return self.first_offset

    def append(self, outgoing: Outgoing, timestamp_ms: int) -> int:
        topic, partition = self.name
        offset = self.next_offset
        self.next_offset += 1
        value = outgoing.value or b""
        record = Record(topic, partition, offset, outgoing.key, value, outgoing.headers, timestamp_ms)
        self.records.append(record)
        self.size_bytes += len(value)
        self._expire(timestamp_ms)
        return offset

    def _expire(self, now_ms: int) -> None:
        oldest_ms = now_ms - self.retention_s * 1000
        # The newest record always stays: a log that is too small for one record would lose it before anyone could read it.
        while len(self.records) > 1 and (
            self.records[0].timestamp_ms < oldest_ms or self.size_bytes > self.retention_bytes
        ):
            self.size_bytes -= len(self.records.popleft().value)

    def slice(self, offset: int, count: int) -> list[Record]:
        """Return up to so many records from an offset on; what is no longer kept is passed over."""
        start = max(0, offset - self.first_offset)
        if not self.records or offset >= self.next_offset:
            return []
        if start == 0 and offset < self.first_offset:
            start = 0
        end = min(len(self.records), start + count)
        return [self.records[position] for position in range(start, end)]


@define(eq=False)
class CompactedLog(Log):
    """One partition of a topic that keeps the last record of each key. Its offsets have gaps."""

    latest: dict[bytes | None, int] = field(factory=dict[bytes | None, int])
    forgets_at_ms: dict[bytes | None, int] = field(factory=dict[bytes | None, int])
    compacted_ms: int = 0

    @property
    def lost_before(self) -> int:
        """Nothing is lost: what has gone had a later record of its key."""
        return 0

    def append(self, outgoing: Outgoing, timestamp_ms: int) -> int:
        self.latest[outgoing.key] = self.next_offset
        if outgoing.value is None:
            self.forgets_at_ms[outgoing.key] = timestamp_ms + int(self.retention_s * 1000)
        else:
            self.forgets_at_ms.pop(outgoing.key, None)
        return super().append(outgoing, timestamp_ms)

    def _expire(self, now_ms: int) -> None:
        # Not at each append: it looks at all records.
        oldest_ms = now_ms - int(COMPACT_AFTER_S * 1000)
        if self.compacted_ms > oldest_ms:
            return
        self.compacted_ms = now_ms
        newest = self.next_offset - 1
        forgotten = {key for key, at_ms in self.forgets_at_ms.items() if at_ms <= now_ms and self.latest[key] < newest}
        self.records = deque(
            record
            for record in self.records
            if (record.offset == self.latest[record.key] and record.key not in forgotten)
            or (record.timestamp_ms > oldest_ms and record.offset != self.latest[record.key])
        )
        for key in forgotten:
            del self.latest[key], self.forgets_at_ms[key]

    def slice(self, offset: int, count: int) -> list[Record]:
        if offset >= self.next_offset:
            return []
        start = bisect_left(self.records, offset, key=lambda record: record.offset)
        return list(islice(self.records, start, start + count))
