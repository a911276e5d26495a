"""A run that was started is told about while it runs, in a real sandbox."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from fissile import App
from modules.code_executor.contract import (
    CancelRun,
    GetRun,
    RunCode,
    RunFinished,
    RunOutput,
    RunQueued,
    RunStarted,
    StartRun,
    runs,
)
from modules.code_executor.sandbox import Sandbox
from modules.code_executor.service import ExecutorSettings, module

from .conftest import KINDS, Host, until

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
    assert isinstance(told[0], RunQueued)
    assert told[1:-1] == [
        RunStarted(accepted.run_id, "python"),
        RunOutput(accepted.run_id, "stdout", "first\n"),
        RunOutput(accepted.run_id, "stdout", "last\n"),
    ]
    assert (told[-1].report.outcome, told[-1].report.stdout) == ("finished", "first\nlast\n")


@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_that_is_stopped_is_gone_with_all_its_processes(
    kind: str, open_sandbox: Callable[..., Awaitable[Sandbox]], host: Host
) -> None:
    sandbox = await open_sandbox(kind, at_once=1)
    settings = ExecutorSettings(wall_s=7200.0, cpu_s=7200.0, at_once=1)
    overrides: dict[type, Any] = {Sandbox: sandbox, ExecutorSettings: settings}
    source = host.program("import os, time\nos.fork()\nprint('on', flush=True)\ntime.sleep(7200)")
    async with App([module], overrides=overrides, is_dev=True) as app, app.bus.tap(runs) as tap:
        await sandbox.probe()
        accepted = await app.bus.execute(StartRun("python", source))
        with anyio.fail_after(60):
            written, event = "", (await anext(tap)).event
            while written != "on\non\n":
                event = (await anext(tap)).event
                written += event.text if isinstance(event, RunOutput) else ""
            assert len(host.survivors()) == 2
            await app.bus.execute(CancelRun(accepted.run_id))
            while not isinstance(event, RunFinished):
                event = (await anext(tap)).event
        assert (event.report.outcome, event.report.stdout) == ("cancelled", "on\non\n")
        await until(lambda: not host.survivors(), "no process of it is left")
        assert (await app.bus.execute(RunCode("python", "print('next')"))).stdout == "next\n"  # its place is free
    await host.check_unharmed()
