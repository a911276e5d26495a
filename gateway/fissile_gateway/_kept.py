"""What is kept in memory for some time, and within some size: the least recently used goes first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")

_ENTRY_BYTES = 500
"""What an entry takes besides its content, more or less."""


class Kept(Generic[V]):
    """A mapping with bounds.

    Args:
        keep_s: How long an entry is kept, in seconds.
        limit_bytes: How much all entries may take together.
        now: The clock, in seconds.
    """

    def __init__(self, keep_s: float, limit_bytes: int, now: Callable[[], float]) -> None:
        self._keep_s = keep_s
        self._limit_bytes = limit_bytes
        self._now = now
        self._entries: OrderedDict[str, tuple[V, int, float]] = OrderedDict()
        self._bytes = 0

    def put(self, key: str, value: V, size_bytes: int) -> None:
        """Keep a value; others go where there is no room.

        Args:
            key: Under which name.
            value: The value.
            size_bytes: What its content takes.
        """
        self.pop(key)
        size = size_bytes + _ENTRY_BYTES + len(key)
        self._entries[key] = value, size, self._now() + self._keep_s
        self._bytes += size
        while self._bytes > self._limit_bytes:
            self.pop(next(iter(self._entries)))

    def get(self, key: str) -> V | None:
        """Return the value of a key, if it is still there."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry[2] <= self._now():
            self.pop(key)
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def pop(self, key: str) -> None:
        """Forget a key."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[1]
