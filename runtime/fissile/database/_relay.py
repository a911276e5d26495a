"""The relay: moves what was committed from a module's outbox to the log, in order per key, after a crash too.

One replica of the module does it, the one that holds the lease. It reads in order, appends in order, and deletes a row when the log has it: a
crash in between sends it twice with the same id, which the inbox of the receiver sees through. On a log that forgets everything at a stop, a
row is kept until every module that reads the topic has committed it.

It is woken by each commit of its own process, and looks once a second for those of others and for what has become due.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Collection, Sequence
from time import thread_time

import anyio
from sqlalchemy import Connection

from fissile._bus import Scheduled
from fissile._clock import Clock, SystemClock
from fissile._errors import CallError, MessageTooLarge, TransportClosed
from fissile._storage import Committed, RelayStatistics
from fissile.abc import Outgoing, Transport
from fissile.database._errors import DatabaseUnavailable
from fissile.database._handover import Handover
from fissile.database._inbox import FORGOTTEN_ROWS, Statements
from fissile.database._lease import Lease
from fissile.database._outbox import BATCH_ROWS, OutboxStatements, Row, Waiting
from fissile.database._schedules import Schedules
from fissile.database._store import Store

_logger = logging.getLogger("fissile.outbox")

_POLL_S = 1.0
_BREATHS = 9.0
_BREATHS_AFTER_READING = 4.0
"""A round begins at the earliest when that many times what the last one took have passed since it began: the processor time of the event loop's
thread, and the time of reading the database. So under load the commits of a moment make one round, and handlers have most of the time.
Waiting for the log does not count, so that nothing waits where little happens."""

_LONGEST_BREATH_S = 0.02
_DELETE_S = 0.25
"""How long a row that was sent may stand, in seconds. Deleting each at once would cost a commit per message."""

_KNOWN_ROWS = 5000
"""How many rows may be sent and not deleted: on a log that forgets, subscribers that do not keep up hold back the relay."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_SET_ASIDE_S = 3600.0
_CLEAN_S = 60.0
_CLEAN_ON_S = 0.05
"""How soon the inbox forgets more, if there is more, in seconds: ten times as much as comes in, whether or not there is anything to send."""


