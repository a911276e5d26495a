"""A lease: which of the replicas of a module does what only one may do, such as relaying its outbox in order.

On SQLite it is a lock on a file, which the operating system lets go when the process ends, however it ends. On PostgreSQL it is a row that its
holder renews, by the server's clock.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

import anyio
import anyio.to_thread
from sqlalchemy import Connection

from fissile.database._store import Store

LEASE_S = 5.0
"""How long a lease on PostgreSQL holds without being renewed, in seconds; so long the outbox may rest when its relay has died."""

_RENEW_S = LEASE_S / 2
"""A holder renews it half way through, so that one try may fail."""


class Lease(ABC):
    """The right to do something alone."""

    @abstractmethod
    async def hold(self) -> bool:
        """Get the lease, or keep it; return whether it is ours.

        Raises:
            DatabaseUnavailable: The database cannot be used.
        """

    @abstractmethod
    async def release(self) -> None:
        """Let it go, if it is ours. Raises nothing but what the database does when it cannot be used."""


class FileLease(Lease):
    """A lock on a file beside the database's.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    async def hold(self) -> bool:
        if self._file is None:
            self._file = await anyio.to_thread.run_sync(self._lock)
        return self._file is not None

    async def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _lock(self) -> int | None:
        import fcntl  # not on Windows, where fissile does not run

        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            return None
        return file


class RowLease(Lease):
    """A row in the module's schema.

    Args:
        store: The database.
        name: The lease's name.
        owner: What tells this process from others.
    """

    def __init__(self, store: Store, name: str, owner: str) -> None:
        self._store = store
        self._name = name
        self._owner = owner
        self._renewed_s = -LEASE_S

    async def hold(self) -> bool:
        now_s = anyio.current_time()
        if now_s - self._renewed_s < _RENEW_S:
            return True
        is_ours = await self._store.run(self._take)
        self._renewed_s = now_s if is_ours else -LEASE_S
        return is_ours

    def _take(self, connection: Connection) -> bool:
        # Who holds it is of interest for seconds, and need not survive a crash of the server: its disk is not waited for.
        connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
        return connection.exec_driver_sql(_TAKE, (self._name, self._owner, int(LEASE_S * 1000))).rowcount == 1

    async def release(self) -> None:
        self._renewed_s = -LEASE_S
        await self._store.run(lambda connection: connection.exec_driver_sql(_RELEASE, (self._name, self._owner)))


_NOW_MS = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)"
_TAKE = (
    f"INSERT INTO fissile_lease (name, owner, until_ms) VALUES (%s, %s, {_NOW_MS} + %s) ON CONFLICT (name) DO UPDATE "  # noqa: S608 -- constants
    "SET owner = excluded.owner, until_ms = excluded.until_ms "
    f"WHERE fissile_lease.owner = excluded.owner OR fissile_lease.until_ms < {_NOW_MS} "
    "OR fissile_lease.until_ms > excluded.until_ms + 1000"  # nobody takes it for so long: the server's clock was set back
)
_RELEASE = "DELETE FROM fissile_lease WHERE name = %s AND owner = %s"


def open_lease(store: Store, name: str, owner: str) -> Lease:
    """Return a lease of a module, not held yet."""
    if store.dialect == "sqlite":
        return FileLease(store.target.file.with_suffix(f".{name}.lock"))
    return RowLease(store, name, owner)
