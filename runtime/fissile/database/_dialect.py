"""What differs between SQLite and PostgreSQL, behind one interface. All of it runs in worker threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Literal

import msgspec
from sqlalchemy import Connection
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from fissile._errors import Fault, StartupFailed
from fissile._settings import Settings, variable_name

DialectName = Literal["sqlite", "postgresql"]


class Target(msgspec.Struct, frozen=True):
    """Where the database of one module is.

    Attributes:
        module: The module.
        url: Of PostgreSQL, or a folder for SQLite.
        name: The name of its schema, or of its file without the suffix.
        folder: What a relative folder of SQLite is relative to.
        application: The application's name, which PostgreSQL shows in its list of connections.
        lock_s: How long a statement waits for a lock, in seconds.
        connect_s: How long a connection may take, in seconds.
    """

    module: str
    url: URL
    name: str
    folder: Path
    application: str
    lock_s: float
    connect_s: float

    @property
    def dialect(self) -> DialectName:
        """Which of the two it is."""
        return "sqlite" if self.url.get_backend_name() == "sqlite" else "postgresql"

    @property
    def role(self) -> str:
        """The role of PostgreSQL that owns the schema."""
        return f"{self.name}_owner"

    @property
    def file(self) -> Path:
        """The file of a SQLite database."""
        return self.folder / (self.url.database or "data") / f"{self.name}.sqlite3"

    def __str__(self) -> str:
        if self.dialect == "sqlite":
            return str(self.file)
        return f"{self.url.set(drivername='postgresql').render_as_string(hide_password=True)}, schema {self.name}"

    @classmethod
    def of(cls, module: str, settings: Settings, *, folder: Path, application: str = "") -> Target:
        """Find the database of a module.

        Args:
            module: Its name.
            settings: The runtime's settings.
            folder: The folder of the application.
            application: Its name.

        Raises:
            StartupFailed: The settings name none that could be used.
        """
        url = _read_url(settings.database)
        name = f"{settings.database_prefix}{module}".replace("-", "_")
        variable = variable_name("database_prefix")
        if not name.isidentifier() or not name.isascii() or len(name) > _NAME_BYTES:
            what = (
                f"{name!r} is no name for the schema of the module {module}: it takes {_NAME_BYTES} of a-z, 0-9 and _."
            )
            raise StartupFailed((Fault(what, variable, "Change the prefix, or the name of the module."),))
        if url.get_backend_name() == "postgresql" and (name.startswith("pg_") or name in _TAKEN):
            what = f"PostgreSQL keeps the name {name!r} for itself, so it cannot be the schema of the module {module}."
            raise StartupFailed((Fault(what, variable, f"Set a prefix, such as {variable}=app_."),))
        return cls(
            module,
            url,
            name,
            folder,
            application,
            lock_s=settings.database_lock_s,
            connect_s=settings.database_connect_s,
        )


_NAME_BYTES = 57  # NAMEDATALEN - 1 of PostgreSQL, less what the name of the role adds
_TAKEN = {"public", "information_schema"}


def _read_url(text: str) -> URL:
    where = variable_name("database")
    cure = "Write sqlite:///folder, or postgresql://user:password@host/database."
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise StartupFailed((Fault("It is no URL of a database.", where, cure),)) from None
    if url.drivername == "sqlite":
        if url.host or not url.database or url.database == ":memory:":
            what = "A database in files needs a folder, in which each module has its file."
            raise StartupFailed(
                (Fault(what, where, "Write sqlite:///data, or sqlite:////var/lib/app for an absolute path."),)
            )
        return url
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        try:
            import_module("psycopg")  # as SQLAlchemy will; it also needs the library of PostgreSQL
        except ImportError as error:
            what = f"PostgreSQL needs psycopg: {error}."
            raise StartupFailed((Fault(what, where, "Install it: pip install 'fissile[postgres]'."),)) from None
        return url.set(drivername="postgresql+psycopg")
    what = f"There is no support for databases of the kind {url.drivername!r}."
    raise StartupFailed((Fault(what, where, cure),))


class Dialect(ABC):
    """Opens connections to one module's database, and tells what their errors mean.

    Every connection sees the module's own tables only. None has a pool behind it: closing one really closes it.

    Attributes:
        name: Which database it is.
        target: Where it is.
        is_maintained: Whether what is missing is just being made, so that there is nothing to warn about.
    """

    name: DialectName

    def __init__(self, target: Target) -> None:
        self.target = target
        self.is_maintained = False

    @abstractmethod
    def connect(self, *, reads: bool) -> Connection:
        """Open a connection.

        Args:
            reads: Whether it will only read. On SQLite it then begins without the lock for writing, and cannot write.
        """

    @abstractmethod
    def prepare(self, connection: Connection, *, reads: bool) -> None:
        """Make the next transaction of an idle connection one that reads only, or one that may write."""

    @abstractmethod
    def is_alive(self, connection: Connection) -> bool:
        """Ask the database whether a connection that was idle for a while can still be used."""

    @abstractmethod
    def interrupt(self, connection: Connection) -> None:
        """Stop the statement that another thread is executing on a connection; it then fails there."""

    @abstractmethod
    def is_intact(self, connection: Connection) -> bool:
        """Tell whether a transaction can still be committed with all of its effects."""

    @abstractmethod
    def write(self, connection: Connection) -> None:
        """Make sure that the database can be written, with a transaction that changes nothing."""

    @abstractmethod
    def trouble(self, error: DBAPIError, *, reads: bool) -> tuple[str, bool] | None:
        """Say why the database could not be used, or return None where the error is one of the statement itself.

        Args:
            error: What SQLAlchemy raised.
            reads: Whether the transaction was one that reads only.

        Returns:
            The reason, and whether nobody can use it now; false where others were merely in the way.
        """

    @abstractmethod
    def is_lost(self, error: DBAPIError) -> bool:
        """Tell whether an error of a COMMIT leaves open if the transaction has happened."""

    @abstractmethod
    def before_maintenance(self, connection: Connection) -> None:
        """Prepare a connection, which is closed afterwards, for a transaction that changes tables."""

    @abstractmethod
    def begin_maintenance(self, connection: Connection) -> None:
        """Take the lock that lets one process at a time change tables, within the transaction, and make what tables need to be in."""

    @abstractmethod
    def grant(self, connection: Connection, user: str) -> None:
        """Let another user of the server use the module's tables, within the transaction.

        Raises:
            PermissionError: That cannot be.
        """

    @abstractmethod
    def end_maintenance(self, connection: Connection) -> None:
        """Check, before the commit, what could not be checked while tables were being changed."""

    @abstractmethod
    def scratch(self) -> AbstractContextManager[Connection]:
        """Open an empty database of the same kind, in a transaction; nothing of it stays."""

    @abstractmethod
    def dispose(self) -> None:
        """Let go of what is left when all connections are closed."""


def open_dialect(target: Target) -> Dialect:
    """Return the dialect of a database; nothing is opened."""
    if target.dialect == "sqlite":
        from fissile.database._sqlite import SqliteDialect

        return SqliteDialect(target)
    from fissile.database._postgresql import PostgresDialect

    return PostgresDialect(target)
