"""The short way from a commit to the relay: rows that this process has just committed, which need not be read back.

Only a database that numbers rows in the order of their commits can have it (SQLite: one writer, and numbers that are given back when a
transaction is rolled back). Then a row whose number follows the last one that the relay knows of has no older one before it. Where a number is
missing, another process has written, or something was sent by other means, or failed: everything waiting is read, and the short way begins
anew behind it. What is in here is in the database too, so that it may be forgotten at any time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from fissile._bus import Scheduled
from fissile.abc import Outgoing
from fissile.database._outbox import BATCH_BYTES, BATCH_ROWS, Row

MOST_ROWS = BATCH_ROWS
"""How many rows may wait in here. If there are more, the relay reads them in portions."""


class Handover:
    """What was committed since the relay has read last. Without I/O; used by the event loop only."""

    def __init__(self) -> None:
        self._rows: deque[Row] = deque()
        self._size_bytes = 0
        self._first: int | None = None  # the numbers in here, without a gap: from this one on ...
        self._next: int | None = None  # ... up to the one before this
        self._is_behind = True  # the relay has to read
        self._has_gap = False

    def offer(self, outgoing: Sequence[Outgoing | Scheduled], first: int | None) -> None:
        """Take what was committed.

        Args:
            outgoing: What it was.
            first: The number of the first row; the others follow it. None where that is not known.
        """
        if self._has_gap:
            return
        if first is None or (self._next is not None and first != self._next):
            self._lose()
            return
        if self._next is None:
            self._first = first
        for number, each in enumerate(outgoing, first):
            if isinstance(each, Outgoing):  # what is scheduled is read when it is due
                self._rows.append(Row(number, each))
                self._size_bytes += len(each.value or b"")
        self._next = first + len(outgoing)
        if len(self._rows) > MOST_ROWS or self._size_bytes > BATCH_BYTES:
            self._lose()

    def take(self) -> list[Row] | None:
        """Return the rows that are to be sent now, in order; None if the relay has to read."""
        if self._is_behind:
            return None
        rows, self._size_bytes = list(self._rows), 0
        self._rows.clear()
        return rows

    def forget(self) -> None:
        """Let the relay read: what is in here is read with the rest, and what is committed from now on is kept until `has_read`."""
        self._clear()
        self._has_gap = False

    def has_read(self, reached: int | None) -> None:
        """Go on behind what the relay has read.

        Args:
            reached: The last number that a row had when it read; None if it does not know, or if there is more to read.
        """
        if self._has_gap or reached is None or (self._first is not None and self._first > reached + 1):
            self._lose()
            return
        while self._rows and self._rows[0].seq <= reached:
            self._size_bytes -= len(self._rows.popleft().record.value or b"")
        self._next = max(self._next or 0, reached + 1)
        self._is_behind = False

    def _lose(self) -> None:
        self._clear()
        self._has_gap = True

    def _clear(self) -> None:
        self._rows.clear()
        self._size_bytes = 0
        self._first = self._next = None
        self._is_behind = True
