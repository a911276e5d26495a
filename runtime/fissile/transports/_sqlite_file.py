"""The file of the sqlite transport: made, recognised, opened; and what its errors mean.

One row of `records` is one record. Its id is the number of its log (one partition of one topic) and its offset in one integer, so that the
table is one tree in the order in which it is read. `latest` and `superseded` exist for compacted topics only.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from fissile._errors import CallError, DeadlineExceeded, Fault, StartupFailed, Unavailable

APPLICATION_ID = 0x4673_6C4C
"""What the header of the file says (https://www.sqlite.org/fileformat2.html, 1.3.11): that it is ours."""
FORMAT = 1
"""The version of the tables; `PRAGMA user_version`."""
OFFSET_BITS = 40
OFFSETS = (1 << OFFSET_BITS) - 1

BUSY_S = 0.1
"""How long SQLite itself waits for a lock; we go on waiting, but look around in between."""
_OPEN_S = 10.0
_CHECKED_BYTES = 16 * 1024 * 1024
"""Files up to this size are checked when they are opened; a larger one would take too long."""

_TABLES = """
CREATE TABLE numbers (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO numbers VALUES ('generation', 0);
CREATE TABLE topics (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL, retention_s REAL NOT NULL, is_compacted INTEGER NOT NULL
);
CREATE TABLE logs (
    id INTEGER PRIMARY KEY, topic INTEGER NOT NULL REFERENCES topics, partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL DEFAULT 0, size_bytes INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, partition)
);
CREATE TABLE records (id INTEGER PRIMARY KEY, key BLOB, value BLOB, headers BLOB NOT NULL, timestamp_ms INTEGER NOT NULL);
CREATE TABLE latest (
    log INTEGER NOT NULL, key BLOB NOT NULL, id INTEGER NOT NULL, forget_ms INTEGER, PRIMARY KEY (log, key)
) WITHOUT ROWID;
CREATE INDEX latest_forget ON latest (forget_ms) WHERE forget_ms IS NOT NULL;
CREATE TABLE superseded (id INTEGER PRIMARY KEY, since_ms INTEGER NOT NULL);
CREATE INDEX superseded_since ON superseded (since_ms);
CREATE TABLE processes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, client TEXT NOT NULL, locks INTEGER NOT NULL, seen_s REAL NOT NULL
);
CREATE TABLE groups (name TEXT PRIMARY KEY, fence_s REAL) WITHOUT ROWID;
CREATE TABLE members (
    id INTEGER PRIMARY KEY AUTOINCREMENT, "group" TEXT NOT NULL, process INTEGER NOT NULL, topics TEXT NOT NULL,
    state INTEGER NOT NULL, generation INTEGER NOT NULL
);
CREATE INDEX members_group ON members ("group");
CREATE TABLE shares ("group" TEXT NOT NULL, log INTEGER NOT NULL, member INTEGER NOT NULL, PRIMARY KEY ("group", log)) WITHOUT ROWID;
CREATE TABLE offsets (
    "group" TEXT NOT NULL, log INTEGER NOT NULL, next_offset INTEGER NOT NULL, PRIMARY KEY ("group", log)
) WITHOUT ROWID;
"""


def open_file(path: Path) -> sqlite3.Connection:
    """Open the file for writing; make it, and its folder, where there is none.

    Raises:
        StartupFailed: It cannot be made, or it is not ours, or of a newer version, or damaged.
        Unavailable: Another program holds it locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise _fault(
            f"The log {path} cannot be opened for writing: {error.strerror}.",
            "Choose a file in a folder that this user may write to, or give it the right to.",
        ) from None
    with explained(path):
        connection = connect(path)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
        return connection


def connect(path: Path) -> sqlite3.Connection:
    """Connect to the file."""
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    # macOS: a flush that reaches the disk, not only its cache. Nothing elsewhere.
    connection.executescript("PRAGMA fullfsync = 1; PRAGMA checkpoint_fullfsync = 1; PRAGMA temp_store = MEMORY;")
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    end = monotonic() + _OPEN_S
    while True:
        try:
            is_new = check_owner(connection, path)
            if is_new:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise _fault(
                    f"The filesystem of {path} cannot share memory between processes, which a log needs.",
                    "Choose a file on a local disk; a network filesystem will not do.",
                )
            connection.execute("PRAGMA wal_autocheckpoint = 2000")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            connection.execute("PRAGMA cache_size = -16384")
            if is_new:
                _make_tables(connection, path)
            elif path.stat().st_size <= _CHECKED_BYTES:
                _check_whole(connection, path)
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or monotonic() > end:
                raise


def check_owner(connection: sqlite3.Connection, path: Path) -> bool:
    """Tell whether the file is empty.

    Raises:
        StartupFailed: It is not ours, or of a newer version.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID:
        if application or version or tables:
            raise _fault(f"{path} is a database of something else.", "Choose another file; this one is left as it is.")
        return True
    if version > FORMAT:
        raise _fault(
            f"{path} was written by a newer version of fissile: it has format {version}, and this one knows {FORMAT}.",
            "Use that version, or another file.",
        )
    return bool(version == 0)


def _make_tables(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if check_owner(connection, path):  # else another process was quicker
            for statement in _TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check_whole(connection: sqlite3.Connection, path: Path) -> None:
    (told,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if told != "ok":
        raise _damaged(path, str(told).partition("\n")[0])


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Turn what SQLite says when a file is opened into what a person can act on."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = error_name(error)
        if name.startswith("SQLITE_NOTADB"):
            raise _fault(f"{path} is no log: it is not even a SQLite file.", "Choose another file.") from None
        if name.startswith("SQLITE_CORRUPT"):
            raise _damaged(path, str(error)) from None
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            what = f"The log {path} cannot be written: {error}."
            cure = "Give this user the right to write the file and its folder (SQLite makes files beside it)."
            raise _fault(what, cure) from None
        if is_busy(error):
            what = f"The log {path} cannot be opened: another program has held it locked for {_OPEN_S:g} s."
            raise Unavailable(what) from None
        raise Unavailable(f"The log {path} cannot be opened: {error} ({name}).") from None


def _fault(what: str, cure: str) -> StartupFailed:
    return StartupFailed((Fault(what, "FISSILE_BUS", cure),))


def _damaged(path: Path, what: str) -> StartupFailed:
    return _fault(
        f"The log {path} is damaged: {what}.",
        "Restore it from a backup, or save what `sqlite3 FILE .recover` finds; or move it and its -wal file away, and a new one is made.",
    )


# --- errors while it runs --------------------------------------------------------------------------------------------


def error_name(error: sqlite3.Error) -> str:
    """Return the name of SQLite's result code, such as SQLITE_FULL; empty if Python raised it."""
    return str(getattr(error, "sqlite_errorname", None) or "")


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether another connection has the lock."""
    return error_name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def not_stored(error: sqlite3.Error, path: Path) -> CallError:
    """Return what is told of a transaction that has failed."""
    name = error_name(error)
    if name == "SQLITE_FULL":
        return Unavailable(f"The disk of {path} is full. Nothing was stored; it goes on when there is room.")
    if name == "SQLITE_IOERR_FSYNC":
        # All is written, and rolled back for everybody; but if the machine stops now, SQLite may find the transaction complete.
        return DeadlineExceeded(f"{path} could not be flushed to the disk; what was to be stored may be found there.")
    if name.startswith("SQLITE_CORRUPT"):
        return Unavailable(f"The log {path} is damaged: {error}. Stop, and restore it from a backup.")
    return Unavailable(f"The log {path} cannot be written: {error}{f' ({name})' if name else ''}. Nothing was stored.")
