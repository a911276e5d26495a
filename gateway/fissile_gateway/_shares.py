"""How many there may be of what stays for long, and how many of them one client may have: else the first who wants them all has them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from fissile_gateway._problems import RETRY_AFTER_S, Problem, overloaded

T = TypeVar("T")


class _Client(msgspec.Struct, eq=False):
    name: str
    count: int = 0


class Shares(Generic[T]):
    """Things that are open, and whose they are.

    Args:
        limit: How many there may be.
        per_client: How many one client may have; 0: as many as there may be.
        setting: The setting that says so, such as `FISSILE_STREAMS_PER_CLIENT`.
        name: What they are called in the name of a problem, such as `streams`.
        what: That so many are there, in words: `event streams are open`.
    """

    def __init__(self, limit: int, per_client: int, setting: str, name: str, what: str) -> None:
        self._limit = limit
        self._per_client = per_client
        self._setting = setting
        self._name = name
        self._what = what
        self._held: dict[T, _Client] = {}
        self._clients: dict[str, _Client] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._held))

    def refusal(self, client: str) -> Problem | None:
        """Return why a client may not have one more; nothing may be awaited between this and `take`.

        Args:
            client: Who it is; where that is empty, nobody knows, and only the bound of all holds.
        """
        if len(self._held) >= self._limit:
            return overloaded(f"{len(self._held)} {self._what}.")
        found = self._clients.get(client)
        if not self._per_client or found is None or found.count < self._per_client:
            return None
        detail = (
            f"{found.count} {self._what} for this client, as many as one may have ({self._setting}). "
            "It did not happen; try again when one has ended."
        )
        return Problem(429, f"too-many-{self._name}", detail, headers=(("retry-after", str(RETRY_AFTER_S)),))

    def take(self, thing: T, client: str) -> None:
        """Note one more.

        Args:
            thing: What is open.
            client: Whose it is.
        """
        found = self._clients.get(client)
        if found is None:
            found = _Client(client)
            if client:
                self._clients[client] = found
        found.count += 1
        self._held[thing] = found

    def leave(self, thing: T) -> None:
        """Forget one, if it is there."""
        found = self._held.pop(thing, None)
        if found is not None:
            found.count -= 1
            if not found.count:
                self._clients.pop(found.name, None)
