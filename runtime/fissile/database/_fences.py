"""The fence: a process that has lost a partition without knowing cannot commit what it was handling.

Whoever gets a partition raises its epoch in the database before the first commit; each commit looks whether the epoch is still its own. So a
process that was stopped for longer than the group waits finds, when it goes on, that the partition is another's. That is how Kafka's
transactional producers are fenced (KIP-98), with the module's own database as the arbiter.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

import anyio
import msgspec

from fissile._delivery.partition import PartitionState
from fissile.database._inbox import Statements
from fissile.database._store import Store

Epoch = tuple[str, int]
"""The name of a partition, and the epoch under which this process holds it."""


class _Claim(msgspec.Struct, eq=False):
    lock: anyio.Lock = msgspec.field(default_factory=anyio.Lock)
    held: Epoch | None = None


class Fences:
    """The epochs of the partitions that this process holds."""

    def __init__(self, store: Store, statements: Statements) -> None:
        self._store = store
        self._statements = statements
        self._claims: WeakKeyDictionary[PartitionState, _Claim] = WeakKeyDictionary()

    async def claim(self, owner: PartitionState) -> Epoch:
        """Return the partition's name and its epoch; raise it at the first message of an assignment.

        Raises:
            DatabaseUnavailable: The database cannot be used.
        """
        claim = self._claims.get(owner)
        if claim is None:
            claim = self._claims[owner] = _Claim()
        if claim.held is None:
            async with claim.lock:
                if claim.held is None:
                    topic, number = owner.partition
                    name, statements = f"{topic}/{number}", self._statements
                    claim.held = (
                        name,
                        await self._store.run(lambda connection: statements.raise_epoch(connection, name)),
                    )
        return claim.held

    def forget(self, owner: PartitionState) -> None:
        """Claim anew at the next message: if the partition is ours after all, somebody has claimed it by mistake."""
        self._claims.pop(owner, None)
