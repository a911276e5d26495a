"""A run that was started is told about while it runs, in a real sandbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from fissile import App
from modules.code_executor.contract import GetRun, RunFinished, RunOutput, RunStarted, StartRun, runs
from modules.code_executor.sandbox import Sandbox
from modules.code_executor.service import ExecutorSettings, module

from .conftest import KINDS

SOURCE = "import time\nprint('first', flush=True)\ntime.sleep(3)\nprint('last')"


@pytest.fixture(params=[pytest.param(("trio", {}), id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The events are the same on each event loop, and a program that is watched takes its time."""
    return request.param


@pytest.mark.parametrize("kind", KINDS)
async def test_the_events_of_a_started_run_come_while_it_runs(
    kind: str, open_sandbox: Callable[..., Awaitable[Sandbox]]
) -> None:
    sandbox = await open_sandbox(kind)
    overrides: dict[type, Any] = {Sandbox: sandbox, ExecutorSettings: ExecutorSettings(wall_s=30.0)}
    told: list[Any] = []
    async with App([module], overrides=overrides, is_dev=True) as app, app.bus.tap(runs) as tap:
        await sandbox.probe()
        accepted = await app.bus.execute(StartRun("python", SOURCE))
        with anyio.fail_after(60):
            async for tapped in tap:
                told.append(tapped.event)
                if tapped.event == RunOutput(accepted.run_id, "stdout", "first\n"):
                    run = await app.bus.ask(GetRun(accepted.run_id))
                    assert (run.summary.state, run.report) == ("running", None)
                if isinstance(tapped.event, RunFinished):
                    break
    assert told[:-1] == [
        RunStarted(accepted.run_id, "python"),
        RunOutput(accepted.run_id, "stdout", "first\n"),
        RunOutput(accepted.run_id, "stdout", "last\n"),
    ]
    assert (told[-1].report.outcome, told[-1].report.stdout) == ("finished", "first\nlast\n")
