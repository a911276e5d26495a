"""PostgreSQL: one schema per module, and one role that owns it where the user may make roles."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from math import ceil
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.sql import SQL, Identifier
from sqlalchemy import Connection, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError

from fissile.database._dialect import Dialect, Target
from fissile.database._provision import MAY_TAKE, grant, provide

_logger = logging.getLogger("fissile.database")

_UNUSABLE = ("08", "53", "57P", "58", "F0", "XX")
"""Connection, resources (disk full, too many connections), operator (shutdown), system, configuration file, internal:
https://www.postgresql.org/docs/current/errcodes-appendix.html"""
_IN_THE_WAY = {"40001", "40P01", "55P03", "57014"}
"""A serialization failure, a deadlock, a lock that was not to be had in time, a statement that took too long."""

_CANCEL_S = 5.0
_SESSION = f"""
SELECT set_config('search_path', quote_ident(%(name)s), false),
       (SELECT set_config('role', rolname, false) FROM ({MAY_TAKE}) AS may_take),
       to_regnamespace(quote_ident(%(name)s)) IS NOT NULL
"""  # noqa: S608 -- of constants
"""What makes a session a module's own, in one round trip. Beyond `search_path`, the role refuses names that are written with another schema."""


class PostgresDialect(Dialect):
    """The schema of one module in a PostgreSQL database."""

    name = "postgresql"

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._is_warned = False
        given = target.url.query.get("options", "")
        options = given if isinstance(given, str) else " ".join(given)
        self._engine = create_engine(
            target.url.difference_update_query(["options"]),
            poolclass=NullPool,
            hide_parameters=True,  # the text of an error crosses to the caller
            connect_args={
                # Else a server whose encoding is SQL_ASCII, as some are made, answers with bytes.
                "client_encoding": "utf8",
                "connect_timeout": max(2, ceil(target.connect_s)),  # libpq takes 1 for 2
                "application_name": f"{target.application} {target.module}".strip(),
                "options": f"-c lock_timeout={ceil(target.lock_s * 1000)} {options}".strip(),
                # A server that vanishes without a word is found out in half a minute, not in two hours.
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 4,
                "tcp_user_timeout": 30_000,
            },
        )

        @event.listens_for(self._engine, "connect", insert=True)  # before SQLAlchemy asks for the default schema
        def set_up(connection: psycopg.Connection[Any], _record: Any) -> None:  # Any: of the pool, not used
            self._set_up(connection)

        _ = set_up

    def _set_up(self, connection: psycopg.Connection[Any]) -> None:
        with connection.cursor() as cursor:
            row = cursor.execute(_SESSION, {"name": self.target.name, "role": self.target.role}).fetchone()
        connection.commit()  # settings of a session fall back with the transaction that made them
        if row is not None and row[1] is None and row[2] and not (self._is_warned or self.is_maintained):
            self._is_warned = True
            _logger.warning(
                "nothing but the search path keeps the module %s from the tables of others: there is no role %s that the user %s may take. "
                "Run `fissile migrate --grant-to %s` once as a user that may create roles",
                self.target.module,
                self.target.role,
                connection.info.user,
                connection.info.user,
            )

    def connect(self, *, reads: bool) -> Connection:
        connection = self._engine.connect()
        self.prepare(connection, reads=reads)
        return connection

    def prepare(self, connection: Connection, *, reads: bool) -> None:
        driver = raw(connection)
        if driver.read_only is not reads:
            driver.read_only = reads  # it is told with the next BEGIN, which costs nothing

    def is_alive(self, connection: Connection) -> bool:
        driver = raw(connection)
        try:
            driver.autocommit = True
            driver.execute("")
            driver.autocommit = False
        except psycopg.Error:
            return False
        return driver.info.transaction_status == TransactionStatus.IDLE

    def interrupt(self, connection: Connection) -> None:
        try:
            raw(connection).cancel_safe(timeout=_CANCEL_S)
        except psycopg.Error as error:
            _logger.warning("a statement of %s could not be cancelled: %s", self.target.module, error)

    def is_intact(self, connection: Connection) -> bool:
        # The server answers the COMMIT of a transaction in which a statement has failed with a rollback, and no driver raises for that.
        return raw(connection).info.transaction_status != TransactionStatus.INERROR

    def write(self, connection: Connection) -> None:
        connection.exec_driver_sql("SELECT txid_current()")  # its commit is written to the log

    def trouble(self, error: DBAPIError, *, reads: bool) -> tuple[str, bool] | None:
        original = error.orig
        if not isinstance(original, psycopg.Error):
            return None
        state = original.sqlstate
        if state is None:
            # Errors that do not come from the server: it cannot be reached, it refused the connection, it went away.
            is_away = error.connection_invalidated or isinstance(original, psycopg.OperationalError)
            return (str(original).strip(), True) if is_away else None
        if state == "25006" and reads:
            return None  # a function that should only read has written
        reason = f"{str(original).strip()} (SQLSTATE {state})"
        if state in _IN_THE_WAY:
            return reason, False
        return (reason, True) if state == "25006" or state.startswith(_UNUSABLE) else None

    def is_lost(self, error: DBAPIError) -> bool:
        # An answer of the server, whatever it is, says that the transaction was rolled back, except where it says that it goes away itself.
        state = getattr(error.orig, "sqlstate", None)
        return error.connection_invalidated or state is None or state.startswith(("08", "57P"))

    def before_maintenance(self, connection: Connection) -> None:
        pass

    def begin_maintenance(self, connection: Connection) -> None:
        provide(raw(connection), self.target)

    def grant(self, connection: Connection, user: str) -> None:
        grant(raw(connection), self.target, user)

    def end_maintenance(self, connection: Connection) -> None:
        pass

    @contextmanager
    def scratch(self) -> Generator[Connection]:
        name = f"fissile_scratch_{uuid4().hex}"
        with self._engine.connect() as connection:
            with raw(connection).cursor() as cursor:
                cursor.execute("SET LOCAL ROLE NONE")
                cursor.execute(SQL("CREATE SCHEMA {}").format(Identifier(name)))
                cursor.execute("SELECT set_config('search_path', %s, true)", (name,))
            yield connection
            connection.rollback()

    def dispose(self) -> None:
        self._engine.dispose()


def raw(connection: Connection) -> psycopg.Connection[Any]:
    """Return the connection of psycopg behind one of SQLAlchemy; Any: the type of its rows."""
    found = connection.connection.dbapi_connection
    assert isinstance(found, psycopg.Connection)
    return found
