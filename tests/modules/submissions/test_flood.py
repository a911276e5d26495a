"""People's runs and judging have lines of their own."""

from __future__ import annotations

from pathlib import Path

import anyio

from fissile.testing import Placement, placed, user
from modules.challenges.contract import Case, CreateChallenge
from modules.challenges.service import module as challenges
from modules.code_executor.contract import ExecutorBusy, RunCode
from modules.code_executor.service import module as code_executor
from modules.submissions.contract import GetSubmission, SubmitSolution
from modules.submissions.service import module as submissions
from tests.modules.code_executor.fake_sandbox import PEOPLE_AT_ONCE, WAITING, that_echoes

from .court import settings_of


async def test_with_as_many_runs_as_may_wait_a_submission_is_judged(placement: Placement, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    modules = [submissions, challenges, code_executor]
    async with placed(placement, modules, settings=settings_of(tmp_path), overrides=that_echoes()) as bus:
        await bus.execute(CreateChallenge("say", "Say it", 1, "Write `hello`.", (Case("", "hello"),) * 8))
        full = anyio.Event()

        async def wait(number: int) -> None:
            try:
                await bus.execute(RunCode("python", f"wait {runs / str(number)}"))
            except ExecutorBusy:
                full.set()

        async with anyio.create_task_group() as tasks:
            for number in range(PEOPLE_AT_ONCE + WAITING + 1):
                tasks.start_soon(wait, number)
            with anyio.fail_after(60):
                await full.wait()
            ann = bus.acting_as(user("ann", "submissions:write"))
            submitted = await ann.execute(SubmitSolution("say", "python", "hello"))  # it echoes its source
            with anyio.fail_after(60):
                while (found := await ann.ask(GetSubmission(submitted))).summary.state != "judged":
                    await anyio.sleep(0.02)
            assert (found.summary.verdict, found.summary.passed) == ("accepted", 8)
            tasks.cancel_scope.cancel()
