"""What a database that cannot be used raises. Errors in a statement are SQLAlchemy's own, as they are."""

from __future__ import annotations

from typing import ClassVar

from fissile._errors import Postponed


class DatabaseUnavailable(Postponed):
    """Raised when a database cannot be used now: refused, lost, locked for too long, full, its folder not writable.

    Trying again later may succeed, with nothing changed in the program.

    Attributes:
        module: Whose database it is.
        reason: What the database or its driver said; no password is in it.
        is_away: Whether nobody can use it now. False where others were in the way: a lock, a deadlock, all connections in use.
        happened: False: the transaction had no effect. None in `CommitUnknown`.
    """

    happened: ClassVar[bool | None] = False

    def __init__(self, module: str, place: str, reason: str, *, is_away: bool = True) -> None:
        self.module = module
        self.place = place
        self.reason = reason
        self.is_away = is_away
        super().__init__(module, place, reason)

    def __str__(self) -> str:
        return f"the database of {self.module} ({self.place}) cannot be used: {self.reason}; nothing was changed"


class CommitUnknown(DatabaseUnavailable):
    """Raised when the connection was lost while a transaction was being committed: all of its effects are there, or none is."""

    happened = None

    def __str__(self) -> str:
        return (
            f"the database of {self.module} ({self.place}) was lost during a commit: {self.reason}; "
            "the transaction has happened as a whole or not at all"
        )
