"""The launcher's reports, taken out of the program's stderr again."""

from attrs import define


@define
class Reports:
    """Splits a stream into what the program wrote and what the launcher reported.

    Attributes:
        mark: A secret word of this run, 16 bytes or more; a report is NUL, the mark, a line and its end.
    """

    mark: bytes
    _pending: bytes = b""

    def split(self, data: bytes) -> list[tuple[bytes, str]]:
        """Return pairs of the program's own bytes and the report that follows them, empty if none does yet."""
        start = b"\0" + self.mark
        self._pending += data
        pairs: list[tuple[bytes, str]] = []
        while True:
            before, found, after = self._pending.partition(start)
            if not found:
                keep = self._beginning(start)
                pairs.append((self._pending[: len(self._pending) - keep], ""))
                self._pending = self._pending[len(self._pending) - keep :]
                return pairs
            line, end, rest = after.partition(b"\n")
            if not end:
                pairs.append((before, ""))
                self._pending = found + after
                return pairs
            pairs.append((before, line.decode("utf-8", "replace")))
            self._pending = rest

    def rest(self) -> bytes:
        """What was held back as the possible beginning of a report, now that no more will come."""
        pending, self._pending = self._pending, b""
        return b"" if self.mark in pending else pending

    def _beginning(self, start: bytes) -> int:
        """How many bytes at the end could be the beginning of a report."""
        longest = min(len(start) - 1, len(self._pending))
        return next((size for size in range(longest, 0, -1) if start.startswith(self._pending[-size:])), 0)
