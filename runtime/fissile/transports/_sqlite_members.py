"""Members and readers at home: what came is in their inbox, what they want is a job of one of the threads."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic

import anyio.lowlevel
from attrs import define, field

from fissile._errors import CallError
from fissile._parking import Parked
from fissile.abc import Assigned, Member, Partition, Reader, Record, Revoked, Status
from fissile.transports._inbox import Pulse
from fissile.transports._sqlite_groups import Groups
from fissile.transports._sqlite_reading import Reading, Seat, Source
from fissile.transports._sqlite_writer import Job, Writer


@define(eq=False)
class Seats:
    """Gives members their places.

    Attributes:
        groups: The groups.
        writer: Writes.
    """

    groups: Groups
    writer: Writer

    def take(self, seat: Seat, *, hands_over: bool = False) -> None:
        """Join; or let go of what the member was asked for, and join anew if that came too late."""

        def run(connection: sqlite3.Connection) -> int | None:
            if seat.has_left:
                return None
            if seat.member is not None and self.groups.hand_over(connection, seat.member):
                return seat.member
            return self.groups.join(connection, seat.group, seat.topics)

        def applied(member: int | None) -> None:
            seat.member = member
            seat.has_handed_over = seat.has_handed_over or hands_over
            seat.is_joining = False

        self.writer.submit(Job(run, applied=applied, is_kept=True))

    def leave(self, seat: Seat, done: Callable[[object], None]) -> None:
        """Give the place back."""

        def run(connection: sqlite3.Connection) -> None:
            seat.has_left = True
            if seat.member is not None:
                self.groups.leave(connection, seat.member)

        self.writer.submit(Job(run, done=done))


def _status(source: Source, reading: Reading, ends: Mapping[int, int], refused: int) -> Status:
    known = {partition: ends[log] for log, partition in tuple(source.partitions.items()) if log in ends}
    source.inbox.pulse(Pulse({}, known, max(0.0, monotonic() - reading.answered_at)))
    return source.inbox.status(refused)


@define(eq=False)
class SqliteReader(Reader):
    """A reader, at home."""

    source: Source
    reading: Reading
    log_ends: Mapping[int, int]
    begins: Mapping[Partition, int]
    ends: Mapping[Partition, int]

    async def receive(self) -> Sequence[Record]:
        await anyio.lowlevel.checkpoint()  # before anything is taken: a cancelled call must not have taken it
        while True:
            taken = self.source.inbox.take()
            if isinstance(taken, list):
                return taken
            await self.source.inbox.wait()

    def positions(self) -> Mapping[Partition, int]:
        return self.source.inbox.positions()

    def status(self) -> Status:
        return _status(self.source, self.reading, self.log_ends, 0)


@define(eq=False)
class SqliteMember(Member):
    """A member of a group, at home."""

    source: Source
    seat: Seat
    reading: Reading
    seats: Seats
    log_ends: Mapping[int, int]
    park: Callable[[], Parked]
    _refused: int = field(default=0, init=False)
    _has_to_hand_over: bool = field(default=False, init=False)
    _generation: int | None = field(default=None, init=False)

    async def receive(self) -> Sequence[Record] | Assigned | Revoked:
        inbox = self.source.inbox
        if self._has_to_hand_over:
            self._has_to_hand_over, self._generation = False, None
            self.seats.take(self.seat, hands_over=True)
        await anyio.lowlevel.checkpoint()  # before anything is taken: a cancelled call must not have taken it
        while True:
            taken = inbox.take()
            if taken is not None:
                if isinstance(taken, Assigned):
                    self._generation = taken.generation
                elif isinstance(taken, Revoked):
                    self._has_to_hand_over = True
                return taken
            await inbox.wait()

    async def commit(self, generation: int, offsets: Mapping[Partition, int]) -> bool:
        stored = False
        if self.source.inbox.is_closed or generation != self._generation:
            await anyio.lowlevel.checkpoint()
        elif not offsets:
            await anyio.lowlevel.checkpoint()
            stored = True
        else:
            copied = dict(offsets)
            parked = self.park()
            self.seats.writer.submit(
                Job(lambda connection: self._commit(connection, generation, copied), done=parked.set)
            )
            outcome: bool | CallError = await parked.wait()
            if isinstance(outcome, CallError):
                raise outcome
            stored = outcome
        self._refused += not stored
        return stored

    def _commit(self, connection: sqlite3.Connection, generation: int, offsets: Mapping[Partition, int]) -> bool:
        member = self.seat.member
        return member is not None and self.seats.groups.commit(connection, member, generation, offsets)

    def pause(self, partitions: Iterable[Partition]) -> None:
        paused = tuple(partitions)
        self.source.inbox.pause(paused)
        generation = self._generation
        if generation is not None:
            self.reading.do(lambda _: self.source.pause(generation, paused))

    def resume(self, partitions: Iterable[Partition]) -> None:
        resumed = tuple(partitions)
        self.source.inbox.resume(resumed)
        generation = self._generation
        if generation is not None:
            self.reading.do(lambda _: self.source.resume(generation, resumed))

    def status(self) -> Status:
        return _status(self.source, self.reading, self.log_ends, self._refused)
