"""The thread that reads: it gives each member and reader what was stored, as soon as this process has stored it, or it sees that another has.

It looks with `PRAGMA data_version`, which reads shared memory and takes some microseconds: every 2 ms while something happens, then at a
tenth of the time for which nothing has, up to four times a second.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from queue import Empty, SimpleQueue
from time import monotonic

import msgspec
from attrs import define, field

from fissile._errors import PositionLost, Unavailable
from fissile._parking import Parked
from fissile.abc import Assigned, Partition, Revoked, Start
from fissile.transports._inbox import READ_AHEAD_BYTES, RECORD_BYTES, Chunk, Inbox
from fissile.transports._sqlite_file import connect, is_busy
from fissile.transports._sqlite_groups import HANDING_OVER, HOLDING, Groups
from fissile.transports._sqlite_home import Home
from fissile.transports._sqlite_log import ends_of, fetch, first_kept
from fissile.transports._sqlite_options import Options

_logger = logging.getLogger("fissile.sqlite")

Command = Callable[[sqlite3.Connection], None]
"""What is to be done in the thread."""

_BATCH = 1000
"""How many records of a log are read at a time."""
_PATIENCE_S = 5.0
"""How long reading may fail before members and readers are told."""


class Seat(msgspec.Struct, eq=False):
    """A member's place in its group, between the threads: the writer takes it, the reader sees what becomes of it.

    Attributes:
        group: The group.
        topics: What it reads.
        member: Its number; None before it has joined.
        has_handed_over: Whether it has let go of what it was asked for last.
        is_joining: Whether it is to join anew.
        has_left: Whether it is over.
    """

    group: str
    topics: Mapping[str, Start]
    member: int | None = None
    has_handed_over: bool = False
    is_joining: bool = True
    has_left: bool = False


class Source(msgspec.Struct, eq=False):
    """What one member or reader reads. Of the thread, but for its inbox."""

    inbox: Inbox
    seat: Seat | None = None
    partitions: dict[int, Partition] = msgspec.field(default_factory=dict[int, Partition])
    positions: dict[int, int] = msgspec.field(default_factory=dict[int, int])
    compacted: frozenset[int] = frozenset()
    paused: set[Partition] = msgspec.field(default_factory=set[Partition])
    room_bytes: int = READ_AHEAD_BYTES
    generation: int = 0
    is_holding: bool = False

    def make_room(self, taken_bytes: int) -> None:
        """Note that home has taken something out."""
        self.room_bytes = min(READ_AHEAD_BYTES, self.room_bytes + taken_bytes)

    def pause(self, generation: int, partitions: Iterable[Partition]) -> None:
        """Read no more of some partitions."""
        if generation == self.generation:
            self.paused.update(partitions)

    def resume(self, generation: int, partitions: Iterable[Partition]) -> None:
        """Go on."""
        if generation == self.generation:
            self.paused.difference_update(partitions)


@define(eq=False)
class Reading:
    """The thread, and what home asks of it.

    Attributes:
        options: Bounds.
        home: The way back.
        groups: The consumer groups.
        note_ends: Called at home with ends of logs that have changed.
        rejoin: Called in the thread where a member has lost its place.
        answered_at: When the file was read last, on the monotonic clock.
        trouble: What is wrong, as a sentence; None if nothing is.
    """

    options: Options
    home: Home
    groups: Groups
    note_ends: Callable[[Mapping[int, int]], None]
    rejoin: Callable[[Seat], None]
    answered_at: float = field(factory=monotonic)
    trouble: str | None = None
    _queue: SimpleQueue[Command | None] = field(factory=lambda: SimpleQueue[Command | None]())
    _sources: list[Source] = field(factory=list[Source])
    _ends: dict[int, int] = field(factory=dict[int, int])
    _version: int | None = None
    _busy_at: float = field(factory=monotonic)
    _is_woken: bool = False
    _is_stopping: bool = False

    # --- from elsewhere ----------------------------------------------------------------------------------------------

    def start(self, ended: Parked) -> None:
        """Start the thread."""
        threading.Thread(target=self._main, args=(ended,), name="fissile-sqlite-reader", daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._is_stopping = True
        self._queue.put(None)

    def wake(self) -> None:
        """Have it look now: this process has written."""
        if not self._is_woken:
            self._is_woken = True
            self._queue.put(None)

    def do(self, function: Command) -> None:
        """Have something done in the thread, then look."""
        self._queue.put(function)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _main(self, ended: Parked) -> None:
        try:
            with closing(connect(self.options.path)) as connection:
                connection.execute("PRAGMA query_only = 1")
                connection.execute("PRAGMA cache_size = -8192")
                while not self._is_stopping:
                    self._turn(connection)
        except BaseException:
            _logger.critical("the thread that reads %s has failed", self.options.path, exc_info=True)
            self.trouble = "The thread that reads the log has failed; the process has to be started again."
            self._fail(self.trouble)
        finally:
            self.home.call(ended.set, None)

    def _turn(self, connection: sqlite3.Connection) -> None:
        functions = self._wait()
        try:
            for function in functions:
                function(connection)
            was_woken, self._is_woken = self._is_woken, False
            if not self._sources:
                return
            (version,) = connection.execute("PRAGMA data_version").fetchone()
            if version != self._version or was_woken or functions:
                self._version = version
                while self._look(connection) and not self._is_stopping:
                    pass
            self.answered_at, self.trouble = monotonic(), None
        except sqlite3.Error as error:
            self._version = None
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            self._tell_trouble(error)

    def _wait(self) -> list[Command]:
        """Wait until it is time to look, or there is something to do; return that."""
        functions: list[Command] = []
        timeout_s: float | None = None
        if self._sources:
            quiet_s = monotonic() - self._busy_at
            timeout_s = min(self.options.idle_poll_s, max(self.options.poll_s, quiet_s / 10))
        with suppress(Empty):
            what = self._queue.get(timeout=timeout_s)
            while True:
                if what is not None:
                    functions.append(what)
                what = self._queue.get_nowait()
        return functions

    def _tell_trouble(self, error: sqlite3.Error) -> None:
        silent_s = monotonic() - self.answered_at
        if is_busy(error) and silent_s < _PATIENCE_S:
            return
        if self.trouble is None:
            _logger.error("the log %s cannot be read: %s", self.options.path, error)
        self.trouble = f"The log {self.options.path} cannot be read: {error}."
        if silent_s >= _PATIENCE_S or not isinstance(error, sqlite3.OperationalError):
            self._fail(self.trouble)

    def _fail(self, reason: str) -> None:
        """Give all members and readers up; whoever has them opens others."""
        sources, self._sources = self._sources, []
        for source in sources:
            self.home.call(lambda inbox: inbox.fail(Unavailable(reason), at_once=False), source.inbox)

    # --- sources -----------------------------------------------------------------------------------------------------

    def add(self, source: Source) -> None:
        """In the thread: begin to read."""
        if not self._sources:
            self.answered_at = monotonic()
        self._sources.append(source)
        self._busy_at = monotonic()

    def remove(self, source: Source) -> None:
        """In the thread: read it no more."""
        if source in self._sources:
            self._sources.remove(source)

    def open(
        self,
        connection: sqlite3.Connection,
        source: Source,
        start: Start | Mapping[Partition, int],
    ) -> tuple[dict[Partition, int], dict[Partition, int]]:
        """In the thread: find out where to begin, and begin.

        Args:
            connection: The thread's.
            source: Its partitions are known, its positions are not.
            start: As for `Transport.read`.

        Returns:
            The first offset that will come, and the end of the log, per partition.
        """
        connection.execute("BEGIN")
        try:
            all_ends = ends_of(connection)
            begins: dict[Partition, int] = {}
            for log, partition in source.partitions.items():
                end = all_ends[log]
                first = 0 if log in source.compacted else first_kept(connection, log, end)
                wanted = start if isinstance(start, str) else start.get(partition, "latest")
                if wanted == "latest":
                    begins[partition] = end
                elif wanted == "earliest" or not first <= int(wanted) <= end:
                    begins[partition] = first_kept(connection, log, end)
                else:
                    begins[partition] = int(wanted)
                source.positions[log] = begins[partition]
        finally:
            connection.execute("COMMIT")
        ends = {partition: all_ends[log] for log, partition in source.partitions.items()}
        self.home.call(source.inbox.begin, begins, ends)
        self.add(source)
        return begins, ends

    # --- looking -----------------------------------------------------------------------------------------------------

    def _look(self, connection: sqlite3.Connection) -> bool:
        """Give every source what there is; return whether there may be more."""
        # Before the transaction: what the writer says of a seat is then in the file that we see.
        seats = [
            (source, source.seat, source.seat.member, source.seat.has_handed_over)
            for source in self._sources
            if source.seat
        ]
        connection.execute("BEGIN")
        try:
            ends = ends_of(connection)
            changed = {log: end for log, end in ends.items() if self._ends.get(log) != end}
            if changed:
                self._ends, self._busy_at = ends, monotonic()
                self.home.call(self.note_ends, changed)
            if seats:
                query = "SELECT id, state, generation FROM members WHERE process = ?"
                rows = connection.execute(query, (self.groups.process,)).fetchall()
                found = {member: (state, generation) for member, state, generation in rows}
                for source, seat, member, has_handed_over in seats:
                    if member is not None and not seat.has_left:
                        self._see(connection, source, seat, member, found.get(member), has_handed_over=has_handed_over)
            has_more = False
            for source in tuple(self._sources):
                has_more = self._read(connection, source) or has_more
            return has_more
        finally:
            connection.execute("COMMIT")

    def _see(
        self,
        connection: sqlite3.Connection,
        source: Source,
        seat: Seat,
        member: int,
        row: tuple[int, int] | None,
        *,
        has_handed_over: bool,
    ) -> None:
        """Tell a member what became of its place."""
        if source.is_holding:
            if row is None or row[0] == HANDING_OVER or row[1] != source.generation:
                held = frozenset(source.partitions.values())
                source.is_holding, source.positions, source.partitions = False, {}, {}
                self._busy_at = monotonic()
                self.home.call(source.inbox.revoke, Revoked(source.generation, held))
        elif row is None:
            if (has_handed_over or not source.generation) and not seat.is_joining:
                seat.is_joining = True
                self.rejoin(seat)
        elif row[0] == HOLDING and row[1] != source.generation:
            share = self.groups.share_of(connection, member, self._ends)
            seat.has_handed_over, self._busy_at = False, monotonic()
            source.is_holding, source.generation, source.room_bytes = True, row[1], READ_AHEAD_BYTES
            source.partitions = {held.log: held.partition for held in share}
            source.positions = {held.log: held.position for held in share}
            source.paused.clear()
            assigned = Assigned(row[1], {held.partition: held.position for held in share})
            self.home.call(source.inbox.assign, assigned, {held.partition: self._ends[held.log] for held in share})

    def _read(self, connection: sqlite3.Connection, source: Source) -> bool:
        """Give one source what there is; return whether there may be more."""
        chunks: list[Chunk] = []
        has_more = False
        for log, position in tuple(source.positions.items()):
            partition, end = source.partitions[log], self._ends[log]
            if position >= end or partition in source.paused or source.room_bytes <= 0:
                continue
            records, taken_bytes = fetch(connection, partition, log, position, _BATCH, source.room_bytes)
            if source.seat is None and log not in source.compacted and (not records or records[0].offset != position):
                first = records[0].offset if records else end
                lost = PositionLost(f"{partition[0]}[{partition[1]}] begins at {first} now; {position} has expired.")
                self.remove(source)
                self._put(source, chunks)
                self.home.call(lambda inbox, error: inbox.fail(error, at_once=False), source.inbox, lost)
                return False
            if records:
                cost_bytes = taken_bytes + RECORD_BYTES * len(records)
                source.room_bytes -= cost_bytes
                del source.positions[log]
                source.positions[log] = records[-1].offset + 1  # behind the others, for the next time
                chunks.append(Chunk(partition, records, cost_bytes, end))
                has_more = has_more or source.positions[log] < end
            else:
                source.positions[log] = end  # of a compacted log that has nothing after the position
        self._put(source, chunks)
        return has_more and source.room_bytes > 0

    def _put(self, source: Source, chunks: list[Chunk]) -> None:
        if chunks:
            self.home.call(source.inbox.put, chunks)
