"""A transaction of several steps in a module's database, each a hop to a worker thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar, overload

import anyio
from sqlalchemy import Connection

from fissile.database._connections import Place
from fissile.database._thread import Job

if TYPE_CHECKING:
    from fissile.database._store import Store

T = TypeVar("T")


class StoreTransaction:
    """A transaction of several steps. Tasks that use it at once take turns, a step at a time: it is one connection.

    Attributes:
        is_open: Whether it has neither been committed nor rolled back.
    """

    __slots__ = ("_connection", "_is_busy", "_place", "_store", "_turn", "is_open")

    def __init__(self, store: Store, place: Place) -> None:
        self._store = store
        self._place = place
        self._connection: Connection | None = None
        # No `anyio.Lock`, which looks for the event loop when it is made and for the task at each turn: hardly any transaction has two tasks.
        self._is_busy = False
        self._turn: anyio.Event | None = None  # made by the first who waits
        self.is_open = True

    async def run(self, function: Callable[[Connection], T]) -> T:
        """Run a function within the transaction, in one hop; the first one begins it.

        When it fails the transaction stays open, to be rolled back; with PostgreSQL nothing but that is possible then.

        Raises:
            DatabaseUnavailable: The database cannot be used; nothing will have been changed.
            RuntimeError: The transaction has ended.
            Exception: What the function raised.
        """
        await self._take_turn()
        try:
            self._require_open()
            return await self._store._hop(self._place, lambda job: self._run(function, job))
        finally:
            self._end_turn()

    @overload
    async def commit(self) -> None: ...
    @overload
    async def commit(self, last: Callable[[Connection], T]) -> T: ...
    async def commit(self, last: Callable[[Connection], T] | None = None) -> T | None:
        """Commit. Whatever happens, the transaction has ended then.

        A cancellation interrupts the last function, never the COMMIT itself.

        Args:
            last: A last function within the transaction, in the same hop.

        Raises:
            DatabaseUnavailable: The database cannot be used; nothing was changed.
            CommitUnknown: It was lost during the commit.
            RuntimeError: The transaction has ended.
            Exception: What the last function raised, or what the database has against the transaction; nothing was changed.
        """
        store = self._store
        await self._wait_for_turn()
        try:
            self._require_open()
            try:
                if last is not None:
                    return await store._hop(self._place, lambda job: self._commit_with(last, job))
                if self._connection is not None:
                    await store._hop(self._place, self._commit, finishes=True)
                return None
            finally:
                await self._end_it()  # it has not ended where the hop was cancelled before it could do anything
        finally:
            self._end_turn()

    async def rollback(self) -> None:
        """Roll back if it is open; a cancellation waits for it."""
        if not self.is_open:
            return
        await self._wait_for_turn()
        try:
            await self._end_it()
        finally:
            self._end_turn()

    async def _end_it(self) -> None:
        if not self.is_open:
            return
        try:
            if self._connection is not None:
                # A rollback succeeds also where the database has gone, and the transaction with it.
                await self._store._hop(self._place, self._end, finishes=True, shows_it_is_well=False)
        finally:
            self.is_open = False
            self._place.give_back()

    async def _take_turn(self) -> None:
        while self._is_busy:
            self._turn = self._turn or anyio.Event()
            await self._turn.wait()
        self._is_busy = True

    def _end_turn(self) -> None:
        self._is_busy = False
        if self._turn is not None:
            self._turn.set()
            self._turn = None

    async def _wait_for_turn(self) -> None:
        """Wait until no step of another task is under way, whatever is cancelled: the connection is in use until then."""
        cancelled: BaseException | None = None
        while self._is_busy:
            try:
                with anyio.CancelScope(shield=True):
                    self._turn = self._turn or anyio.Event()
                    await self._turn.wait()
            except anyio.get_cancelled_exc_class() as error:  # a native one of asyncio's, which no scope holds off
                cancelled = error
        self._is_busy = True
        if cancelled is not None:
            try:
                await self._end_it()
            finally:
                self._end_turn()
            raise cancelled from None

    def _require_open(self) -> None:
        if not self.is_open:
            raise RuntimeError("the transaction has ended; begin a new one")

    # --- in worker threads -------------------------------------------------------------------------------------------

    def _run(self, function: Callable[[Connection], T], job: Job[T]) -> T:
        if self._connection is None:
            self._connection = self._store._begin(self._place, reads=False)
        return self._store._step(self._place, self._connection, function, job, ends=False)

    def _commit_with(self, last: Callable[[Connection], T], job: Job[T]) -> T:
        store, place = self._store, self._place
        connection = self._connection or store._begin(place, reads=False)
        try:
            result = store._step(place, connection, last, job, ends=True)
            job.finishing()
            store._commit(place, connection)
        finally:
            self._connection = None
        return result

    def _commit(self, job: Job[None]) -> None:
        job.finishing()
        assert self._connection is not None
        try:
            self._store._commit(self._place, self._connection)
        finally:
            self._connection = None

    def _end(self, job: Job[None]) -> None:
        job.finishing()
        self._store._roll_back(self._place)
        self._connection = None
