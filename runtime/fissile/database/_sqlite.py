"""SQLite: one file per module, in WAL mode, with one connection that writes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError

from fissile.database._dialect import Dialect, Target

_UNUSABLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOTADB,
}
"""Result codes that blame the file, the disk or another process: https://www.sqlite.org/rescode.html"""


class SqliteDialect(Dialect):
    """The file of one module.

    Python's sqlite3 begins transactions by itself before some statements and not before others. It is told not to
    (`isolation_level=None`), and SQLAlchemy's own `begin` says BEGIN IMMEDIATE for the writer: a transaction that began as a reader and wants to
    write later fails at once when another one has written meanwhile, whatever the busy timeout (https://www.sqlite.org/isolation.html).
    """

    name = "sqlite"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._writes = self._engine("BEGIN IMMEDIATE", ())
        self._reads = self._engine("BEGIN", ("PRAGMA query_only = ON",))

    def _engine(self, begin: str, pragmas: tuple[str, ...]) -> Engine:
        engine = create_engine(
            URL.create("sqlite", database=str(self.target.file)),
            poolclass=NullPool,
            hide_parameters=True,  # the text of an error crosses to the caller
            connect_args={
                "isolation_level": None,
                "check_same_thread": False,  # one thread at a time: jobs see to that
                "timeout": self.target.lock_s,
            },
        )
        every = (
            "PRAGMA journal_mode = WAL",  # readers do not wait for the writer
            "PRAGMA synchronous = FULL",  # in WAL mode NORMAL loses the last commits with the power
            "PRAGMA foreign_keys = ON",
            *pragmas,
        )

        @event.listens_for(engine, "connect")
        def set_up(connection: sqlite3.Connection, _record: Any) -> None:  # Any: of the pool, not used
            for pragma in every:
                connection.execute(pragma).close()

        @event.listens_for(engine, "begin")
        def do_begin(connection: Connection) -> None:
            try:
                raw(connection).execute(begin)
            except sqlite3.Error as error:
                # As SQLAlchemy tells errors of statements; inside this hook it does not see them.
                raise DBAPIError.instance(begin, None, error, sqlite3.Error, hide_parameters=True) from error

        @event.listens_for(engine, "handle_error")
        def see_rollback(context: ExceptionContext) -> None:
            # A full disk and the like roll the whole transaction back. Statements after that would each commit by itself.
            connection = context.connection
            if connection is not None and not connection.invalidated and not raw(connection).in_transaction:
                context.is_disconnect = True

        _ = set_up, do_begin, see_rollback
        return engine

    def connect(self, *, reads: bool) -> Connection:
        file = self.target.file
        if not file.exists():
            try:
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                # The files of the log beside it get the same mode from SQLite.
                os.close(os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            except OSError as error:
                raise _as_error(f"{error.strerror}: {error.filename}") from error
        return (self._reads if reads else self._writes).connect()

    def prepare(self, connection: Connection, *, reads: bool) -> None:
        pass  # readers and the writer are different connections

    def is_alive(self, connection: Connection) -> bool:
        del connection
        return self.target.file.exists()  # who has removed it does not get an answer out of the one that is no more

    def interrupt(self, connection: Connection) -> None:
        raw(connection).interrupt()

    def is_intact(self, connection: Connection) -> bool:
        return raw(connection).in_transaction

    def write(self, connection: Connection) -> None:
        driver = raw(connection)
        (version,) = driver.execute("PRAGMA user_version").fetchone()
        driver.execute(f"PRAGMA user_version = {version}")  # writes the first page, whether or not it changes

    def trouble(self, error: DBAPIError, *, reads: bool) -> tuple[str, bool] | None:
        code = getattr(error.orig, "sqlite_errorcode", None)
        if code is None:
            return None
        primary = code & 0xFF
        # A connection for reading refuses to write with the same code as a file that must not be written.
        if primary in _UNUSABLE or (primary == sqlite3.SQLITE_READONLY and not reads):
            reason = f"{error.orig} ({getattr(error.orig, 'sqlite_errorname', code)})"
            return reason, primary not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        return None

    def is_lost(self, error: DBAPIError) -> bool:
        # A full disk leaves no commit in the log. An error of fsync may: the commit can be found again after a crash.
        return (getattr(error.orig, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_IOERR

    def before_maintenance(self, connection: Connection) -> None:
        # A table that is rebuilt is dropped, and to drop it deletes its rows and what refers to them; within a transaction it is too late to say
        # that it should not (https://www.sqlite.org/lang_altertable.html#otheralter).
        raw(connection).execute("PRAGMA foreign_keys = OFF").close()

    def begin_maintenance(self, connection: Connection) -> None:
        pass  # BEGIN IMMEDIATE has the lock

    def grant(self, connection: Connection, user: str) -> None:
        del connection
        raise PermissionError(
            f"files have no users to grant anything to: {user} needs access to {self.target.file.parent}"
        )

    def end_maintenance(self, connection: Connection) -> None:
        broken = raw(connection).execute("PRAGMA foreign_key_check").fetchmany(10)
        if broken:
            rows = ", ".join(f"row {row} of {table} (to {parent})" for table, row, parent, _ in broken)
            raise RuntimeError(f"the migrations leave rows that refer to rows that are not there: {rows}")

    @contextmanager
    def scratch(self) -> Generator[Connection]:
        engine = create_engine("sqlite://", connect_args={"isolation_level": None})
        with engine.connect() as connection:
            raw(connection).execute("BEGIN")
            connection.begin()
            yield connection
        engine.dispose()

    def dispose(self) -> None:
        self._writes.dispose()
        self._reads.dispose()


def raw(connection: Connection) -> sqlite3.Connection:
    """Return the connection of sqlite3 behind one of SQLAlchemy."""
    found = connection.connection.dbapi_connection
    assert isinstance(found, sqlite3.Connection)
    return found


def execute(connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
    """Execute a statement of the runtime's own: SQLAlchemy's way to the driver takes ten times as long as the driver does.

    Args:
        connection: The connection.
        sql: The statement.
        parameters: Its parameters, of whatever types the columns are.

    Raises:
        DBAPIError: As SQLAlchemy would raise it.
    """
    driver = raw(connection)
    try:
        return driver.execute(sql, parameters)
    except sqlite3.Error as error:
        if not driver.in_transaction:
            connection.invalidate(error)  # it was rolled back; a statement after that would commit by itself
        raise DBAPIError.instance(
            sql, None, error, sqlite3.Error, hide_parameters=True, connection_invalidated=connection.invalidated
        ) from error


def _as_error(text: str) -> DBAPIError:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
    error.sqlite_errorname = "SQLITE_CANTOPEN"
    return DBAPIError("connect", None, error, hide_parameters=True)
