"""The application with submissions, which kills itself again and again: `python -m tests.modules.submissions.program BACKEND FOLDER COUNT SEED`.

It forks a child per life, which submits COUNT programs (again: their ids are the same in each life) and waits until a scorer has been told that
all are judged. A child kills itself at a commit that is left to chance, before it or after it, or at some moment in between. The line that is
printed at the end says how often.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from threading import Lock, Timer
from typing import Any

import anyio
import msgspec
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select

from fissile import App, CallError, Contract, Module, Settings
from fissile.database import Database, Schema, _lease
from fissile.database._store import Store
from fissile.testing import fake, user
from modules.challenges import contract as challenges
from modules.submissions.contract import SubmissionJudged, SubmitSolution, verdicts
from modules.submissions.service import SubmissionsSettings
from modules.submissions.service import module as submissions

from .court import CASES, Executor, count, program

AUTHORS = ("ann", "bob", "eve")
WRONG: Mapping[int, tuple[str, str]] = {1: ("2", "wrong_answer"), 2: ("9", "time_limit"), 4: ("0", "runtime_error")}
"""Of five submissions in turn: with which case a program is not right, and what it comes to."""

MOST_COMMITS, MOST_S = 60, 1.5
"""A child does not live longer than this."""

tables = MetaData()
scores = Table(
    "scores",
    tables,
    Column("place", Integer, primary_key=True),
    Column("submission_id", String(64), nullable=False),
    Column("verdict", String(16), nullable=True),
)


def source_of(number: int) -> str:
    """The program that is submitted as the so-manieth."""
    case, outcome = WRONG.get(number % 5, ("", ""))
    said = {case: "no" if outcome == "wrong_answer" else outcome} if case else {}
    return program(said, number=number)


def verdict_of(number: int) -> str:
    """What it comes to."""
    return WRONG.get(number % 5, ("", "accepted"))[1]


def author_of(number: int) -> str:
    """Who submits it."""
    return AUTHORS[number % len(AUTHORS)]


def scorer() -> Module:
    """Count what it is told, once each."""
    module = Module(Contract("scorer", messages=[]), database=Schema(tables, migrations=None))

    @module.subscribe(verdicts)
    async def on_verdict(event: SubmissionJudged, database: Database) -> None:
        async with database.transaction() as tx:
            await tx.execute(insert(scores).values(submission_id=event.submission_id, verdict=event.verdict))

    @module.worker
    async def look(database: Database) -> None:
        while True:
            await anyio.sleep(0.02)
            TOLD[0] = (await database.read(select(func.count()).select_from(scores))).scalar_one()

    _ = on_verdict, look
    return module


TOLD = [0]
"""How many verdicts the scorer of this process has been told."""


def challenge() -> Module:
    """Stand in for the challenges."""
    made = count()
    shown = challenges.Challenge(
        "count", 1, made.title, 1, (), made.statement, made.examples, len(made.cases), (), 2.0, 128
    )
    every = (*made.examples, *made.cases)
    return fake(
        challenges.contract, {challenges.GetChallenge: shown, challenges.GetCase: lambda asked: every[asked.number]}
    ).module


async def live(folder: Path, many: int) -> None:
    """Submit, and wait until all is judged and told."""
    settings = Settings(
        bus=f"sqlite:///{folder / 'log.sqlite3'}",
        database=f"sqlite:///{folder / 'data'}",
        database_migrate=True,
        partitions=2,
        commit_interval_s=0.05,
        drain_s=5.0,
        saga_claim_s=0.3,
        sqlite_session_s=2.0,
    )
    quick = SubmissionsSettings(waiting=many, pause_s=0.05)
    app = App(
        [submissions, challenge(), Executor().module(), scorer()],
        settings=settings,
        overrides={SubmissionsSettings: quick},
        process="court",
    )
    async with app:
        for number in range(many):
            bus = app.bus.acting_as(user(author_of(number), "submissions:write"))
            submission_id = None
            while submission_id is None:
                try:
                    command = SubmitSolution("count", "python", source_of(number))
                    submission_id = await bus.execute(command, id=f"submission-{number}")
                except CallError:
                    await anyio.sleep(0.02)
        while TOLD[0] < many:
            await anyio.sleep(0.02)


def arm(random: Random) -> None:
    """Let the process kill itself: at a commit of any module, before it or after it, or at any moment."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if random.random() < 0.3:
        timer = Timer(random.uniform(0.1, MOST_S), die)
        timer.daemon = True
        timer.start()
        return
    left, lock, commit = [random.randint(1, MOST_COMMITS)], Lock(), Store._commit
    is_before = random.random() < 0.5

    def count_commit(self: Any, place: Any, connection: Any, **options: Any) -> None:
        with lock:
            left[0] -= not options.get("reads")
            is_the_one = left[0] == 0 and not options.get("reads")
        if is_the_one and is_before:
            die()
        commit(self, place, connection, **options)
        if is_the_one:
            die()

    Store._commit = count_commit  # type: ignore[method-assign]


def main(backend: str, folder: Path, many: int, seed: int) -> None:
    """Let children live until one has come to the end."""
    random, lives = Random(seed), 0
    while True:
        lives += 1
        given = random.random()
        pid = os.fork()
        if pid == 0:
            try:
                arm(Random(given))
                anyio.run(live, folder, many, backend=backend)
            except BaseException:  # noqa: BLE001 -- a child never gets back into the loop of its parent
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status == 0:
            break
        if status != -signal.SIGKILL:
            sys.exit(f"life {lives} ended with {status}")
    sys.stdout.buffer.write(msgspec.json.encode({"kills": lives - 1}))


if __name__ == "__main__":
    # After each kill nobody relays until the lease of the dead process has run out.
    setattr(_lease, "LEASE_S", 0.6)  # noqa: B010 -- it is a constant to the type checker
    setattr(_lease, "_RENEW_S", 0.3)  # noqa: B010
    assert CASES == 10
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
