"""What a module does with one kind of record: the handler, its retry policy, and the key that orders it."""

from __future__ import annotations

import msgspec

from fissile._handler import Handler
from fissile._retry import Retry


class Subscription(msgspec.Struct, frozen=True, eq=False):
    """One handler of one kind of record.

    Attributes:
        name: What people call it, such as `leaderboard.on_verdict`.
        handler: The handler.
        retry: When a failed delivery is tried again.
        bears_repeats: Whether handling a record twice has the effect of handling it once.
        ordered: Whether records of equal key are handled one after the other; a command without a key is not.
    """

    name: str
    handler: Handler
    retry: Retry
    ordered: bool
    bears_repeats: bool
