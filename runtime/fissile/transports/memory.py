"""The transport `memory://`: a model of a Kafka log in one process, which keeps nothing across a stop.

It is a log and not a list of callbacks: topics have partitions, records have offsets, groups have members and committed offsets, a member
that joins or leaves makes the group hand over its partitions, and what was not committed comes again. Rebalances are eager as aiokafka's
are: all members lose everything, then the partitions are dealt out anew. The conformance suite holds it and Kafka to the same histories.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from math import inf
from random import SystemRandom
from typing import Self

import anyio
import anyio.lowlevel
from attrs import define, field

from fissile._clock import Clock
from fissile._errors import (
    CallError,
    Fault,
    MessageTooLarge,
    PositionLost,
    StartupFailed,
    TransportClosed,
    Unavailable,
)
from fissile._parking import call_soon
from fissile._partitioner import partition_of
from fissile._settings import Settings
from fissile.abc import (
    Assigned,
    Member,
    Outgoing,
    Partition,
    Reader,
    Record,
    Revoked,
    Start,
    Status,
    Stored,
    TopicSpec,
    Transport,
    no_key,
)
from fissile.transports._memory_logs import CompactedLog, Log

REVOKE_S = 5.0
"""As `Settings.kafka_revoke_s`, roughly: longer than the engine lets handlers finish."""

_OVERHEAD_BYTES = 65_536
"""What key and headers may add to a message of the largest size: those of a dead letter have its traceback."""


@define(eq=False)
class _Group:
    """A consumer group: who is in it, who has not handed over yet, how far it is."""

    members: list[_Member] = field(factory=lambda: list[_Member]())
    committed: dict[Partition, int] = field(factory=dict[Partition, int])
    handing_over: set[_Member] = field(factory=lambda: set[_Member]())
    fence_at: float = inf


class MemoryLog:
    """The logs and groups of one process. Several transports may share one, as several clients share a broker.

    Args:
        clock: Gives timestamps.
        retention_bytes: How much a partition keeps, in bytes of values.
        max_record_bytes: The largest record it takes.
        revoke_s: How long a group waits for a member to hand over, in seconds; then it goes on without that member.
    """

    def __init__(
        self, clock: Clock, retention_bytes: int, max_record_bytes: int, *, revoke_s: float = REVOKE_S
    ) -> None:
        self.clock = clock
        self.revoke_s = revoke_s
        self.max_record_bytes = max_record_bytes
        self._retention_bytes = retention_bytes
        self._topics: dict[str, list[Log]] = {}
        self._groups: dict[str, _Group] = {}
        self._listeners: dict[str, set[Callable[[], None]]] = {}
        self._generation = 0
        self.incarnation = f"{SystemRandom().getrandbits(60):x}"

    def ensure(self, spec: TopicSpec) -> None:
        """Create a topic, or check the one that is there."""
        logs = self._topics.get(spec.name)
        if logs is None:
            kind = CompactedLog if spec.is_compacted else Log
            self._topics[spec.name] = [
                kind((spec.name, number), spec.retention_s, self._retention_bytes) for number in range(spec.partitions)
            ]
        elif len(logs) != spec.partitions:
            fault = Fault(
                f"The topic {spec.name} has {len(logs)} partitions, not {spec.partitions}.",
                "FISSILE_PARTITIONS",
                "Set it back; changing a count would break the order per key.",
            )
            raise StartupFailed((fault,))

    def logs(self, topic: str) -> list[Log]:
        """Return the partitions of a topic."""
        try:
            return self._topics[topic]
        except KeyError:
            raise Unavailable(f"The log has no topic {topic}. Topics are made when the application starts.") from None

    def append(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Store records, all or none, and wake who waits for them."""
        for record in records:
            size = record.size_bytes()
            if size > self.max_record_bytes:
                raise MessageTooLarge(record.topic, size, self.max_record_bytes)
            if record.key is None and isinstance(self.logs(record.topic)[0], CompactedLog):
                raise no_key(record.topic)
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
        for member in group.members:
            if member.holds and member not in group.handing_over:
                group.handing_over.add(member)
                group.fence_at = anyio.current_time() + self.revoke_s
                member.tell(Revoked(member.generation, frozenset(member.positions)))
        self.deal(group)

    def fence(self, group: _Group) -> None:
        """Go on without the members that have not handed over in time; one that receives again comes back as a new one does."""
        if group.handing_over and anyio.current_time() >= group.fence_at:
            for member in group.handing_over:
                group.members.remove(member)
                member.is_fenced = True
                member.holds = False
                member.positions = {}
            group.handing_over.clear()
            self.deal(group)

    def deal(self, group: _Group) -> None:
        """Give the partitions out once nobody has any in hand: in ranges, topic by topic."""
        if group.handing_over or not group.members:
            return
        self._generation += 1
        shares: dict[_Member, dict[Partition, int]] = {member: {} for member in group.members}
        for topic in sorted({topic for member in group.members for topic in member.topics}):
            takers = [member for member in group.members if topic in member.topics]
            logs = self.logs(topic)
            for number, log in enumerate(logs):
                member = takers[number * len(takers) // len(logs)]
                shares[member][log.name] = self._start(group, member.topics[topic], log)
        for member, share in shares.items():
            member.generation = self._generation
            member.holds = True
            member.positions = share
            member.tell(Assigned(self._generation, dict(share)))

    @staticmethod
    def _start(group: _Group, start: Start, log: Log) -> int:
        committed = group.committed.get(log.name)
        if committed is None:
            committed = group.committed[log.name] = log.first_offset if start == "earliest" else log.next_offset
        return max(committed, log.first_offset)


@define(eq=False)
class _Signal:
    """Wakes the one task that waits for something to be worth looking at."""

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
    batch: int
    positions: dict[Partition, int] = field(factory=dict[Partition, int])
    generation: int = 0
    holds: bool = False
    signal: _Signal = field(factory=_Signal)
    _news: deque[Assigned | Revoked] = field(factory=deque[Assigned | Revoked])
    is_fenced: bool = False
    _told_revoked: bool = False
    _paused: set[Partition] = field(factory=set[Partition])
    _refused: int = 0
    _rebalances: int = 0
    _closed: bool = False

    def tell(self, news: Assigned | Revoked) -> None:
        self._news.append(news)
        self.signal.wake()

    async def receive(self) -> Sequence[Record] | Assigned | Revoked:
        await anyio.lowlevel.checkpoint()
        if self._told_revoked:
            # This call hands the partitions over, unless that was too late and they are taken already.
            self._told_revoked = False
            if self.is_fenced:
                self.is_fenced = False
                self.group.members.append(self)
                self.log.rebalance(self.group)
            else:
                self.holds = False
                self.positions = {}
                self.group.handing_over.discard(self)
                self.log.deal(self.group)
        while True:
            if self._closed:
                raise TransportClosed("This member has left its group.")
            if self._news:
                news = self._news.popleft()
                self._paused.clear()
                self._told_revoked = isinstance(news, Revoked)
                self._rebalances += isinstance(news, Assigned)
                return news
            records = _fetch(self.log, self.positions, self._paused, self.batch)
            if records:
                return records
            # Who waits for its share sees to it that nobody is waited for in vain; there is no task here that could.
            with anyio.CancelScope(deadline=self.group.fence_at if self.group.handing_over else inf):
                await self.signal.wait()
            self.log.fence(self.group)

    async def commit(self, generation: int, offsets: Mapping[Partition, int]) -> bool:
        await anyio.lowlevel.checkpoint()
        if self._closed or not self.holds or generation != self.generation:
            self._refused += 1
            return False
        self.group.committed.update(offsets)
        return True

    def pause(self, partitions: Iterable[Partition]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        self._paused.difference_update(partitions)
        self.signal.wake()

    def status(self) -> Status:
        lags = {
            (topic, number): self.log.logs(topic)[number].next_offset - offset
            for (topic, number), offset in self.positions.items()
        }
        return Status(sum(lags.values()), 0.0, len(lags), self._refused, self._rebalances, lags)

    def join(self) -> None:
        for topic in self.topics:
            self.log.listen(topic, self.signal.wake)
        self.group.members.append(self)
        self.log.rebalance(self.group)

    def leave(self) -> None:
        self._closed = True
        for topic in self.topics:
            self.log.unlisten(topic, self.signal.wake)
        if not self.is_fenced:
            self.group.members.remove(self)
        self.group.handing_over.discard(self)
        self.holds = False
        self.positions = {}
        self.signal.wake()
        self.log.rebalance(self.group)


def _fetch(log: MemoryLog, positions: dict[Partition, int], paused: Collection[Partition], batch: int) -> list[Record]:
    """Take the next records of some partitions, and move the positions past them."""
    records: list[Record] = []
    for (topic, number), position in positions.items():
        if (topic, number) in paused:
            continue
        found = log.logs(topic)[number].slice(position, batch - len(records))
        if found:
            positions[topic, number] = found[-1].offset + 1
            records += found
            if len(records) >= batch:
                # The others first, the next time.
                positions[topic, number] = positions.pop((topic, number))
                break
    return records


@define(eq=False)
class _Reader(Reader):
    log: MemoryLog
    begins: Mapping[Partition, int]
    ends: Mapping[Partition, int]
    batch: int
    next_offsets: dict[Partition, int]
    signal: _Signal = field(factory=_Signal)
    closed: bool = False

    async def receive(self) -> Sequence[Record]:
        await anyio.lowlevel.checkpoint()
        while True:
            if self.closed:
                raise TransportClosed("This reader was closed.")
            for (topic, number), position in self.next_offsets.items():
                first = self.log.logs(topic)[number].lost_before
                if position < first:
                    raise PositionLost(f"{topic}[{number}] begins at {first} now; {position} has expired.")
            records = _fetch(self.log, self.next_offsets, (), self.batch)
            if records:
                return records
            await self.signal.wait()

    def positions(self) -> Mapping[Partition, int]:
        return dict(self.next_offsets)

    def status(self) -> Status:
        lag = sum(
            self.log.logs(topic)[number].next_offset - offset for (topic, number), offset in self.next_offsets.items()
        )
        return Status(lag, 0.0, len(self.next_offsets))


@define(eq=False)
class MemoryTransport(Transport):
    """A client of a `MemoryLog`."""

    log: MemoryLog

    _untold: int = field(default=0, init=False)
    _closed: bool = field(default=False, init=False)

    durable = False
    shared = False

    async def __aenter__(self) -> Self:
        self._closed = False
        self.incarnation = self.log.incarnation
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._closed = True
        with anyio.CancelScope(shield=True):
            while self._untold:
                await anyio.lowlevel.checkpoint()

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        for spec in topics:
            self.log.ensure(spec)

    def append_nowait(self, records: Sequence[Outgoing], done: Callable[[Stored | CallError], None]) -> None:
        self._check_open()
        stored = self.log.append(records)
        self._untold += 1
        call_soon(self._tell, done, stored)

    def _tell(self, done: Callable[[Stored | CallError], None], stored: Stored) -> None:
        self._untold -= 1
        done(stored)

    async def append(self, records: Sequence[Outgoing]) -> Stored:
        await anyio.lowlevel.checkpoint()
        self._check_open()
        return self.log.append(records)

    def _check_open(self) -> None:
        if self._closed:
            raise TransportClosed("The transport is closed.")

    @asynccontextmanager
    async def join(self, group: str, topics: Mapping[str, Start], *, batch: int = 500) -> AsyncGenerator[Member]:
        for topic in topics:
            self.log.logs(topic)
        member = _Member(self.log, self.log.group(group), topics, batch)
        member.join()
        try:
            yield member
        finally:
            member.leave()

    @asynccontextmanager
    async def read(
        self, partitions: Sequence[Partition], start: Start | Mapping[Partition, int], *, batch: int = 500
    ) -> AsyncGenerator[Reader]:
        logs = {partition: self.log.logs(partition[0])[partition[1]] for partition in partitions}
        begins: dict[Partition, int] = {}
        for partition, log in logs.items():
            wanted = start if isinstance(start, str) else start.get(partition, "latest")
            if wanted == "latest":
                begins[partition] = log.next_offset
            elif wanted == "earliest" or not log.lost_before <= int(wanted) <= log.next_offset:
                begins[partition] = log.first_offset
            else:
                begins[partition] = int(wanted)
        ends = {partition: log.next_offset for partition, log in logs.items()}
        reader = _Reader(self.log, begins, ends, batch, dict(begins))
        topics = {topic for topic, _ in partitions}
        for topic in topics:
            self.log.listen(topic, reader.signal.wake)
        try:
            yield reader
        finally:
            reader.closed = True
            for topic in topics:
                self.log.unlisten(topic, reader.signal.wake)
            reader.signal.wake()


def transport(settings: Settings, clock: Clock) -> MemoryTransport:
    """Make the transport of a `memory://` URL, with a log of its own."""
    return MemoryTransport(
        MemoryLog(clock, settings.memory_retention_bytes, settings.max_message_bytes + _OVERHEAD_BYTES)
    )
