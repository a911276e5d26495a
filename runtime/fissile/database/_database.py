"""What a handler or a worker uses: a module's database, and a transaction in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, cast, overload

from sqlalchemy import Connection, CursorResult, Executable, Result
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.selectable import TypedReturnsRows

from fissile._errors import CallRefused
from fissile._messages import Command, Event
from fissile.database._errors import DatabaseUnavailable

if TYPE_CHECKING:
    from fissile.database._storage import ModuleStorage
    from fissile.database._unit import Unit

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Parameters = Any
"""Any: what SQLAlchemy takes as the parameters of a statement, a mapping or a sequence of them."""

_QUERY_CANCELED = "57014"

current_unit: ContextVar[Unit | None] = ContextVar("fissile.current_unit", default=None)
"""What becomes of the transactions of the handler that runs here; None outside of handlers."""


class Transaction:
    """A transaction in a module's database, with what is to be sent when it commits.

    In a handler that takes effect once, its effects commit when the handler succeeds, with everything else that the handler does; elsewhere
    when its block ends. If the block raises, none of it happens.
    """

    def __init__(self, run: Callable[[Callable[[Connection], Any]], Any], keep: Callable[..., None]) -> None:
        self._run = run
        self._keep = keep

    @overload
    async def execute(self, statement: TypedReturnsRows[*Ts], parameters: Parameters = None) -> Result[*Ts]: ...
    @overload
    async def execute(self, statement: UpdateBase, parameters: Parameters = None) -> CursorResult[*tuple[Any, ...]]: ...
    @overload
    async def execute(self, statement: Executable, parameters: Parameters = None) -> Result[*tuple[Any, ...]]: ...
    async def execute(self, statement: Executable, parameters: Parameters = None) -> Result[*tuple[Any, ...]]:
        """Execute a statement of SQLAlchemy Core.

        Args:
            statement: The statement.
            parameters: Its parameters: a mapping, or a sequence of mappings to execute it with each.

        Returns:
            All of its rows, which are in memory already.

        Raises:
            DatabaseUnavailable: The database cannot be reached.
            sqlalchemy.exc.SQLAlchemyError: The statement is wrong, or breaks a constraint.
        """
        return await self.run(lambda connection: buffered(connection, statement, parameters))

    async def run(self, function: Callable[[Connection], T]) -> T:
        """Run a function with the connection, in the worker thread: for several statements in one go, or an ORM session.

        Args:
            function: Takes the connection; it must not commit.
        """
        try:
            return cast("T", await self._run(function))
        except DatabaseUnavailable as error:
            too_slow = _too_slow(error)
            if too_slow is None:
                raise
            raise too_slow from None

    def publish(self, event: Event, *, at: datetime | None = None) -> None:
        """Have an event published when the transaction has committed, and not at all otherwise.

        Args:
            event: The event.
            at: When to publish it; at once unless told.

        Raises:
            InvalidMessage: The event does not fit its contract, or is too large.
        """
        self._keep("events", event, None, at)

    def send(self, command: Command[Any], *, id: str | None = None, at: datetime | None = None) -> None:  # noqa: A002
        """Have a command sent when the transaction has committed, and not at all otherwise.

        Args:
            command: The command.
            id: Its id, where it may have been sent before; a new one is made otherwise.
            at: When to send it; at once unless told.

        Raises:
            InvalidMessage: The command does not fit its contract, or is too large.
        """
        self._keep("sends", command, id, at)


class Database:
    """A module's database, which no other module sees. A handler or a worker names it in its parameters."""

    def __init__(self, storage: ModuleStorage) -> None:
        self._storage = storage

    def __repr__(self) -> str:
        return f"<Database of {self._storage.module}>"

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._storage.store.dialect

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Transaction]:
        """Open a transaction.

        In a handler that takes effect once (the default), all its transactions are one: it commits when the handler succeeds, together with
        what the handler published and the record that the message was handled. From its first transaction on such a handler cannot call
        other modules: ask first, then write, and send what others have to do. In a handler that is declared idempotent, in a worker and
        anywhere else a transaction commits at the end of its block, and only within it calls are refused.

        Raises:
            CallRefused: A query's handler has no effects.
            DatabaseUnavailable: The database cannot be reached; nothing was changed.
        """
        unit = current_unit.get()
        if unit is None:
            async with self._storage.transaction() as transaction:
                yield transaction
        else:
            async with unit.transaction() as transaction:
                yield transaction

    @overload
    async def read(self, statement: TypedReturnsRows[*Ts], parameters: Parameters = None) -> Result[*Ts]: ...
    @overload
    async def read(self, statement: Executable, parameters: Parameters = None) -> Result[*tuple[Any, ...]]: ...
    async def read(self, statement: Executable, parameters: Parameters = None) -> Result[*tuple[Any, ...]]:
        """Read what is committed, by itself. What an open transaction has changed is seen by that transaction only.

        Args:
            statement: A statement of SQLAlchemy Core that only reads.
            parameters: Its parameters.

        Returns:
            All of its rows, which are in memory already.

        Raises:
            DatabaseUnavailable: The database cannot be reached.
        """
        return await self.run(lambda connection: buffered(connection, statement, parameters))

    async def run(self, function: Callable[[Connection], T]) -> T:
        """Run a function that only reads, with a connection, in a worker thread: for several statements in one go, or an ORM session.

        Args:
            function: Takes the connection.
        """
        try:
            return await self._storage.store.read(function)
        except DatabaseUnavailable as error:
            too_slow = _too_slow(error)
            if too_slow is None:
                raise
            raise too_slow from None


def buffered(connection: Connection, statement: Executable, parameters: Parameters) -> Result[*tuple[Any, ...]]:
    """Execute a statement and fetch its rows, so that nothing is left to do outside of the worker thread."""
    result = connection.execute(statement, parameters)
    return result.freeze()() if result.returns_rows else result


def no_effects(what: str) -> CallRefused:
    """Say that a query's handler cannot write."""
    return CallRefused(
        f"{what}: the handler of a query has no effects. Make it a command, or read with database.read()."
    )


def _too_slow(error: DatabaseUnavailable) -> DBAPIError | None:
    """Return what the server said of a statement that took longer than it allows; None where something else is wrong.

    It may take as long each time, so that is a failed attempt: a message that is postponed for it would never come to an end.
    """
    cause = error.__cause__
    is_too_slow = isinstance(cause, DBAPIError) and getattr(cause.orig, "sqlstate", None) == _QUERY_CANCELED
    return cast("DBAPIError", cause) if is_too_slow else None
