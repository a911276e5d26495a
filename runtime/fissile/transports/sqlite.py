"""The transport `sqlite:///path`: a durable log for the processes of one machine, in one SQLite file.

What it promises is in `fissile/abc.py`. Each process has two threads of its own: one writes, and what waits goes in with one transaction
(`_sqlite_writer.py`); one reads, and sees what other processes have written (`_sqlite_reading.py`). The file is in WAL mode, so neither waits
for the other. Consumer groups are rows (`_sqlite_groups.py`): a process that dies loses its partitions at once, where the kernel
can tell, and one that is silent after `session_s`.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from time import monotonic
from typing import Any, Self, TypeVar

import anyio
from attrs import define, field

from fissile._clock import Clock
from fissile._errors import (
    CallError,
    DeadlineExceeded,
    FissileError,
    MessageTooLarge,
    Overloaded,
    TransportClosed,
    Unavailable,
)
from fissile._parking import Parked
from fissile._partitioner import partition_of
from fissile._settings import Settings
from fissile.abc import Member, Outgoing, Partition, Reader, Start, Stored, TopicSpec, Transport, no_key
from fissile.transports._inbox import RECORD_BYTES, Inbox
from fissile.transports._sqlite_alive import Alive
from fissile.transports._sqlite_file import not_stored
from fissile.transports._sqlite_groups import Groups
from fissile.transports._sqlite_home import Home
from fissile.transports._sqlite_log import Append, Topic, ensure_topics, find_topics, incarnation_of
from fissile.transports._sqlite_members import Seats, SqliteMember, SqliteReader
from fissile.transports._sqlite_options import Options, options_of
from fissile.transports._sqlite_reading import Reading, Seat, Source
from fissile.transports._sqlite_writer import Job, Writer

T = TypeVar("T")

_logger = logging.getLogger("fissile.sqlite")

_END_S = 5.0
"""How long a thread may take to end, in seconds."""


@define(eq=False)
class SqliteTransport(Transport):
    """A client of a log in a file."""

    options: Options
    clock: Clock

    durable = True
    shared = True
    incarnation: str = field(default="", init=False)

    _home: Home = field(init=False, repr=False)
    _alive: Alive = field(init=False, repr=False)
    _writer: Writer = field(init=False, repr=False)
    _reading: Reading = field(init=False, repr=False)
    _seats: Seats = field(init=False, repr=False)
    _writer_ended: Parked = field(init=False, repr=False)
    _reading_ended: Parked = field(init=False, repr=False)
    _topics: dict[str, Topic] = field(factory=dict[str, Topic], init=False, repr=False)
    _ends: dict[int, int] = field(factory=dict[int, int], init=False, repr=False)
    _open: set[Append] = field(factory=set[Append], init=False, repr=False)
    _open_bytes: int = field(default=0, init=False, repr=False)
    _all_told: anyio.Event | None = field(default=None, init=False, repr=False)
    _inboxes: set[Inbox] = field(factory=set[Inbox], init=False, repr=False)
    _is_closed: bool = field(default=True, init=False, repr=False)
    _is_dead: bool = field(default=False, init=False, repr=False)
    _next: Callable[[], int] = field(factory=lambda: count().__next__, init=False, repr=False)

    # --- the life ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self._home = Home()
        self._alive = Alive(self.options.path)
        groups = Groups(self.options, self._alive, self.client)
        self._reading = Reading(
            self.options, self._home, groups, self._ends.update, lambda seat: self._seats.take(seat)
        )
        self._writer = Writer(self.options, self._home, self.clock, groups, self._tell, self._reading.wake, self._died)
        self._seats = Seats(groups, self._writer)
        opened = self._home.park()
        self._writer_ended, self._reading_ended = self._home.park(), self._home.park()
        self._writer.start(opened, self._writer_ended)
        error: Exception | None = None
        with anyio.CancelScope(shield=True):  # what is begun is there to be stopped; it is within a bound
            error = await opened.wait()
        if error is not None:
            self._alive.close()
            raise error
        self._reading.start(self._reading_ended)
        self._is_closed = self._is_dead = False
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_closed = True
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(self.options.append_s):
                await self._until_told()
            self._reading.stop()
            self._writer.stop()
            for name, ended in (("reads", self._reading_ended), ("writes", self._writer_ended)):
                with anyio.move_on_after(_END_S) as scope:
                    await ended.wait()
                if scope.cancelled_caught:
                    _logger.warning("the thread that %s %s does not end; it is left behind", name, self.options.path)
            self._died()
            self._alive.close()

    async def _until_told(self) -> None:
        if self._open and not self._is_dead:
            self._all_told = anyio.Event()
            await self._all_told.wait()

    def _died(self) -> None:
        """The thread that writes has ended: nobody may wait for it any longer."""
        self._is_dead = True
        lost = DeadlineExceeded(f"{self.options.path} was closed before it was known whether this is stored.")
        self._tell([(append, lost) for append in self._open])
        for inbox in tuple(self._inboxes):
            inbox.fail(Unavailable(f"{inbox.name} has failed: the thread that writes the log has ended."), at_once=True)

    def check(self) -> str | None:
        if self._is_closed:
            return "The log is not open."
        return self._writer.trouble or self._reading.trouble

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        names = {spec.name for spec in topics}
        incarnation = ""

        def run(connection: sqlite3.Connection) -> dict[str, Topic]:
            nonlocal incarnation
            ensure_topics(connection, topics, int(self.clock.now().timestamp() * 1000))
            incarnation = incarnation_of(connection)
            return find_topics(connection, names)

        self._topics.update(await self._written(Job(run, flushes=True)))
        self.incarnation = incarnation

    async def _written(self, job: Job) -> Any:  # Any: what the job returns
        """Have a job done, and wait for it."""
        self._refuse_if_closed()
        parked = self._home.park()
        job.done = parked.set
        self._writer.submit(job)
        outcome = await parked.wait()
        if isinstance(outcome, FissileError):
            raise outcome
        return outcome

    async def _asked(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Have something looked up in the thread that reads, and wait for it."""
        self._refuse_if_closed()
        parked = self._home.park()

        def ask(connection: sqlite3.Connection) -> None:
            outcome: T | Exception
            try:
                outcome = function(connection)
            except sqlite3.Error as error:
                told = not_stored(error, self.options.path)
                outcome = Unavailable(f"The log cannot be read. {told}")
            self._home.call(parked.set, outcome)

        self._reading.do(ask)
        outcome: T | Exception = Unavailable(f"The log {self.options.path} does not answer.")
        with anyio.move_on_after(self.options.append_s):
            outcome = await parked.wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _know(self, topics: Collection[str]) -> None:
        """Look for topics that this process has not made or checked itself."""
        unknown = [topic for topic in topics if topic not in self._topics]
        if unknown:
            self._topics.update(await self._asked(lambda connection: find_topics(connection, unknown)))

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise TransportClosed("The log is closed.")
        if self._is_dead:
            raise Unavailable("The thread that writes the log has ended.")

    def _topic(self, name: str) -> Topic:
        try:
            return self._topics[name]
        except KeyError:
            raise Unavailable(f"The log has no topic {name}. Topics are made when the application starts.") from None

    # --- storing -----------------------------------------------------------------------------------------------------

    def append_nowait(self, records: Sequence[Outgoing], done: Callable[[Stored | CallError], None]) -> None:
        self._refuse_if_closed()
        places: list[tuple[int, int]] = []
        compacted: tuple[int, ...] = ()
        size_bytes = 0
        anywhere = -1
        for record in records:
            size_bytes += self._size_of(record)
            topic, partition = self._topic(record.topic), record.partition
            if topic.is_compacted:
                if record.key is None:
                    raise no_key(record.topic)
                compacted += topic.logs
            if partition is None:
                if record.key is not None:
                    partition = partition_of(record.key, len(topic.logs))
                else:
                    anywhere = self._next() if anywhere < 0 else anywhere
                    partition = anywhere % len(topic.logs)
            elif not 0 <= partition < len(topic.logs):
                raise Unavailable(f"The topic {record.topic} has no partition {partition}.")
            places.append((partition, topic.logs[partition]))
        if self._open_bytes + size_bytes > self.options.buffer_bytes and self._open:
            raise Overloaded(f"{self._open_bytes} bytes wait to be stored in {self.options.path}.")
        append = Append(records, places, compacted, done, size_bytes, monotonic())
        self._open.add(append)
        self._open_bytes += size_bytes
        self._writer.submit(append)

    def _size_of(self, record: Outgoing) -> int:
        size = record.size_bytes()
        if size > self.options.max_record_bytes:
            raise MessageTooLarge(record.topic, size, self.options.max_record_bytes)
        return size + RECORD_BYTES

    def _tell(self, outcomes: Sequence[tuple[Append, Stored | CallError]]) -> None:
        for append, outcome in outcomes:
            if append not in self._open:
                continue
            self._open.discard(append)
            self._open_bytes -= append.size_bytes
            if not isinstance(outcome, CallError):
                for (_, log), (_, offset) in zip(append.places, outcome, strict=True):
                    if self._ends.get(log, 0) <= offset:
                        self._ends[log] = offset + 1
            try:
                append.done(outcome)
            except Exception:
                _logger.exception("what was to be told of a stored message has failed")
        if not self._open and self._all_told is not None:
            self._all_told.set()

    async def append(self, records: Sequence[Outgoing]) -> Stored:
        self._refuse_if_closed()
        await self._know({record.topic for record in records})
        parked = self._home.park()
        self.append_nowait(records, parked.set)
        outcome: Stored | CallError = await parked.wait()
        if isinstance(outcome, CallError):
            raise outcome
        return outcome

    # --- reading -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def join(self, group: str, topics: Mapping[str, Start], *, batch: int = 500) -> AsyncGenerator[Member]:
        self._refuse_if_closed()
        await self._know(topics)
        compacted = frozenset(
            log for name in topics if self._topic(name).is_compacted for log in self._topic(name).logs
        )
        seat = Seat(group, dict(topics))
        async with self._source(f"The member of {group}", batch, seat, compacted) as source:
            self._reading.do(lambda _: self._reading.add(source))
            self._seats.take(seat)
            try:
                yield SqliteMember(source, seat, self._reading, self._seats, self._ends, self._home.park)
            finally:
                left = self._home.park()
                self._seats.leave(seat, left.set)
                with anyio.move_on_after(_END_S, shield=True):
                    await left.wait()

    @asynccontextmanager
    async def read(
        self, partitions: Sequence[Partition], start: Start | Mapping[Partition, int], *, batch: int = 500
    ) -> AsyncGenerator[Reader]:
        self._refuse_if_closed()
        await self._know({topic for topic, _ in partitions})
        logs: dict[int, Partition] = {}
        compacted: set[int] = set()
        for name, number in partitions:
            topic = self._topic(name)
            if not 0 <= number < len(topic.logs):
                raise Unavailable(f"The topic {name} has no partition {number}.")
            logs[topic.logs[number]] = (name, number)
            if topic.is_compacted:
                compacted.add(topic.logs[number])
        name = "The reader of " + ", ".join(sorted({topic for topic, _ in partitions}))
        async with self._source(name, batch, None, frozenset(compacted)) as source:
            source.partitions = logs
            begins, ends = await self._asked(lambda connection: self._reading.open(connection, source, start))
            yield SqliteReader(source, self._reading, self._ends, begins, ends)

    @asynccontextmanager
    async def _source(
        self, name: str, batch: int, seat: Seat | None, compacted: frozenset[int]
    ) -> AsyncGenerator[Source]:
        sources: list[Source] = []

        def make_room(taken_bytes: int) -> None:
            self._reading.do(lambda _: sources[0].make_room(taken_bytes))

        inbox = Inbox(name, batch, make_room)
        source = Source(inbox, seat, compacted=compacted)
        sources.append(source)
        self._inboxes.add(inbox)
        try:
            yield source
        finally:
            self._inboxes.discard(inbox)
            inbox.close()
            self._reading.do(lambda _: self._reading.remove(source))


def transport(settings: Settings, clock: Clock) -> SqliteTransport:
    """Make the transport of a `sqlite://` URL.

    Raises:
        StartupFailed: The URL names no file.
    """
    return SqliteTransport(options_of(settings), clock)
