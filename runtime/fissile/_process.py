"""What a worker is told of the process it runs in, and how it says that it is up and learns that it has to end."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import msgspec

from fissile._contract import Contract
from fissile._metrics import Metrics


class Check(msgspec.Struct, frozen=True):
    """One thing that has to be well for a process to be ready.

    Attributes:
        name: What people call it, such as `consumer leaderboard`.
        problem: What is wrong, or None.
    """

    name: str
    problem: str | None


class Process(msgspec.Struct, frozen=True):
    """The process that a module runs in.

    Attributes:
        application: The application's name.
        name: The process's name in its placement.
        placement: The placement.
        modules: The modules it hosts.
        contracts: All contracts of the application, hosted here or not.
        max_message_bytes: The size that a message may have.
        is_dev: Whether it runs for a developer, reachable from this machine only, where less is refused.
        checks: Tells what has to be well for the process to be ready, and whether it is.
        metrics: What the process measures; a worker may add its own.
    """

    application: str
    name: str
    placement: str
    modules: tuple[str, ...]
    contracts: tuple[Contract, ...]
    max_message_bytes: int
    is_dev: bool
    checks: Callable[[], tuple[Check, ...]]
    metrics: Metrics = msgspec.field(default_factory=Metrics)


class Lifespan:
    """Joins a worker to the life of its process.

    A worker calls `started` when it is up; the process is ready when all of them are. It awaits `draining`, and returns soon after.
    """

    def __init__(self, name: str, on_started: Callable[[], None]) -> None:
        self.name = name
        self._on_started = on_started
        self.is_started = False
        self._draining = anyio.Event()

    def started(self, *announcements: str) -> None:
        """Say that the worker is up.

        Args:
            announcements: What a person should be told, such as the address it listens on.
        """
        self.announcements = announcements
        self.is_started = True
        self._on_started()

    async def draining(self) -> None:
        """Wait until the process drains."""
        await self._draining.wait()

    @property
    def is_draining(self) -> bool:
        """Whether the process drains."""
        return self._draining.is_set()

    def drain(self) -> None:
        """Tell the worker to end."""
        self._draining.set()

    announcements: tuple[str, ...] = ()
