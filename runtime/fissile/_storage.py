"""What the runtime asks of a module's database. `fissile.database` gives it; the runtime itself imports no database."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from fissile._bus import Queries, Routes, Scheduled
from fissile._clock import Environment
from fissile._errors import Fault
from fissile.abc import Outgoing, Transport

if TYPE_CHECKING:
    from contextvars import Context
    from pathlib import Path

    from fissile._handler import Handler
    from fissile._messages import DeclaredError
    from fissile._module import SagaDeclaration
    from fissile._process import Lifespan
    from fissile._settings import Settings

Effects = Literal["once", "each", "none"]
"""How a handler uses its module's database: its effects are one unit that takes effect once; each transaction by itself; none at all."""

Call = Callable[[Any, Queries], Coroutine[Any, Any, Any]]  # Any: a message, and its reply


class Schedule(msgspec.Struct, frozen=True):
    """A command that is sent again and again.

    Attributes:
        name: The schedule's name, unique in its module.
        expression: When: five fields as cron has them.
        command: The command.
        time_zone: Where the clock hangs that the expression speaks of.
    """

    name: str
    expression: str
    command: Any  # Any: whatever command of the module
    time_zone: str


class StorageContext(msgspec.Struct, frozen=True):
    """What a database is opened with.

    Attributes:
        application: The application's name.
        module: The module's name.
        settings: The runtime's settings.
        environment: Time, ids and randomness.
        routes: Encodes what the module sends.
        is_dev: Whether missing migrations are applied at start.
        root: The folder that relative paths in the settings start from; the current one if None.
        schedules: The commands that the module sends to itself again and again.
        sagas: The sagas of the module.
        name_of: Gives the name of a message's class on the wire.
    """

    application: str
    module: str
    settings: Settings
    environment: Environment
    routes: Routes
    is_dev: bool
    root: Path | None
    schedules: tuple[Schedule, ...] = ()
    sagas: tuple[SagaDeclaration, ...] = ()
    name_of: Callable[[type], str] = str


class SagaContext(msgspec.Struct, frozen=True):
    """What the sagas of a module run with.

    Attributes:
        functions: Their functions by name, with their resources.
        context: What the resources of the module have set.
        errors: The errors that the module's own contract declares.
    """

    functions: Mapping[str, Callable[..., Coroutine[Any, Any, None]]]
    context: Context
    errors: tuple[type[DeclaredError], ...]


class RelayStatistics(msgspec.Struct, frozen=True):
    """What the relay of an outbox has done in this process.

    Attributes:
        sent: Rows that the log has.
        failed: Rounds that failed, since the log or the database could not be reached.
        set_aside: Rows that could not be sent and are tried again in an hour.
        unsettled: Rows that were sent and are not deleted yet.
    """

    sent: int
    failed: int
    set_aside: int
    unsettled: int


Committed = Callable[[str, int], int | None]
"""Tells, of a partition of a topic, up to which offset every module that reads it here has committed; None while that is not known."""


class OpenStorage(Protocol):
    """A module's database in a running process."""

    @property
    def values(self) -> Mapping[Any, Any]:
        """What handlers and workers take as parameters, by type."""
        ...

    def around(self, handler: Handler, name: str, effects: Effects, call: Call) -> Call:
        """Return what handles a message with the database.

        Args:
            handler: The handler.
            name: What the handler's repeats are known by.
            effects: What becomes of its effects.
            call: Runs the handler.
        """
        ...

    async def keep(self, records: list[Outgoing | Scheduled]) -> None:
        """Store what is to be sent, by itself."""
        ...

    async def relay(self, transport: Transport, topics: Collection[str], committed: Committed | None) -> None:
        """Send what was stored, in order per key, until cancelled; a supervised task.

        Args:
            transport: The log.
            topics: The topics that it has.
            committed: How far the subscribers are, for a log that forgets; None for one that keeps what it has.
        """
        ...

    async def run_sagas(self, context: SagaContext, lifespan: Lifespan) -> None:
        """Run the module's sagas until the process drains; a supervised task."""
        ...

    def relay_statistics(self) -> RelayStatistics:
        """Return what the relay has done in this process."""
        ...

    def check(self) -> str | None:
        """Return what is wrong, as a sentence, or None if all is well."""
        ...


class Storage(Protocol):
    """The declaration of a module's database: what `Module(contract, database=…)` takes."""

    @property
    def provides(self) -> tuple[type, ...]:
        """The types that handlers and workers may name in their parameters."""
        ...

    def faults(self) -> tuple[Fault, ...]:
        """Return what keeps it from being used."""
        ...

    def schedule_problem(self, schedule: Schedule) -> str | None:
        """Return what keeps a schedule from being understood, as a sentence."""
        ...

    def open(self, context: StorageContext) -> AbstractAsyncContextManager[OpenStorage]:
        """Connect, and see to it that the tables are there.

        Raises:
            StartupFailed: Migrations are missing; the error names the command to run.
        """
        ...
