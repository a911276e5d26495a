"""What the tests of the leaderboard share: verdicts, a running leaderboard, and what it has to show, worked out in the simplest way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from random import Random

import anyio
from attrs import define, field
from sqlalchemy import Connection, NullPool, create_engine

from fissile import App, Bus, Settings
from fissile._clock import SystemClock
from fissile.testing import fake, placed
from fissile.transports.memory import MemoryLog, MemoryTransport
from modules.leaderboard.contract import GetSolvers, GetStandings, Solver, Solvers, Standing, Standings
from modules.leaderboard.service import module
from modules.submissions.contract import SubmissionJudged, verdicts
from modules.submissions.contract import contract as submissions

PATIENCE_S = 30.0
NAMES = ("ann", "bob", "cyd", "dan", "eve", "fay")
CHALLENGES = ("maze", "queens", "fizz-buzz")


def judged(
    number: int,
    author: str,
    challenge: str = "maze",
    verdict: str | None = "accepted",
    *,
    at: float | None = None,
    duration_ms: float = 100.0,
    language: str = "python",
) -> SubmissionJudged:
    """A verdict. Its submission came at the time of its number unless told, and was judged half a second later."""
    came = float(number) if at is None else at
    return SubmissionJudged(f"s{number:05}", author, challenge, language, verdict, 3, 3, duration_ms, came, came + 0.5)


def some_verdicts(random: Random, count: int) -> list[SubmissionJudged]:
    """Verdicts of few people on few challenges; some are equally fast or come at the same time, and some submissions are judged twice."""
    found: list[SubmissionJudged] = []
    for number in range(count):
        event = judged(
            number,
            random.choice(NAMES),
            random.choice(CHALLENGES),
            random.choice(["accepted", "accepted", "wrong_answer", "time_limit", None]),
            at=float(random.randrange(count // 2)),
            duration_ms=float(random.randrange(5)),
            language=random.choice(["python", "c"]),
        )
        found.append(event)
        if not random.randrange(8):
            again = judged(number, event.author, random.choice(CHALLENGES), "accepted", at=event.submitted_at + 1.0)
            found.append(again)
    return found


@define(eq=False)
class Board:
    """A running leaderboard.

    Attributes:
        bus: Asks it.
        log: The log that it reads.
    """

    bus: Bus
    log: MemoryLog

    async def publish(self, events: Iterable[SubmissionJudged]) -> None:
        """Publish verdicts, and wait until they have been taken in."""
        for event in events:
            await self.bus.publish(event)
        await self.caught_up()

    async def caught_up(self) -> None:
        """Wait until everything that was published has been taken in."""
        logs = {log.name: log for log in self.log.logs(verdicts.name)}
        committed = self.log.group(module.name).committed
        with anyio.fail_after(PATIENCE_S):
            while any(committed.get(name, 0) < log.next_offset for name, log in logs.items()):
                await anyio.sleep(0.002)

    async def shown(self) -> tuple[Standings, dict[str, Solvers]]:
        """Everything that it shows."""
        solvers = {challenge: await self.bus.ask(GetSolvers(challenge, 100)) for challenge in CHALLENGES}
        return await self.bus.ask(GetStandings(100)), solvers


@define(eq=False)
class BoardApart(Board):
    """One in a process of its own: that everything has been taken in is seen by what it shows."""

    published: list[SubmissionJudged] = field(factory=list[SubmissionJudged])

    async def publish(self, events: Iterable[SubmissionJudged]) -> None:
        given = list(events)
        self.published += given
        await super().publish(given)

    async def caught_up(self) -> None:
        with anyio.move_on_after(PATIENCE_S):
            while await self.shown() != expected(self.published):
                await anyio.sleep(0.05)


def new_log() -> MemoryLog:
    """A log of its own."""
    return MemoryLog(SystemClock(), 100_000_000, 2_000_000)


@asynccontextmanager
async def leaderboard(
    settings: Settings, log: MemoryLog | None = None, *, is_loopback: bool = False
) -> AsyncGenerator[Board]:
    """Run a leaderboard beside somebody who publishes verdicts."""
    log = log or new_log()
    app = App(
        [verdict_source, module],
        settings=settings,
        transport=MemoryTransport(log),
        is_loopback=is_loopback,
        repeats=is_loopback,
    )
    async with app:
        yield Board(app.bus, log)


verdict_source = fake(submissions).module
"""Stands in for the submissions, in whatever process."""


@asynccontextmanager
async def leaderboard_apart(settings: Settings, broker: str) -> AsyncGenerator[BoardApart]:
    """Run a leaderboard in a process of its own."""
    async with placed("split", [verdict_source, module], broker=broker, settings=settings) as bus:
        yield BoardApart(bus, new_log())


# --- what has to be shown --------------------------------------------------------------------------------------------


def expected(events: Sequence[SubmissionJudged]) -> tuple[Standings, dict[str, Solvers]]:
    """Everything that it has to show after some verdicts."""
    newest: dict[str, SubmissionJudged] = {}
    for event in sorted(events, key=lambda event: event.judged_at):
        newest[event.submission_id] = event
    of_pair: dict[tuple[str, str], list[SubmissionJudged]] = defaultdict(list)
    for event in newest.values():
        if event.verdict is not None:
            of_pair[event.challenge, event.author].append(event)
    solved: dict[str, list[Solver]] = defaultdict(list)
    for (challenge, name), found in of_pair.items():
        found.sort(key=lambda event: (event.submitted_at, event.submission_id))
        accepted = [number for number, event in enumerate(found) if event.verdict == "accepted"]
        if accepted:
            fastest = min(accepted, key=lambda number: (found[number].duration_ms, number))
            solved[challenge].append(
                Solver(
                    0,
                    name,
                    found[fastest].language,
                    found[fastest].duration_ms,
                    accepted[0] + 1,
                    found[accepted[0]].submitted_at,
                )
            )
    of_name: dict[str, list[Solver]] = defaultdict(list)
    for solvers in solved.values():
        for solver in solvers:
            of_name[solver.name].append(solver)
    people = [
        Standing(0, name, len(each), sum(one.attempts for one in each), max(one.solved_at for one in each))
        for name, each in of_name.items()
    ]
    people.sort(key=lambda one: (-one.solved, one.last_solved_at, one.name))
    places = [
        Standing(
            1 + sum((-other.solved, other.last_solved_at) < (-one.solved, one.last_solved_at) for other in people),
            one.name,
            one.solved,
            one.attempts,
            one.last_solved_at,
        )
        for one in people
    ]
    return Standings(tuple(places), len(places)), {name: _in_order(solved[name]) for name in CHALLENGES}


def _in_order(solvers: list[Solver]) -> Solvers:
    solvers.sort(key=lambda one: (one.duration_ms, one.solved_at, one.name))
    places = [
        Solver(
            1 + sum(other.duration_ms < one.duration_ms for other in solvers),
            one.name,
            one.language,
            one.duration_ms,
            one.attempts,
            one.solved_at,
        )
        for one in solvers
    ]
    return Solvers(tuple(places), len(places))


# --- behind its back -------------------------------------------------------------------------------------------------


@contextmanager
def tables_of(settings: Settings) -> Iterator[Connection]:
    """Open the tables of the leaderboard, as somebody who repairs or damages them does."""
    if settings.database.startswith("sqlite"):
        engine = create_engine(f"{settings.database}/leaderboard.sqlite3", poolclass=NullPool)
    else:
        url = settings.database.replace("postgresql:", "postgresql+psycopg:")
        engine = create_engine(url, poolclass=NullPool)
        engine = engine.execution_options(schema_translate_map={None: f"{settings.database_prefix}leaderboard"})
    with engine.begin() as connection:
        yield connection
