"""The store: one module's database, used from async code with one hop to a worker thread per step.

A step is a function that is given SQLAlchemy's `Connection`. BEGIN goes with the first step of a transaction and COMMIT with the last,
so that a transaction of one step costs one hop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from math import inf
from types import TracebackType
from typing import NoReturn, Self, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from fissile._settings import Settings
from fissile.database._connections import Place, Places
from fissile.database._dialect import Dialect, DialectName, Target, open_dialect
from fissile.database._errors import CommitUnknown, DatabaseUnavailable
from fissile.database._store_transaction import StoreTransaction
from fissile.database._thread import Job, Threads

T = TypeVar("T")

_logger = logging.getLogger("fissile.database")

_READERS = 4
_PROBE_S = 5.0
_FIRST_PROBE_S, _LAST_PROBE_S = 0.05, 1.0


class Store:
    """The database of one module. An async context manager; connections are opened when they are first needed.

    Functions that are given to it run in a worker thread, with the contextvars of the caller. When the caller is cancelled, the statement that
    they execute is interrupted, the transaction is rolled back, and the cancellation goes on when the thread has ended. What the function does
    besides statements cannot be interrupted.

    Args:
        target: Where the database is.
        settings: The runtime's settings.
    """

    def __init__(self, target: Target, settings: Settings) -> None:
        self.target = target
        self._settings = settings
        self._dialect: Dialect = open_dialect(target)
        self._threads: Threads
        self._writers: Places
        self._readers: Places
        self._problem: str | None = None
        self._details = ""
        self._trouble: anyio.Event
        self._well_s = -inf

    @property
    def module(self) -> str:
        """The module whose database it is."""
        return self.target.module

    @property
    def dialect(self) -> DialectName:
        """Which database it is."""
        return self._dialect.name

    @property
    def lock_s(self) -> float:
        """How long one waits for a connection, or for a lock, in seconds."""
        return self._settings.database_lock_s

    async def __aenter__(self) -> Self:
        settings, dialect = self._settings, self._dialect
        self._trouble = anyio.Event()
        wait_s, count = settings.database_lock_s, settings.database_connections
        # Readers have places of their own on both databases. Who has begun a transaction holds its place and may want to read beside it: as many
        # at a time as there are places would wait for each other.
        readers = min(_READERS, count) if dialect.name == "sqlite" else max(1, count // 4)
        writers = 1 if dialect.name == "sqlite" else max(1, count - readers)
        self._writers, self._readers = Places(dialect, writers, wait_s), Places(dialect, readers, wait_s)
        self._writers.beside, self._readers.beside = (self._readers,), (self._writers,)
        # A statement that waits for a lock holds a thread, and who holds the lock needs one to let go of it.
        self._threads = Threads(max(settings.database_threads, writers + readers))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._close)

    def _close(self) -> None:
        self._readers.close()
        self._writers.close()
        self._dialect.dispose()
        self._threads.close()

    # --- transactions ------------------------------------------------------------------------------------------------

    async def run(self, function: Callable[[Connection], T]) -> T:
        """Run a function in a transaction of its own: BEGIN, the function and COMMIT in one hop.

        Raises:
            DatabaseUnavailable: The database cannot be used; nothing was changed.
            CommitUnknown: It was lost during the commit.
            Exception: What the function raised, SQLAlchemy's errors included; nothing was changed.
        """
        place = await self._take(self._writers)
        try:
            return await self._hop(place, lambda job: self._whole(place, function, job, reads=False))
        finally:
            place.give_back()

    async def read(self, function: Callable[[Connection], T]) -> T:
        """Run a function in a transaction that reads only, in one hop. It sees one state of the database.

        Raises:
            DatabaseUnavailable: The database cannot be used.
            Exception: What the function raised; SQLAlchemy's error if it tried to write.
        """
        place = await self._take(self._readers)
        try:
            return await self._hop(place, lambda job: self._whole(place, function, job, reads=True))
        finally:
            place.give_back()

    async def begin(self) -> StoreTransaction:
        """Begin a transaction of several steps: take the one connection that writes (SQLite), or one of several (PostgreSQL).

        `BEGIN` is said with the first step. The caller ends it with `commit` or `rollback`, whatever happens.

        Raises:
            DatabaseUnavailable: The connections are held by others for too long.
        """
        return StoreTransaction(self, await self._take(self._writers))

    async def maintain(self, function: Callable[[Connection], T]) -> T:
        """Run a function that changes tables, in a transaction of its own; no other writes meanwhile, and two processes take turns.

        On PostgreSQL the schema is made first where it is missing, and the role that owns it where the user may make roles.

        Raises:
            DatabaseUnavailable: The database cannot be used; nothing was changed.
            Exception: What the function raised; nothing was changed.
        """
        place = await self._take(self._writers)
        try:
            return await self._hop(place, lambda job: self._maintain(place, function, job))
        finally:
            place.give_back()

    async def scratch(self, function: Callable[[Connection], T]) -> T:
        """Run a function on an empty database of the same kind, which goes away again; it sees nothing of the module's.

        Raises:
            DatabaseUnavailable: The database cannot be used.
            Exception: What the function raised.
        """
        place = await self._take(self._writers)
        try:
            return await self._hop(place, lambda _: self._scratch(place, function))
        finally:
            place.give_back()

    # --- readiness ---------------------------------------------------------------------------------------------------

    def check(self) -> str | None:
        """Return None while the database can be used, and what is wrong otherwise."""
        return self._problem

    async def watch(self) -> None:
        """Ask the database now and then whether it is there, more often while it is not. Runs until cancelled."""
        while True:
            if self._problem is None:
                with anyio.move_on_after(_PROBE_S):
                    await self._trouble.wait()
            if self._problem is not None:
                await self._wait_until_well()
            elif time.monotonic() - self._well_s > _PROBE_S:
                with suppress(DatabaseUnavailable):
                    await self.probe()

    async def _wait_until_well(self) -> None:
        _logger.warning("%s", self._details)
        delay_s = _FIRST_PROBE_S
        while self._problem is not None:
            await anyio.sleep(delay_s)
            delay_s = min(delay_s * 2, _LAST_PROBE_S)
            with suppress(DatabaseUnavailable):
                await self.probe()
        _logger.warning("the database of %s can be used again", self.module)

    async def probe(self) -> None:
        """Ask the database whether it can be used; where the last answer was no, whether it can be written.

        Raises:
            DatabaseUnavailable: It cannot.
        """
        await self.run(_ask if self._problem is None else self._dialect.write)

    def _tell(self, error: DatabaseUnavailable) -> None:
        if not error.is_away:
            return
        self._problem, self._details = error.told_outside(), str(error)
        self._trouble.set()

    def _tell_well(self) -> None:
        if self._problem is not None:
            self._problem = None
            self._trouble = anyio.Event()

    # --- hops --------------------------------------------------------------------------------------------------------

    async def _take(self, places: Places) -> Place:
        try:
            return await places.take()
        except TimeoutError:
            reason = (
                f"all connections were in use for {self._settings.database_lock_s:g} s (FISSILE_DATABASE_LOCK_S); the transaction of a handler "
                "stays open until the handler ends, so one that waits for something else keeps others waiting"
            )
            raise DatabaseUnavailable(self.module, str(self.target), reason, is_away=False) from None

    async def _hop(
        self, place: Place, work: Callable[[Job[T]], T], *, finishes: bool = False, shows_it_is_well: bool = True
    ) -> T:
        job = Job(work, lambda: self._interrupt(place))
        try:
            result = await (self._threads.finish(job) if finishes else self._threads.run(job))
        except DatabaseUnavailable as error:
            self._tell(error)
            raise
        if shows_it_is_well:
            self._well_s = time.monotonic()
            if self._problem is not None:
                self._tell_well()
        return result

    def grant(self, connection: Connection, user: str) -> None:
        """Let another user of the server use the module's tables; within `maintain`."""
        self._dialect.grant(connection, user)

    # --- in worker threads -------------------------------------------------------------------------------------------

    def _whole(self, place: Place, function: Callable[[Connection], T], job: Job[T], *, reads: bool) -> T:
        connection = self._begin(place, reads=reads)
        result = self._step(place, connection, function, job, ends=True, reads=reads)
        job.finishing()
        self._commit(place, connection, reads=reads)
        return result

    def _maintain(self, place: Place, function: Callable[[Connection], T], job: Job[T]) -> T:
        place.drop()  # settings of a connection are changed, and there may be a role by now that it has not taken
        self._dialect.is_maintained = True
        try:
            connection = self._begin(place, reads=False, prepare=self._dialect.before_maintenance)

            def work(connection: Connection) -> T:
                self._dialect.begin_maintenance(connection)
                result = function(connection)
                self._dialect.end_maintenance(connection)
                return result

            result = self._step(place, connection, work, job, ends=True)
            job.finishing()
            self._commit(place, connection)
        finally:
            self._dialect.is_maintained = False
            place.drop()
        self._writers.renew()
        self._readers.renew()
        return result

    def _scratch(self, place: Place, function: Callable[[Connection], T]) -> T:
        try:
            with self._dialect.scratch() as connection:
                return function(connection)
        except SQLAlchemyError as error:
            self._translate(error, place, reads=False)

    def _begin(self, place: Place, *, reads: bool, prepare: Callable[[Connection], None] | None = None) -> Connection:
        try:
            connection = place.open(reads=reads)
            if prepare is not None:
                prepare(connection)
            connection.begin()
        except BaseException as error:  # noqa: BLE001 -- raised again, translated
            place.drop()
            self._translate(error, place, reads=reads)
        return connection

    def _step(
        self,
        place: Place,
        connection: Connection,
        function: Callable[[Connection], T],
        job: Job[T],
        *,
        ends: bool,
        reads: bool = False,
    ) -> T:
        """Call the function; when it fails, roll back if the transaction ends with it."""
        transaction = connection.get_transaction()
        try:
            result = function(connection)
            if connection.closed or connection.get_transaction() is not transaction:
                raise RuntimeError(_ENDED)
            if not self._dialect.is_intact(connection):
                raise RuntimeError(_FAILED_WITHIN)
        except BaseException as error:  # noqa: BLE001 -- raised again, translated
            if ends:
                job.finishing()
                self._roll_back(place)
            self._translate(error, place, reads=reads)
        return result

    def _commit(self, place: Place, connection: Connection, *, reads: bool = False) -> None:
        try:
            connection.commit()
        except DBAPIError as error:
            is_lost = not reads and self._dialect.is_lost(error)
            self._roll_back(place)
            if is_lost:
                place.lost()
                raise CommitUnknown(self.module, str(self.target), str(error.orig).strip()) from error
            self._translate(error, place, reads=reads)

    def _roll_back(self, place: Place) -> None:
        connection = place.connection
        if connection is None:
            return
        try:
            connection.rollback()
        except SQLAlchemyError as error:
            # The database ends the transaction by itself when the connection goes.
            _logger.debug("a rollback of %s failed: %s", self.module, error)
            place.drop()
        else:
            if connection.closed or connection.invalidated:
                place.drop()

    def _translate(self, error: BaseException, place: Place, *, reads: bool) -> NoReturn:
        """Raise an error, as `DatabaseUnavailable` where it is one."""
        if isinstance(error, DBAPIError):
            if error.connection_invalidated:
                place.lost()
            trouble = self._dialect.trouble(error, reads=reads)
            if trouble is not None:
                reason, is_away = trouble
                raise DatabaseUnavailable(self.module, str(self.target), reason, is_away=is_away) from error
        raise error

    def _interrupt(self, place: Place) -> None:
        connection = place.connection
        try:
            if connection is not None:
                self._dialect.interrupt(connection)
        except Exception as error:  # noqa: BLE001 -- the connection may be closing in the thread that uses it; then there is nothing to stop
            _logger.debug("a statement of %s could not be interrupted: %s", self.module, error)


_ENDED = (
    "the function ended the transaction that it was given (commit, rollback or close of the connection); "
    "leave that to the one who began it, and use connection.begin_nested() for a part that may fail"
)
_FAILED_WITHIN = (
    "a statement failed and the function went on, but the database has given the transaction up: nothing of it could be committed; "
    "put a statement that may fail into connection.begin_nested()"
)


def _ask(connection: Connection) -> None:
    connection.execute(_ONE)


_ONE = text("SELECT 1")
