"""The thread that writes. All that waits goes in with one transaction, and one flush to the disk (group commit).

What was appended is flushed before it is told (`synchronous = FULL`). Offsets and heartbeats alone are not: they outlive the process, but not
a power failure, after which messages since the last flush come again.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any

import msgspec
from attrs import define, field

from fissile._clock import Clock
from fissile._errors import CallError, StartupFailed, Unavailable
from fissile._parking import Parked
from fissile.abc import Stored
from fissile.transports._sqlite_file import is_busy, not_stored, open_file
from fissile.transports._sqlite_groups import Groups
from fissile.transports._sqlite_home import Home
from fissile.transports._sqlite_housekeeping import Housekeeping
from fissile.transports._sqlite_log import Append, store
from fissile.transports._sqlite_options import Options

_logger = logging.getLogger("fissile.sqlite")

_BATCH_BYTES = 8 * 1024 * 1024
"""How much goes into one transaction."""


def nothing(_: object) -> None:
    """For who does not want to know."""


class Job(msgspec.Struct, eq=False):
    """Something to be done in a transaction. Any: what `run` returns is what the other two are told.

    Attributes:
        run: Does it, in the thread.
        applied: Called in the thread, once it is committed.
        done: Called at home: with what `run` has returned, or with why it was not done.
        flushes: Whether it has to outlive a power failure.
        is_kept: Whether it is tried again where it has failed, and `done` is told of no failure.
        at: When it was asked for, on the monotonic clock.
    """

    run: Callable[[sqlite3.Connection], Any]
    applied: Callable[[Any], None] = nothing
    done: Callable[[Any], None] = nothing
    flushes: bool = False
    is_kept: bool = False
    at: float = msgspec.field(default_factory=monotonic)


@define(eq=False)
class Writer:
    """The thread, and what home asks of it.

    Attributes:
        options: Bounds.
        home: The way back.
        clock: Gives timestamps.
        groups: The consumer groups.
        tell: Called at home with what became of appends.
        on_commit: Called in the thread when something was written.
        on_death: Called at home if the thread ends although nobody asked it to.
        trouble: What is wrong, as a sentence; None if nothing is.
    """

    options: Options
    home: Home
    clock: Clock
    groups: Groups
    tell: Callable[[Sequence[tuple[Append, Stored | CallError]]], None]
    on_commit: Callable[[], None]
    on_death: Callable[[], None]
    trouble: str | None = None
    _queue: SimpleQueue[Append | Job | None] = field(factory=lambda: SimpleQueue[Append | Job | None]())
    _kept: list[Job] = field(factory=list[Job])
    _housekeeping: Housekeeping = field(init=False)
    _is_stopping: bool = False
    _has_ended: bool = False
    _flushes: bool | None = None
    _file: tuple[int, int] | None = None
    _is_gone: bool = False
    _look_at: float = 0.0
    _keep_house_at: float = 0.0

    def __attrs_post_init__(self) -> None:
        self._housekeeping = Housekeeping(self.options)

    # --- at home -----------------------------------------------------------------------------------------------------

    def start(self, opened: Parked, ended: Parked) -> None:
        """Start the thread.

        Args:
            opened: Told None when the file is open, else the error.
            ended: Told when the thread has ended.
        """
        # A daemon: a thread that hangs, in a disk that does not answer, must not hold up the end of the process.
        threading.Thread(target=self._main, args=(opened, ended), name="fissile-sqlite-writer", daemon=True).start()

    def submit(self, what: Append | Job) -> None:
        """Have something written."""
        self._queue.put(what)
        if self._has_ended:
            self._refuse_the_rest()

    def _refuse_the_rest(self) -> None:
        """The thread has ended: tell those who are in the queue."""
        error = Unavailable(f"The thread that writes {self.options.path} has ended. Nothing was stored.")
        with suppress(Empty):
            while True:
                what = self._queue.get_nowait()
                if isinstance(what, Append):
                    self.home.call(self.tell, [(what, error)])
                elif what is not None:
                    self.home.call(what.done, error)

    def stop(self) -> None:
        """Write what waits, and end."""
        self._is_stopping = True
        self._queue.put(None)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _main(self, opened: Parked, ended: Parked) -> None:
        try:
            connection = open_file(self.options.path)
            self._file = self._identity()
        except Exception as error:  # noqa: BLE001 -- whoever opens it is told
            self.home.call(opened.set, error)
            self.home.call(ended.set, None)
            return
        self.home.call(opened.set, None)
        try:
            with closing(connection):
                self._work(connection)
        except BaseException:
            _logger.critical("the thread that writes %s has failed", self.options.path, exc_info=True)
            self.trouble = "The thread that writes the log has failed; the process has to be started again."
            self.home.call(self.on_death)
        finally:
            self._has_ended = True
            self._refuse_the_rest()
            self.home.call(ended.set, None)

    def _work(self, connection: sqlite3.Connection) -> None:
        while True:
            appends, jobs, is_end = self._take()
            if monotonic() >= self._look_at:
                self._look_at = monotonic() + self.options.heartbeat_s
                self._look()
                if self.groups.process is not None:
                    jobs.insert(0, Job(self.groups.look_after))
                jobs, self._kept = [*self._kept, *jobs], []
            if is_end:
                jobs.append(Job(self.groups.retire))
            if appends or jobs:
                self._transact(connection, appends, jobs)
            if is_end:
                return
            self._keep_house(connection)

    def _take(self) -> tuple[list[Append], list[Job], bool]:
        """Wait until there is something to do; take all of it, within a bound."""
        appends: list[Append] = []
        jobs: list[Job] = []
        size_bytes = 0
        until = monotonic() if self._housekeeping.is_due else min(self._look_at, self._keep_house_at)
        with suppress(Empty):
            what = self._queue.get(timeout=max(0.0, until - monotonic()))
            while True:
                if what is None:
                    return appends, jobs, True
                if isinstance(what, Append):
                    appends.append(what)
                    size_bytes += what.size_bytes
                    if size_bytes > _BATCH_BYTES:
                        break
                else:
                    jobs.append(what)
                what = self._queue.get_nowait()
        return appends, jobs, False

    def _transact(self, connection: sqlite3.Connection, appends: list[Append], jobs: list[Job]) -> None:
        results: list[Any] = []
        stored: list[Stored] = []
        try:
            if self._is_gone and appends:
                raise sqlite3.OperationalError("the file is gone")
            if not self._begin(connection, appends, jobs):
                return
            for job in jobs:
                results.append(_run(connection, job))
            if appends:
                stored, sizes = store(connection, appends, self._now_ms())
                self._housekeeping.grown(sizes)
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 -- whoever waits is told, whatever it is
            _roll_back(connection)
            self._fail(appends, jobs, self._reason(error))
            return
        if not self._is_gone:
            self.trouble = None
        for job, result in zip(jobs, results, strict=True):
            if not isinstance(result, StartupFailed):
                job.applied(result)
            if job.done is not nothing:
                self.home.call(job.done, result)
        if appends:
            self.home.call(self.tell, list(zip(appends, stored, strict=True)))
        self.on_commit()

    def _begin(self, connection: sqlite3.Connection, appends: list[Append], jobs: list[Job]) -> bool:
        """Begin a transaction, as soon as no other connection writes; give up what has waited too long."""
        while appends or jobs:
            flushes = bool(appends) or any(job.flushes for job in jobs)
            if flushes is not self._flushes:
                connection.execute(f"PRAGMA synchronous = {'FULL' if flushes else 'NORMAL'}")
                self._flushes = flushes
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
            else:
                return True
            since = monotonic() - (0.0 if self._is_stopping else self.options.append_s)
            late, late_jobs = (
                [each for each in appends if each.at <= since],
                [each for each in jobs if each.at <= since],
            )
            if late or late_jobs:
                what = f"The log {self.options.path} is locked by another program. Nothing was stored."
                self._fail(late, late_jobs, Unavailable(what))
                appends[:] = [each for each in appends if each.at > since]
                jobs[:] = [each for each in jobs if each.at > since]
        return False

    def _fail(self, appends: Sequence[Append], jobs: Sequence[Job], error: CallError) -> None:
        if self.trouble is None:
            _logger.error("%s", error)
        self.trouble = str(error)
        for job in jobs:
            if job.is_kept:
                job.at = monotonic()
                self._kept.append(job)
            elif job.done is not nothing:
                self.home.call(job.done, error)
        if appends:
            self.home.call(self.tell, [(append, error) for append in appends])

    def _reason(self, error: Exception) -> CallError:
        self._look()  # of a file that is gone, SQLite says that it may not be written
        if self._is_gone and self.trouble is not None:
            return Unavailable(f"Nothing was stored. {self.trouble}")
        if isinstance(error, sqlite3.Error):
            return not_stored(error, self.options.path)
        _logger.error("nothing could be written to %s", self.options.path, exc_info=error)
        return Unavailable(f"Nothing was stored in {self.options.path}: {error!r}.")

    def _now_ms(self) -> int:
        return int(self.clock.now().timestamp() * 1000)

    # --- looking after the file --------------------------------------------------------------------------------------

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.options.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _look(self) -> None:
        """See that the file is still there: what is written to one that was removed is lost."""
        self._is_gone = self._identity() != self._file
        if self._is_gone:
            self.trouble = (
                f"The log {self.options.path} was removed or replaced while it was in use. Start the process again."
            )

    def _keep_house(self, connection: sqlite3.Connection) -> None:
        now = monotonic()
        try:
            if now >= self._keep_house_at:
                self._keep_house_at = now + self.options.housekeeping_s
                self._housekeeping.begin(connection)
            if self._housekeeping.is_due:
                if self._flushes is not False:
                    connection.execute("PRAGMA synchronous = NORMAL")
                    self._flushes = False
                connection.execute("BEGIN IMMEDIATE")
                self._housekeeping.step(connection, self._now_ms())
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            _roll_back(connection)
            if not is_busy(error):
                self._housekeeping = Housekeeping(self.options)  # until the next time
                self._look()
                if self.trouble is None:
                    self.trouble = str(not_stored(error, self.options.path))
                    _logger.warning("what is too old cannot be deleted: %s", self.trouble)


def _run(connection: sqlite3.Connection, job: Job) -> Any:  # Any: whatever the job is for
    """Do a job; what it refuses is undone, and is its result."""
    connection.execute("SAVEPOINT job")
    try:
        return job.run(connection)
    except StartupFailed as refused:
        connection.execute("ROLLBACK TO job")
        return refused
    finally:
        with suppress(sqlite3.Error):
            connection.execute("RELEASE job")


def _roll_back(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
