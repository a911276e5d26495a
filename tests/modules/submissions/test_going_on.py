"""What comes between a submission and its verdict: a stop of the process, a saga that was lost, a person who gives one up, many at a time."""

from __future__ import annotations

import sqlite3
from collections import Counter
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from modules.submissions.contract import (
    GetSubmission,
    ListSubmissions,
    SubmissionJudged,
    TooManySubmissions,
    verdicts,
)
from tests.cli.example import fissile
from tests.database.conftest import database_url as database_url

from .court import CASES, court, program, settings_of

ROOT = Path(__file__).parents[3]

PYPROJECT = """
[tool.fissile]
name = "playground"
modules = ["modules.code_executor", "modules.challenges", "modules.submissions"]
"""


async def test_what_was_begun_goes_on_in_the_next_process_and_is_judged_once(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, bus=f"sqlite:///{tmp_path / 'log.sqlite3'}", drain_s=0.5)
    held, next_one = program({"7": "no"}, held=1), program(next=1)
    async with court("local", settings) as opened:
        opened.executor.holds.add(held)
        first = await opened.submit("ann", held)
        second = await opened.submit("ann", next_one)
        done = await opened.submit("bob", program())
        await opened.judged("bob", done)
        await opened.until("ann", first, lambda found: found.summary.state == "judging")
    told: list[SubmissionJudged] = []
    async with court("local", settings) as opened:
        judged = await opened.judged("ann", first)
        assert (judged.summary.verdict, judged.summary.passed) == ("wrong_answer", 7)
        assert (await opened.judged("ann", second)).summary.verdict == "accepted"
        ran = [source for source, _ in opened.executor.runs]
        assert ran == [held] * 8 + [next_one] * CASES  # and nothing of what was judged before
        async with opened.bus.tap(verdicts, after="0:0.1:0") as tap:
            with anyio.move_on_after(1.0):
                while True:
                    told.append((await anext(tap)).event)
    assert Counter(each.submission_id for each in told) == Counter([first, second, done])


async def test_an_earlier_submission_whose_saga_was_lost_is_given_up_after_a_while(tmp_path: Path) -> None:
    async with court("local", settings_of(tmp_path), overdue_s=0.2) as opened:
        lost = await opened.submit("ann", program())
        await opened.judged("ann", lost)
        with sqlite3.connect(tmp_path / "data" / "submissions.sqlite3", timeout=60) as file:
            file.execute("UPDATE submissions SET state = 'judging', verdict = NULL")
        file.close()
        judged = await opened.judged("ann", await opened.submit("ann", program({"0": "no"})))
        assert judged.summary.verdict == "wrong_answer"
        assert (await opened.judged("ann", lost)).summary.state == "failed"


async def test_an_earlier_submission_that_only_takes_long_is_waited_for(tmp_path: Path) -> None:
    async with court("local", settings_of(tmp_path), overdue_s=0.1) as opened:
        slow = program(slow=1)
        opened.executor.holds.add(slow)
        first, second = await opened.submit("ann", slow), await opened.submit("ann", program())
        await anyio.sleep(0.6)  # a few times overdue
        for each, state in ((first, "judging"), (second, "queued")):
            assert (await opened.as_("ann").ask(GetSubmission(each))).summary.state == state
        opened.executor.holds.clear()
        assert (await opened.judged("ann", second)).summary.verdict == "accepted"
        assert (await opened.judged("ann", first)).summary.verdict == "accepted"


async def test_a_submission_that_a_person_gives_up_has_failed_and_the_next_one_goes_on(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    settings = settings_of(tmp_path)
    async with court("local", settings, pause_s=60.0, patience_s=600.0) as opened:
        opened.executor.refusals = [RuntimeError("broken")] * 4
        first = await opened.submit("ann", program())
        second = await opened.submit("ann", program({"0": "no"}))
        await opened.until("ann", first, lambda found: found.summary.state == "judging")
        with anyio.fail_after(30):
            while opened.executor.refusals:
                await anyio.sleep(0.01)
        give_up = partial(
            fissile,
            *("sagas", "compensate", first),
            cwd=tmp_path,
            FISSILE_DATABASE=settings.database,
            PYTHONPATH=str(ROOT),
        )
        done = await anyio.to_thread.run_sync(give_up)
        assert done.returncode == 0, done.stderr
        assert (await opened.judged("ann", first)).summary.state == "failed"
        assert (await opened.judged("ann", second)).summary.verdict == "wrong_answer"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_comes_at_the_same_moment_gets_one_order_and_no_more_than_may_wait(
    tmp_path: Path, database_url: str, anyio_backend: str
) -> None:
    settings = settings_of(tmp_path, database=database_url)
    async with court("local", settings, waiting=5) as opened:
        held = program({"0": "\x00"}, held="\x00")  # a text that PostgreSQL's texts cannot hold
        opened.executor.holds.add(held)
        taken: list[str] = []
        refused: list[TooManySubmissions] = []

        async def submit(number: int) -> None:
            try:
                taken.append(await opened.submit("ann", held if number % 2 else program(number=number)))
            except TooManySubmissions as error:
                refused.append(error)

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(submit, number)
        assert (len(taken), refused) == (5, [TooManySubmissions(5)] * 3)
        opened.executor.holds.clear()
        for each in taken:
            await opened.judged("ann", each)
        page = await opened.as_("ann").ask(ListSubmissions())
        found = [await opened.as_("ann").ask(GetSubmission(each.id)) for each in page.submissions]
        times = [each.summary.judged_at or 0.0 for each in found]
        assert times == sorted(times, reverse=True)
        assert {each.summary.verdict for each in found if each.source == held} <= {"wrong_answer"}
        runs = list(dict.fromkeys(source for source, _ in opened.executor.runs))
        assert runs == list(dict.fromkeys(each.source for each in reversed(found)))
