"""What is no longer to be kept goes, in steps so small that whoever stores something is never blocked for long."""

from __future__ import annotations

import sqlite3
from collections import deque

from attrs import define, field

from fissile.transports._sqlite_file import OFFSET_BITS, OFFSETS
from fissile.transports._sqlite_options import Options

STEP_RECORDS = 500
STEP_BYTES = 2 * 1024 * 1024
"""How much one transaction deletes."""
_FREE_PAGES = 4096
"""So many pages of 4 KiB, and a quarter of the file, may be empty before it is made smaller."""
_GIVEN_BACK_PAGES = 256
"""How many of them one transaction gives back to the disk."""


@define(eq=False)
class Housekeeping:
    """Knows what there is to look at; `step` is one transaction of its caller.

    Attributes:
        options: The bounds.
    """

    options: Options
    _due: deque[int] = field(factory=deque[int])
    _compacts: bool = False
    _shrinks: bool = False

    @property
    def is_due(self) -> bool:
        """Whether there is something to look at."""
        return bool(self._due) or self._compacts or self._shrinks

    def begin(self, connection: sqlite3.Connection) -> None:
        """Look at everything anew."""
        self._due = deque(log for (log,) in connection.execute("SELECT id FROM logs WHERE next_offset > 1"))
        self._compacts = self._shrinks = True

    def grown(self, sizes: dict[int, int]) -> None:
        """Note the sizes of logs; one that is a sixteenth too large is looked at now."""
        bound = self.options.retention_bytes + self.options.retention_bytes // 16
        self._due.extend(log for log, size in sizes.items() if size > bound and log not in self._due)

    def step(self, connection: sqlite3.Connection, now_ms: int) -> None:
        """Delete a little."""
        if self._due:
            # A log that has nothing to delete costs a look at its first record; many of those are one step.
            for _ in range(32):
                if not self._due:
                    return
                deleted, has_more = self._expire(connection, self._due[0], now_ms)
                if not has_more:
                    self._due.popleft()
                if deleted:
                    return
        elif self._compacts:
            self._compacts = self._compact(connection, now_ms)
        else:
            self._shrinks = self._shrink(connection)

    def _expire(self, connection: sqlite3.Connection, log: int, now_ms: int) -> tuple[bool, bool]:
        """Delete the oldest records of a log; return whether there were any, and whether there may be more."""
        query = "SELECT next_offset, size_bytes, retention_s, is_compacted FROM logs JOIN topics ON topics.id = topic WHERE logs.id = ?"
        next_offset, size_bytes, retention_s, is_compacted = connection.execute(query, (log,)).fetchone()
        if is_compacted:
            return False, False
        oldest_ms = now_ms - int(retention_s * 1000)
        base = log << OFFSET_BITS
        last: int | None = None
        count = freed = 0
        # The newest record always stays: a log that is too small for one record would lose it before anyone could read it.
        rows = connection.execute(
            "SELECT id, length(value), timestamp_ms FROM records WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?",
            (base, base | (next_offset - 2), STEP_RECORDS),
        )
        for identity, length, timestamp_ms in rows:
            if timestamp_ms >= oldest_ms and size_bytes - freed <= self.options.retention_bytes:
                rows.close()
                break
            last, count, freed = identity, count + 1, freed + (length or 0)
            if freed >= STEP_BYTES:
                rows.close()
                break
        if last is None:
            return False, False
        connection.execute("DELETE FROM records WHERE id BETWEEN ? AND ?", (base, last))
        connection.execute("UPDATE logs SET size_bytes = size_bytes - ? WHERE id = ?", (freed, log))
        return True, count == STEP_RECORDS or freed >= STEP_BYTES

    def _compact(self, connection: sqlite3.Connection, now_ms: int) -> bool:
        """Delete older records of keys, and keys that are to be forgotten; return whether there may be more."""
        before_ms = now_ms - int(self.options.compact_after_s * 1000)
        query = "SELECT id FROM superseded WHERE since_ms <= ? ORDER BY since_ms LIMIT ?"
        older = connection.execute(query, (before_ms, STEP_RECORDS)).fetchall()
        connection.executemany("DELETE FROM records WHERE id = ?", older)
        connection.executemany("DELETE FROM superseded WHERE id = ?", older)
        forgotten = connection.execute(
            "SELECT log, key, latest.id FROM latest JOIN logs ON logs.id = log"
            " WHERE forget_ms <= ? AND (latest.id & ?) < next_offset - 1 LIMIT ?",
            (now_ms, OFFSETS, STEP_RECORDS),
        ).fetchall()
        connection.executemany("DELETE FROM records WHERE id = ?", [(identity,) for _, _, identity in forgotten])
        connection.executemany(
            "DELETE FROM latest WHERE log = ? AND key = ?", [(log, key) for log, key, _ in forgotten]
        )
        return len(older) == STEP_RECORDS or len(forgotten) == STEP_RECORDS

    def _shrink(self, connection: sqlite3.Connection) -> bool:
        """Give empty pages back to the disk, where they are many; return whether there are more."""
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        if free < _FREE_PAGES or free * 4 < pages:
            return False
        connection.execute(f"PRAGMA incremental_vacuum({_GIVEN_BACK_PAGES})").fetchall()
        return True
