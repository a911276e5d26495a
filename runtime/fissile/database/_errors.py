"""What a database that cannot be used raises. Errors in a statement are SQLAlchemy's own, as they are."""

from __future__ import annotations

import re
from typing import ClassVar

from fissile._errors import Postponed


class DatabaseUnavailable(Postponed):
    """Raised when a database cannot be used now: refused, lost, locked for too long, full, its folder not writable.

    Trying again later may succeed, with nothing changed in the program.

    Attributes:
        module: Whose database it is.
        reason: What the database or its driver said, on one line; no password is in it.
        is_away: Whether nobody can use it now. False where others were in the way: a lock, a deadlock, all connections in use.
        happened: False: the transaction had no effect. None in `CommitUnknown`.
    """

    happened: ClassVar[bool | None] = False

    def __init__(self, module: str, place: str, reason: str, *, is_away: bool = True) -> None:
        self.module = module
        self.place = place
        self.reason = " ".join(reason.split())
        self.is_away = is_away
        self._outside = _without_places(reason.partition("\n")[0])
        super().__init__(module, place, reason)

    def __str__(self) -> str:
        return f"the database of {self.module} ({self.place}) cannot be used: {self.reason}"

    def told_outside(self) -> str:
        """Return what may be told to anybody: no address, no name of a user, no path."""
        return f"the database of {self.module} cannot be used: {self._outside}"


class CommitUnknown(DatabaseUnavailable):
    """Raised when the connection was lost while a transaction was being committed: all of its effects are there, or none is."""

    happened = None

    def __str__(self) -> str:
        return (
            f"the database of {self.module} ({self.place}) was lost during a commit: {self.reason}; "
            "the transaction has happened as a whole or not at all"
        )

    def told_outside(self) -> str:
        """Return what may be told to anybody: no address, no name of a user, no path."""
        return f"the database of {self.module} was lost during a commit; the transaction has happened as a whole or not at all"


def _without_places(reason: str) -> str:
    """Return the reason that a driver gives without the addresses, the names and the paths in it."""
    # PostgreSQL: connection to server at "10.0.0.7", port 5432 failed: FATAL: password authentication failed for user "shop"
    reason = re.sub(r"^.*connection to server .*? failed: ", "", reason)
    reason = re.sub(r'"[^"]*"', '"…"', reason)
    return re.sub(r"(?<![\w/])/\S+", "…", reason).strip()
