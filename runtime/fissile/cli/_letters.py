"""How the commands of dead letters reach them, and choose some: by id, by group, or all."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeVar

from attrs import frozen
from cyclopts import Parameter

from fissile._application import Application
from fissile._build import dead_letter_topic, open_letter_box, requests_topic, topic_specs
from fissile._check import Catalog, check_contracts
from fissile._clock import SystemClock
from fissile._delivery.dead_letters import STATES, DeadLetter, LetterState
from fissile._delivery.letter_box import LetterBox
from fissile._errors import Fault, StartupFailed
from fissile._logging import leaves
from fissile.abc import TopicSpec
from fissile.cli._context import Context
from fissile.cli._errors import did_you_mean
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._output import without_password
from fissile.cli._serve import run_async
from fissile.cli._view import look
from fissile.transports import open_transport

T = TypeVar("T")

_AGE = re.compile(r"(?P<count>\d+(\.\d+)?)(?P<unit>[smhd])")
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@frozen
class Selection:
    """Which dead letters.

    Attributes:
        module: What this module has given up.
        handler: What this handler has given up, such as billing.on_placed.
        error: Errors of this class, such as ValueError.
        type: Messages of this name, such as orders.order-placed.
        since: What failed in this time (90s, 30m, 2h, 7d) or after this moment (2026-11-23T08:00Z).
    """

    module: str | None = None
    handler: str | None = None
    error: str | None = None
    type: str | None = None
    since: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it leaves nothing out."""
        return self == Selection()

    def of(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Return the letters that are meant.

        Raises:
            CommandFailed: The moment makes no sense.
        """
        after = None if self.since is None else _moment(self.since)
        return [
            letter
            for letter in letters
            if self.module in (None, letter.module)
            and (self.handler is None or self.handler in (letter.handler, letter.handler.partition(".")[2]))
            and self.error in (None, letter.error_type)
            and self.type in (None, letter.name)
            and (after is None or letter.last_failed >= after)
        ]

    def check(self, letters: Sequence[DeadLetter], catalog: Catalog) -> None:
        """Refuse a name that no letter has, where something is to be done: it is probably misspelt. Without letters there is nothing to do.

        Args:
            letters: All letters.
            catalog: The contracts, whose modules and messages are known even without a letter.

        Raises:
            CommandFailed: A name is unknown; it says which was probably meant.
        """
        if not letters:
            return
        known: dict[str, tuple[str | None, set[str]]] = {
            "module": (self.module, {letter.module for letter in letters} | set(catalog.contracts)),
            "handler": (self.handler, {letter.handler for letter in letters}),
            "error": (self.error, {letter.error_type for letter in letters}),
            "type": (
                self.type,
                {letter.name for letter in letters} | {catalog.name_of(message) for message in catalog.owners},
            ),
        }
        for option, (name, names) in known.items():
            alone = {each.partition(".")[2] for each in names} if option == "handler" else set[str]()
            if name is not None and name not in names | alone:
                raise CommandFailed(
                    f"There is no dead letter with the {option} {name!r}.",
                    *did_you_mean(name, names | alone),
                    "`fissile dead-letters ls` shows those that there are.",
                    code=Exit.UNKNOWN_NAME,
                )


Chosen = Annotated[Selection, Parameter(name="*")]


def _moment(text: str) -> datetime:
    age = _AGE.fullmatch(text)
    if age is not None:
        return SystemClock().now() - timedelta(seconds=float(age["count"]) * _UNITS_S[age["unit"]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandFailed(
            f"--since {text}: it is neither a time span nor a moment.",
            "Write 90s, 30m, 2h or 7d, or a moment such as 2026-11-23T08:00Z.",
            code=Exit.USAGE,
        ) from None
    return moment if moment.tzinfo is not None else moment.astimezone(UTC)


def by_ids(letters: Sequence[DeadLetter], wanted: Sequence[str]) -> list[DeadLetter]:
    """Return letters by their ids, or the beginnings of those.

    Raises:
        CommandFailed: There is none, or there are several.
    """
    found: dict[str, DeadLetter] = {}
    for prefix in wanted:
        matching = [letter for letter in letters if letter.id.startswith(prefix)]
        if not matching:
            raise CommandFailed(
                f"There is no dead letter {prefix!r}.",
                *did_you_mean(prefix, [letter.id for letter in letters]),
                "`fissile dead-letters ls --each` shows their ids. One that was handled is no more.",
                code=Exit.UNKNOWN_NAME,
            )
        if len(matching) > 1:
            known = ", ".join(letter.id for letter in matching[:5])
            raise CommandFailed(f"Several dead letters begin with {prefix!r}: {known}.", code=Exit.UNKNOWN_NAME)
        found[matching[0].id] = matching[0]
    return list(found.values())


def choose(
    letters: Sequence[DeadLetter], ids: Sequence[str], selection: Selection, states: Sequence[LetterState] = STATES
) -> list[DeadLetter]:
    """Return the letters that are meant: those named, whatever their state; else those of the selection in some states."""
    if ids:
        return by_ids(letters, ids)
    return [letter for letter in selection.of(letters) if letter.state in states]


# --- the bus ---------------------------------------------------------------------------------------------------------


@frozen
class Letters:
    """The dead letters of an application on its bus.

    Attributes:
        application: The application.
        catalog: Its contracts.
        specs: The topics that are used.
        modules: The modules that have a log of dead letters.
    """

    application: Application
    catalog: Catalog
    specs: tuple[TopicSpec, ...]
    modules: tuple[str, ...]

    @classmethod
    def find(cls, context: Context) -> Letters:
        """Find the application's, without making anything.

        Raises:
            CommandFailed: They are out of reach, or nothing has run there yet.
            StartupFailed: The application has faults.
        """
        application = context.application()
        if not application.log_is_shared:
            raise _out_of_reach(application)
        faults: list[Fault] = []
        contracts = application.import_contracts(faults)
        catalog = check_contracts(contracts.values(), faults)
        if faults:
            raise StartupFailed(tuple(faults))
        specs = {spec.name: spec for spec in topic_specs(catalog, application.settings)}
        prefix = application.settings.kafka_prefix
        there = look(application, lambda view: view.topics([prefix + name for name in specs]), "dead letters")
        modules = tuple(name for name in catalog.contracts if prefix + dead_letter_topic(name) in there)
        if not modules:
            raise CommandFailed(
                "No module of the application has a log of dead letters: nothing has run there yet.",
                "`fissile topics apply`, or starting the processes, makes them.",
                code=Exit.NOTHING_THERE,
            )
        used = tuple(specs[topic(name)] for name in modules for topic in (dead_letter_topic, requests_topic))
        return cls(application, catalog, used, modules)

    def act(self, act: Callable[[LetterBox, tuple[DeadLetter, ...]], Awaitable[T]]) -> T:
        """Read all letters and do something with them.

        Args:
            act: Takes the box and the letters.
        """
        try:
            result: T = run_async(self._act, self.application.settings, act)
        except BaseExceptionGroup as error:
            raise leaves(error)[0] from None
        return result

    async def _act(self, act: Callable[[LetterBox, tuple[DeadLetter, ...]], Awaitable[T]]) -> T:
        settings, clock = self.application.settings, SystemClock()
        async with open_transport(settings, clock, f"{self.application.name}.cli") as transport:
            await transport.ensure(self.specs)  # they are there: it learns of them
            box = open_letter_box(transport, self.catalog, settings, clock)
            letters: list[DeadLetter] = []
            for module in self.modules:
                letters += await box.read(module)
            return await act(box, tuple(sorted(letters, key=lambda letter: letter.age_order)))


def _out_of_reach(application: Application) -> CommandFailed:
    bus = without_password(application.settings.bus)
    return CommandFailed(
        f"There are no dead letters to ask for: the bus is {bus}, and lives and ends with the process that uses it.",
        "In that process `await app.dead_letters()` returns them, and `app.retry_dead_letters(...)` retries them.",
        "On a bus that others can reach they are kept, and this command works: FISSILE_BUS=sqlite:///path or kafka://host:port.",
        code=Exit.NOTHING_THERE,
    )