class Relay:
    """The relay of one module.

    Args:
        store: The module's database.
        lease: Tells whether this process is the one that relays.
        clock: The time.
        schedules: What becomes due again and again.
        inbox_s: How long the inbox remembers, in seconds.
    """

    def __init__(self, store: Store, lease: Lease, clock: Clock, schedules: Schedules, inbox_s: float) -> None:
        self._store = store
        self._lease = lease
        self._clock = clock
        self._schedules = schedules
        self._inbox_s = inbox_s
        self._outbox = OutboxStatements(store.dialect)
        self._inbox = Statements(store.dialect)
        self._news = anyio.Event()
        self._handover = Handover()
        self._known: set[int] = set()
        self._sent: deque[tuple[int, str, int, int]] = deque()
        self._done: list[int] = []
        self._deleted_s = 0.0
        self._cleaned_s = 0.0
        self._trouble: str | None = None
        self._sent_rows = self._failed_rounds = self._set_aside_rows = 0
        self._reading_s = 0.0
        self._looks_at_s = 0.0  # when to look again for what has become due, in seconds since 1970

    def wake(self, outgoing: Sequence[Outgoing | Scheduled] = (), first: int | None = None) -> None:
        """Tell that something was committed.

        Args:
            outgoing: What it was.
            first: The number of its first row; None where that is not known.
        """
        self._handover.offer(outgoing, first)
        if any(isinstance(each, Scheduled) for each in outgoing):
            self._looks_at_s = 0.0
        self._news.set()

    def check(self) -> str | None:
        """Return what keeps it from sending, or None."""
        return self._trouble

    def statistics(self) -> RelayStatistics:
        """Return what it has done."""
        return RelayStatistics(self._sent_rows, self._failed_rounds, self._set_aside_rows, len(self._known))

    async def run(self, transport: Transport, topics: Collection[str], committed: Committed | None) -> None:
        """Send until cancelled.

        Args:
            transport: The log.
            topics: The topics that the log has.
            committed: See `OpenStorage.relay`.
        """
        self._known.clear()
        self._sent.clear()
        self._done.clear()
        self._handover.forget()
        failures = 0
        try:
            while True:
                begun, busy_s = anyio.current_time(), thread_time()
                self._news = anyio.Event()
                try:
                    wait_s = await self._round(transport, topics, committed) if await self._lease.hold() else _POLL_S
                except (CallError, TransportClosed, DatabaseUnavailable) as error:
                    failures += 1
                    self._failed_rounds += 1
                    self._handover.forget()  # what was taken out of it is still to be sent
                    outside = error.told_outside() if isinstance(error, DatabaseUnavailable) else error
                    self._trouble = f"the outbox cannot be sent: {outside}"
                    _logger.warning("%s: the outbox cannot be sent: %s", self._store.module, error)
                    await self._clock.sleep(min(_FIRST_PAUSE_S * 2.0**failures, _LONGEST_PAUSE_S))
                else:
                    failures, self._trouble = 0, None
                    busy_s = thread_time() - busy_s
                    breath_s = max(_BREATHS * busy_s, _BREATHS_AFTER_READING * self._reading_s)
                    breath_s = min(breath_s, _LONGEST_BREATH_S)
                    if wait_s > 0.0:
                        await self._wait(wait_s)
                        await anyio.sleep(max(0.0, begun + breath_s - anyio.current_time()))
        finally:
            with anyio.move_on_after(1.0, shield=True):
                await self._leave()

    async def _leave(self) -> None:
        try:
            if self._done:
                await self._delete()
            await self._lease.release()
        except DatabaseUnavailable as error:
            _logger.debug("%s: the outbox was left as it is: %s", self._store.module, error)

    async def _wait(self, seconds: float) -> None:
        """Wait for a commit, but not longer than so many seconds of the runtime's clock."""
        if isinstance(self._clock, SystemClock):  # the task group below costs as much as a round
            with anyio.move_on_after(seconds):
                await self._news.wait()
            return
        async with anyio.create_task_group() as tasks:

            async def until(time_s: float) -> None:
                await self._clock.sleep(time_s)
                tasks.cancel_scope.cancel()

            tasks.start_soon(until, seconds)
            await self._news.wait()
            tasks.cancel_scope.cancel()

    async def _round(self, transport: Transport, topics: Collection[str], committed: Committed | None) -> float:
        """Send what is there; return how long to wait for more, in seconds."""
        now = self._clock.now().timestamp()
        if self._schedules.is_due(now):
            self._handover.forget()  # what it sends is not told
        wait_s = await self._schedules.tick(now)
        rows: list[Row] = []
        if len(self._known) < _KNOWN_ROWS:
            rows = await self._find(now)
        if rows:
            await self._send(transport, rows, topics, is_volatile=committed is not None)
        if committed is not None:
            self._collect(committed)
        if self._done and (len(self._done) >= BATCH_ROWS or self._clock.monotonic() - self._deleted_s >= _DELETE_S):
            await self._delete()
        if await self._clean(now):
            wait_s = min(wait_s, _CLEAN_ON_S)
        if len(rows) >= BATCH_ROWS // 2 or (rows and self._looks_at_s <= now):
            return 0.0  # there may be more of them than are read at a time
        return min(wait_s, max(0.001, self._looks_at_s - now), _DELETE_S if self._known else _POLL_S)

    async def _find(self, now: float) -> list[Row]:
        """Find the rows to be sent: those that wait and, when it is time to look, those that are due."""
        # It looks every second at least: if the next time is further away, the clock was set back meanwhile.
        looks, self._reading_s = not 0.0 < self._looks_at_s - now <= _POLL_S, 0.0
        if not looks and (handed := self._handover.take()) is not None:
            return handed
        known, now_ms = frozenset(self._known), int(now * 1000)

        def find(connection: Connection) -> tuple[Waiting, list[Row], float]:
            waiting = self._outbox.read(connection, known)
            if not looks:
                return waiting, [], math.inf
            due, next_ms = self._outbox.read_due(connection, known, now_ms)
            if due:
                return waiting, due, now
            # Another replica may schedule something meanwhile, so it is looked at every second anyway.
            return waiting, [], min(now + _POLL_S, math.inf if next_ms is None else next_ms / 1000)

        if looks:
            self._looks_at_s = now + _POLL_S
        self._handover.forget()
        begun = anyio.current_time()
        waiting, due, looks_at_s = await self._store.read(find)
        self._reading_s = anyio.current_time() - begun
        self._handover.has_read(waiting.reached)
        self._looks_at_s = min(self._looks_at_s, looks_at_s)  # something may have been scheduled meanwhile
        return waiting.rows + due

    async def _send(self, transport: Transport, rows: list[Row], topics: Collection[str], *, is_volatile: bool) -> None:
        """Store rows in the log, all in order. If that fails in the middle, all of them are sent again: twice is seen through, a gap not."""
        unknown = [row for row in rows if row.record.topic not in topics]
        if unknown:
            await self._set_aside(unknown, "no module of the application declares the topic")
            rows = [row for row in rows if row.record.topic in topics]
        if not rows:
            return
        try:
            stored = await transport.append([row.record for row in rows])
        except MessageTooLarge as error:
            if len(rows) == 1:
                await self._set_aside(rows, str(error))
            else:
                for row in rows:  # one of them is; the others go
                    await self._send(transport, [row], topics, is_volatile=is_volatile)
            return
        self._sent_rows += len(rows)
        for row, (partition, offset) in zip(rows, stored, strict=True):
            self._known.add(row.seq)
            if is_volatile:
                self._sent.append((row.seq, row.record.topic, partition, offset))
            else:
                self._done.append(row.seq)

    async def _set_aside(self, rows: list[Row], why: str) -> None:
        """Keep rows that cannot be sent from holding up those behind them; they are tried again in an hour."""
        self._set_aside_rows += len(rows)
        for row in rows:
            _logger.error(
                "%s: row %d of fissile_outbox cannot be sent to %s: %s. It is kept, and tried again in an hour.",
                self._store.module,
                row.seq,
                row.record.topic,
                why,
            )
        seqs = [row.seq for row in rows]
        due_ms = int((self._clock.now().timestamp() + _SET_ASIDE_S) * 1000)
        await self._store.run(lambda connection: self._outbox.postpone(connection, seqs, due_ms))

    def _collect(self, committed: Committed) -> None:
        """Find what every subscriber has committed, on a log that would forget it."""
        kept: deque[tuple[int, str, int, int]] = deque()
        for entry in self._sent:
            seq, topic, partition, offset = entry
            reached = committed(topic, partition)
            if reached is not None and reached > offset:
                self._done.append(seq)
            else:
                kept.append(entry)
        self._sent = kept

    async def _delete(self) -> None:
        done = self._done
        await self._store.run(lambda connection: self._outbox.delete(connection, done))
        self._known.difference_update(done)
        self._done = []
        self._deleted_s = self._clock.monotonic()

    async def _clean(self, now: float) -> bool:
        """Forget what the inbox has remembered long enough, a little at a time; return whether there may be more."""
        if self._clock.monotonic() - self._cleaned_s < _CLEAN_S:
            return False
        oldest_ms = int((now - self._inbox_s) * 1000)
        forgotten = await self._store.run(
            lambda connection: connection.exec_driver_sql(self._inbox.forget_outcomes, (oldest_ms,)).rowcount
        )
        if forgotten == FORGOTTEN_ROWS:
            return True
        self._cleaned_s = self._clock.monotonic()
        return False
