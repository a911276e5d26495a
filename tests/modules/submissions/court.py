"""What submissions are tested with: an executor that runs nothing, challenges that it understands, and authors.

A program is JSON: what it comes to, by its input; what is not named is echoed, which is right. A case of the challenges here has its number for
input, and for output.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec
from attrs import define, evolve, field

from fissile import Bus, Module, Settings
from fissile.testing import Placement, fake, placed, user
from modules.challenges.contract import Case, ChallengeExists, CreateChallenge
from modules.challenges.service import module as challenges
from modules.code_executor import contract as executor
from modules.submissions.contract import GetSubmission, Submission, SubmitSolution
from modules.submissions.service import SubmissionsSettings
from modules.submissions.service import module as submissions

CASES = 10
"""How many cases a challenge has, the two examples counted."""
QUICK: Mapping[str, Any] = {"pause_s": 0.02, "patience_s": 0.3, "overdue_s": 600.0}
"""Settings for what is tried again."""

OUTCOMES: Mapping[str, tuple[str, int | None]] = {
    "runtime_error": ("finished", 1),
    "killed": ("killed", None),
    "time_limit": ("cpu_limit", None),
    "timeout": ("timeout", None),
    "memory_limit": ("memory_limit", None),
    "output_limit": ("output_limit", None),
    "compile_error": ("compile_error", 1),
}


@define
class Executor:
    """Stands in for the executor.

    Attributes:
        refusals: What to answer to the next runs instead.
        away: What to answer to every run, as long as it is set.
        runs: Each run, in order: the program and the case.
        under_way: How many there are now.
        most: How many there were at most.
        holds: Runs of these programs wait until they are taken out.
        on_run: Called before each.
        known: The languages that it has.
    """

    refusals: list[BaseException] = field(factory=list[BaseException])
    away: BaseException | None = None
    runs: list[tuple[str, str]] = field(factory=list[tuple[str, str]])
    under_way: int = 0
    most: int = 0
    holds: set[str] = field(factory=set[str])
    on_run: Callable[[], Awaitable[object]] | None = None
    known: tuple[str, ...] = ("python", "bash")

    def module(self) -> Module:
        """Return the module."""
        return fake(
            executor.contract,
            {
                executor.ListLanguages: self.languages,
                executor.GetLimits: executor.RunLimits(10.0, 1024, 1 << 18, 1 << 16),
                executor.RunCase: self.run,
            },
        ).module

    def languages(self, _query: object) -> tuple[executor.Language, ...]:
        if self.away is not None:
            raise executor.NoSandbox(str(self.away))
        return tuple(executor.Language(name, "none") for name in self.known)

    async def run(self, command: executor.RunCase) -> executor.RunReport:
        if self.away is not None:
            raise self.away
        if self.refusals:
            raise self.refusals.pop()
        if self.on_run is not None:
            await self.on_run()
        self.runs.append((command.source, command.stdin))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await anyio.sleep(0.001)
            while command.source in self.holds:
                await anyio.sleep(0.005)
            return report(command)
        finally:
            self.under_way -= 1

    def cases_of(self, source: str) -> Counter[str]:
        """Return how often a program was run with each case."""
        return Counter(case for each, case in self.runs if each == source)


def report(command: executor.RunCase) -> executor.RunReport:
    """Say what a program comes to."""
    said: Mapping[str, Any] = msgspec.json.decode(command.source)
    wanted = said.get(command.stdin, said.get("*"))
    outcome, exit_code = OUTCOMES.get(str(wanted), ("finished", 0))
    stdout = command.stdin if wanted is None or wanted in OUTCOMES else str(wanted)
    stderr = str(said.get("stderr", "")) if wanted in OUTCOMES else ""
    return executor.RunReport(
        run_id="a-run",
        outcome=outcome,
        exit_code=exit_code,
        stdout=stdout,
        stderr=stderr,
        duration_ms=float(said.get("ms", 1.0)),
        signal=None,
        truncated=False,
        language=command.language,
        sandbox="none",
        cpu_ms=said.get("cpu_ms"),
    )


def program(said: Mapping[str, Any] | None = None, **more: Any) -> str:
    """Return a program that comes to this, by its input; right where nothing is said."""
    return msgspec.json.encode({**(said or {}), **more}).decode()


def count(slug: str = "count", **more: Any) -> CreateChallenge:
    """Return a challenge that the programs here understand."""
    cases = [Case(str(number), f"{number}\n") for number in range(CASES)]
    return CreateChallenge(slug, "Count", 1, "Write what you read.", tuple(cases[2:]), tuple(cases[:2]), **more)


@define
class Court:
    """The application under test.

    Attributes:
        bus: Its bus, for nobody.
        executor: What runs the programs.
        patience_s: How long a submission is waited for, in seconds.
        look_s: How often it is looked for, in seconds.
    """

    bus: Bus
    executor: Executor
    patience_s: float = 60.0
    look_s: float = 0.02

    def as_(self, name: str) -> Bus:
        """Return the bus of an author."""
        return self.bus.acting_as(user(name, "submissions:write"))

    async def submit(self, author: str, source: str, challenge: str = "count", language: str = "python") -> str:
        """Submit a program; return the submission's id."""
        return await self.as_(author).execute(SubmitSolution(challenge, language, source))

    async def judged(self, author: str, submission_id: str) -> Submission:
        """Wait until a submission is judged, or has failed."""
        return await self.until(author, submission_id, lambda found: found.summary.state not in ("queued", "judging"))

    async def until(self, author: str, submission_id: str, condition: Callable[[Submission], bool]) -> Submission:
        """Wait for a condition of a submission."""
        with anyio.fail_after(self.patience_s):
            while not condition(found := await self.as_(author).ask(GetSubmission(submission_id))):
                await anyio.sleep(self.look_s)
            return found
        raise AssertionError


def modules_with(found: Executor) -> list[Module]:
    """Return the modules of the application under test."""
    return [submissions, challenges, found.module()]


def settings_of(folder: Path, **more: Any) -> Settings:
    """Return the runtime's settings of a test."""
    given = {"database": f"sqlite:///{folder / 'data'}", "partitions": 2, "commit_interval_s": 0.05, **more}
    return Settings(**given)


executor_apart = Executor().module()
"""Stands in for the executor in a process of its own, where no test can reach it."""


def overrides_apart() -> dict[type, object]:
    """Return what each process of its own is given."""
    return {SubmissionsSettings: evolve(SubmissionsSettings(), **QUICK)}


@asynccontextmanager
async def court(
    placement: Placement, settings: Settings, *, broker: str | None = None, **quick: Any
) -> AsyncGenerator[Court]:
    """Open the application with the challenge `count`."""
    found = Executor()
    modules = modules_with(found)
    overrides = {SubmissionsSettings: SubmissionsSettings(**{**QUICK, **quick})}
    if placement == "split":
        assert not quick
        modules = [submissions, challenges, executor_apart]
    given = overrides_apart if placement == "split" else overrides
    async with placed(placement, modules, broker=broker, settings=settings, overrides=given) as bus:
        with suppress(ChallengeExists):  # where it goes on with the files of an earlier one
            await bus.execute(count())
        yield Court(bus, found)
