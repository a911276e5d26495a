"""The transport `memory://`: a model of a Kafka log in one process, which keeps nothing across a stop.

It is a log and not a list of callbacks: topics have partitions, records have offsets, groups have members and committed offsets, a member
that joins or leaves makes the group hand over its partitions, and what was not committed comes again. Rebalances are eager as aiokafka's
are: all members lose everything, then the partitions are dealt out anew. The conformance suite holds it and Kafka to the same histories.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Self

import anyio
import anyio.lowlevel
from attrs import define, field, frozen

from fissile._clock import Clock
from fissile._errors import Fault, MessageTooLarge, PositionLost, StartupFailed, TransportClosed, Unavailable
from fissile._partitioner import partition_of
from fissile._settings import Settings
from fissile.abc import Assigned, Member, Outgoing, Partition, Reader, Record, Revoked, Start, TopicSpec, Transport

_BATCH = 500
_OVERHEAD_BYTES = 4096
"""What key and headers may add to a message of the largest size."""


@define(eq=False)
class _Log:
    """One partition of one topic."""

    name: Partition
    retention_s: float
    retention_bytes: int
    records: deque[Record] = field(factory=deque)
    next_offset: int = 0
    size_bytes: int = 0

    @property
    def first_offset(self) -> int:
        """The offset of the first record kept."""
        return self.records[0].offset if self.records else self.next_offset

    def append(self, outgoing: Outgoing, timestamp_ms: int) -> int:
        topic, partition = self.name
        offset = self.next_offset
        self.next_offset += 1
        record = Record(topic, partition, offset, outgoing.key, outgoing.value, outgoing.headers, timestamp_ms)
        self.records.append(record)
        self.size_bytes += len(outgoing.value)
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
class _Group:
    """A consumer group: who is in it, who owns what, how far it is."""

    members: list[_Member] = field(factory=list)
    committed: dict[Partition, int] = field(factory=dict)
    generation: int = 0
    awaiting: dict[_Member, Revoked] = field(factory=dict)
    rebalances: int = 0


class MemoryLog:
    """The logs and groups of one process. Several transports may share one, as several clients share a broker.

    Args:
        clock: Gives timestamps.
        retention_bytes: How much a partition keeps, in bytes of values.
        max_record_bytes: The largest record it takes.
    """

    def __init__(self, clock: Clock, retention_bytes: int, max_record_bytes: int) -> None:
        self.clock = clock
        self.max_record_bytes = max_record_bytes
        self._retention_bytes = retention_bytes
        self._topics: dict[str, list[_Log]] = {}
        self._groups: dict[str, _Group] = {}
        self._listeners: dict[str, set[Callable[[], None]]] = {}

    def ensure(self, spec: TopicSpec) -> None:
        """Create a topic, or check the one that is there."""
        logs = self._topics.get(spec.name)
        if logs is None:
            self._topics[spec.name] = [
                _Log((spec.name, number), spec.retention_s, self._retention_bytes) for number in range(spec.partitions)
            ]
        elif len(logs) != spec.partitions:
            fault = Fault(
                f"The topic {spec.name} has {len(logs)} partitions, not {spec.partitions}.",
                "FISSILE_PARTITIONS",
                "Set it back; changing a count would break the order per key.",
            )
            raise StartupFailed((fault,))

    def logs(self, topic: str) -> list[_Log]:
        """Return the partitions of a topic."""
        try:
            return self._topics[topic]
        except KeyError:
            raise Unavailable(f"The log has no topic {topic}. Topics are made when the application starts.") from None

    def append(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Store records, all or none, and wake who waits for them."""
        for record in records:
            size = len(record.value)
            if size > self.max_record_bytes:
                raise MessageTooLarge(record.topic, size, self.max_record_bytes)
            self.logs(record.topic)
        now_ms = int(self.clock.now().timestamp() * 1000)
        stored: list[tuple[int, int]] = []
        for record in records:
            logs = self.logs(record.topic)
            number = record.partition
            if number is None:
                number = partition_of(record.key or b"", len(logs))
            stored.append((number, logs[number].append(record, now_ms)))
        for topic in {record.topic for record in records}:
            for wake in tuple(self._listeners.get(topic, ())):
                wake()
        return stored

    def listen(self, topic: str, wake: Callable[[], None]) -> None:
        """Call a function whenever a topic has new records."""
        self._listeners.setdefault(topic, set()).add(wake)

    def unlisten(self, topic: str, wake: Callable[[], None]) -> None:
        """Call it no more."""
        self._listeners[topic].discard(wake)

    # Groups. A rebalance has two steps: everyone is told what it loses; once all have handed over, everyone is told what it gets.

    def group(self, name: str) -> _Group:
        """Return a group, a new one where there is none."""
        return self._groups.setdefault(name, _Group())

    def rebalance(self, group: _Group) -> None:
        """Take all partitions from all members."""
        group.generation += 1
        group.rebalances += 1
        for member in group.members:
            owned = frozenset(member.positions)
            member.positions.clear()
            if member in group.awaiting:
                continue  # it has not handed over the ones before; it owns nothing else
            if owned:
                revoked = Revoked(owned)
                group.awaiting[member] = revoked
                member.tell(revoked)
        self.deal(group)

    def deal(self, group: _Group) -> None:
        """Give the partitions out once nobody has any in hand: in ranges, topic by topic."""
        if group.awaiting or not group.members:
            return
        shares: dict[_Member, set[Partition]] = {member: set() for member in group.members}
        for topic in sorted({topic for member in group.members for topic in member.topics}):
            takers = [member for member in group.members if topic in member.topics]
            for number, log in enumerate(self.logs(topic)):
                shares[takers[number * len(takers) // len(self.logs(topic))]].add(log.name)
        for member, share in shares.items():
            member.generation = group.generation
            for partition in share:
                member.positions[partition] = self._start(group, member, partition)
            member.tell(Assigned(frozenset(share)))

    def _start(self, group: _Group, member: _Member, partition: Partition) -> int:
        topic, number = partition
        log = self.logs(topic)[number]
        committed = group.committed.get(partition)
        if committed is not None:
            return max(committed, log.first_offset)
        return log.first_offset if member.topics[topic] == "earliest" else log.next_offset


@define(eq=False)
class _Waiter:
    """Waits for something to be worth looking at."""

    _changed: anyio.Event | None = None

    def wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def wait(self) -> None:
        changed = self._changed = anyio.Event()
        await changed.wait()


@define(eq=False)
class _Member(Member):
    log: MemoryLog
    group: _Group
    topics: Mapping[str, Start]
    positions: dict[Partition, int] = field(factory=dict)
    generation: int = 0
    refused_commits: int = 0
    _news: deque[Assigned | Revoked] = field(factory=deque)
    _paused: set[Partition] = field(factory=set)
    _waiter: _Waiter = field(factory=_Waiter)
    _closed: bool = False

    def tell(self, news: Assigned | Revoked) -> None:
        self._news.append(news)
        if isinstance(news, Revoked):
            self._paused -= news.partitions
        self._waiter.wake()

    async def receive(self) -> Sequence[Record] | Assigned | Revoked:
        await anyio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise TransportClosed("This member has left its group.")
            if self._news:
                return self._news.popleft()
            records = self._fetch()
            if records:
                return records
            await self._waiter.wait()

    def _fetch(self) -> list[Record]:
        records: list[Record] = []
        for (topic, number), position in self.positions.items():
            if (topic, number) in self._paused:
                continue
            found = self.log.logs(topic)[number].slice(position, _BATCH - len(records))
            if found:
                self.positions[topic, number] = found[-1].offset + 1
                records += found
                if len(records) >= _BATCH:
                    break
        return records

    async def commit(self, offsets: Mapping[Partition, int]) -> bool:
        await anyio.lowlevel.checkpoint()
        # A commit is taken from whoever has not yet handed over; afterwards the partition is another's.
        pending = self.group.awaiting.get(self)
        mine = set(self.positions) | (pending.partitions if pending is not None else frozenset())
        if self._closed or not mine.issuperset(offsets):
            self.refused_commits += 1
            return False
        self.group.committed.update(offsets)
        return True

    def hand_over(self, revoked: Revoked) -> None:
        if self.group.awaiting.get(self) is revoked:
            del self.group.awaiting[self]
            self.log.deal(self.group)

    def pause(self, partition: Partition) -> None:
        self._paused.add(partition)

    def resume(self, partition: Partition) -> None:
        self._paused.discard(partition)
        self._waiter.wake()

    def lag(self) -> Mapping[Partition, int]:
        return {
            (topic, number): self.log.logs(topic)[number].next_offset - position
            for (topic, number), position in self.positions.items()
        }

    def join(self) -> None:
        for topic in self.topics:
            self.log.logs(topic)
            self.log.listen(topic, self._waiter.wake)
        self.group.members.append(self)
        self.log.rebalance(self.group)

    def leave(self) -> None:
        self._closed = True
        for topic in self.topics:
            self.log.unlisten(topic, self._waiter.wake)
        self.group.members.remove(self)
        self.group.awaiting.pop(self, None)
        self.positions.clear()
        self._waiter.wake()
        self.log.rebalance(self.group)


@define(eq=False)
class _Reader(Reader):
    log: MemoryLog
    topic: str
    next_offsets: dict[int, int]
    _waiter: _Waiter = field(factory=_Waiter)
    closed: bool = False

    async def receive(self) -> Sequence[Record]:
        await anyio.lowlevel.checkpoint()
        while True:
            if self.closed:
                raise TransportClosed(f"The reader of {self.topic} was closed.")
            records = self.receive_nowait()
            if records:
                return records
            await self._waiter.wait()

    def receive_nowait(self) -> Sequence[Record]:
        records: list[Record] = []
        for number, position in self.next_offsets.items():
            log = self.log.logs(self.topic)[number]
            if position < log.first_offset:
                raise PositionLost(f"{self.topic}[{number}] begins at {log.first_offset} now; {position} is gone.")
            found = log.slice(position, _BATCH - len(records))
            if found:
                self.next_offsets[number] = found[-1].offset + 1
                records += found
                if len(records) >= _BATCH:
                    break
        return records

    def positions(self) -> Mapping[Partition, int]:
        return {(self.topic, number): position for number, position in self.next_offsets.items()}

    @property
    def wake(self) -> Callable[[], None]:
        return self._waiter.wake


@frozen(eq=False)
class MemoryTransport(Transport):
    """A client of a `MemoryLog`."""

    log: MemoryLog

    durable = False
    shared = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        for spec in topics:
            self.log.ensure(spec)

    async def append(self, records: Sequence[Outgoing]) -> Sequence[tuple[int, int]]:
        await anyio.lowlevel.checkpoint()
        return self.log.append(records)

    @asynccontextmanager
    async def join(self, group: str, topics: Mapping[str, Start]) -> AsyncGenerator[Member]:
        member = _Member(self.log, self.log.group(group), topics)
        member.join()
        try:
            yield member
        finally:
            member.leave()

    @asynccontextmanager
    async def read(
        self, topic: str, start: Start | Mapping[int, int], partitions: Sequence[int] | None = None
    ) -> AsyncGenerator[Reader]:
        logs = self.log.logs(topic)
        numbers = range(len(logs)) if partitions is None else partitions
        if start == "earliest":
            offsets = {number: logs[number].first_offset for number in numbers}
        elif start == "latest":
            offsets = {number: logs[number].next_offset for number in numbers}
        else:
            offsets = {number: start.get(number, logs[number].next_offset) for number in numbers}
        for number, offset in offsets.items():
            log = logs[number]
            if not log.first_offset <= offset <= log.next_offset:
                raise PositionLost(f"{topic}[{number}] holds {log.first_offset} to {log.next_offset}, not {offset}.")
        reader = _Reader(self.log, topic, offsets)
        self.log.listen(topic, reader.wake)
        try:
            yield reader
        finally:
            reader.closed = True
            self.log.unlisten(topic, reader.wake)
            reader.wake()


def transport(settings: Settings, clock: Clock) -> MemoryTransport:
    """Make the transport of a `memory://` URL, with a log of its own."""
    return MemoryTransport(
        MemoryLog(clock, settings.memory_retention_bytes, settings.max_message_bytes + _OVERHEAD_BYTES)
    )
