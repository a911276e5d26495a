"""The code executor as other modules see it, with a sandbox that runs nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import anyio
import pytest
from attrs import frozen

from fissile import App
from modules.code_executor.contract import (
    ExecutorBusy,
    GetRun,
    Language,
    ListLanguages,
    ListRuns,
    NoSandbox,
    RunCode,
    RunFailed,
    RunFinished,
    RunOutput,
    RunStarted,
    SourceTooLarge,
    StartRun,
    UnknownLanguage,
    UnknownRun,
    runs,
)
from modules.code_executor.sandbox import NoSandbox as NothingHolds
from modules.code_executor.sandbox import Outcome, Program, Result, Sandbox, SandboxBusy
from modules.code_executor.sandbox._base import OnOutput
from modules.code_executor.sandbox.languages import Language as SandboxLanguage
from modules.code_executor.service import ExecutorSettings, module


class FakeSandbox(Sandbox):
    """Echoes the source to stdout, in two pieces. A source `wait` waits until it is cancelled."""

    def __init__(self) -> None:
        super().__init__(at_once=8, waiting=8)
        self.holds = True
        self.is_busy = False
        self.started = anyio.Event()
        self.cancelled = anyio.Event()

    @property
    def level(self) -> str:
        return "fake"

    def languages(self) -> tuple[str, ...]:
        return ("bash", "python")

    async def probe(self) -> str:
        if not self.holds:
            raise NothingHolds("nothing holds; install bubblewrap")
        return self.level

    async def run(self, program: Program, *, on_output: OnOutput | None = None) -> Result:
        if self.is_busy:
            raise SandboxBusy(7)
        self.started.set()
        if program.source == "wait":
            try:
                await anyio.sleep_forever()
            finally:
                self.cancelled.set()
        half = len(program.source) // 2
        for piece in (program.source[:half], program.source[half:]):
            if on_output is not None and piece:
                on_output("stdout", piece)
        return Result(Outcome.FINISHED, 0, None, program.source, program.stdin, False, False, 1.5, self.level)

    async def _run(self, language: SandboxLanguage, program: Program, on_output: OnOutput | None) -> Result:
        raise NotImplementedError

    async def _close(self) -> None:
        pass


@frozen
class Executor:
    """A running executor and the sandbox in it."""

    app: App
    sandbox: FakeSandbox


@pytest.fixture
async def executor(anyio_backend: Any) -> AsyncGenerator[Executor]:
    sandbox = FakeSandbox()
    overrides = {Sandbox: sandbox, ExecutorSettings: ExecutorSettings(source_bytes=100, runs_kept=5)}
    async with App([module], overrides=overrides) as app:
        yield Executor(app, sandbox)


async def test_a_run_is_reported(executor: Executor) -> None:
    report = await executor.app.bus.execute(RunCode("python", "print(1)", "input"))
    assert (report.outcome, report.exit_code, report.stdout, report.stderr) == ("finished", 0, "print(1)", "input")
    assert (report.language, report.sandbox) == ("python", "fake")


async def test_a_run_can_be_looked_up_afterwards(executor: Executor) -> None:
    report = await executor.app.bus.execute(RunCode("python", "print(1)"))
    run = await executor.app.bus.ask(GetRun(report.run_id))
    assert run.report == report
    assert (run.summary.state, run.summary.outcome) == ("done", "finished")


async def test_an_unknown_language_is_refused_with_those_there_are(executor: Executor) -> None:
    with pytest.raises(UnknownLanguage) as refused:
        await executor.app.bus.execute(RunCode("cobol", ""))
    assert refused.value == UnknownLanguage("cobol", ("bash", "python"))


@pytest.mark.parametrize("field", ["source", "stdin"])
async def test_a_source_or_input_over_the_limit_is_refused_with_its_name(executor: Executor, field: str) -> None:
    with pytest.raises(SourceTooLarge) as refused:
        await executor.app.bus.execute(RunCode(**{"language": "python", "source": "", field: "é" * 51}))
    assert refused.value == SourceTooLarge(field, 102, 100)


async def test_where_no_sandbox_holds_nothing_is_run_and_the_cure_is_told(executor: Executor) -> None:
    executor.sandbox.holds = False
    for message in (RunCode("python", ""), StartRun("python", "")):
        with pytest.raises(NoSandbox, match="install bubblewrap"):
            await executor.app.bus.execute(message)
    with pytest.raises(NoSandbox):
        await executor.app.bus.ask(ListLanguages())
    assert not executor.sandbox.started.is_set()


async def test_a_full_queue_is_told(executor: Executor) -> None:
    executor.sandbox.is_busy = True
    with pytest.raises(ExecutorBusy) as refused:
        await executor.app.bus.execute(RunCode("python", ""))
    assert refused.value.waiting == 7


async def test_the_languages_are_listed_with_their_sandbox(executor: Executor) -> None:
    listed = await executor.app.bus.ask(ListLanguages())
    assert listed == (Language("bash", "fake"), Language("python", "fake"))


async def test_a_started_run_tells_its_progress_as_events(executor: Executor) -> None:
    async with executor.app.bus.tap(runs) as tap:
        accepted = await executor.app.bus.execute(StartRun("python", "hello!"))
        told: list[Any] = []
        with anyio.fail_after(10):
            async for tapped in tap:
                assert tapped.key == accepted.run_id
                told.append(tapped.event)
                if isinstance(tapped.event, RunFinished):
                    break
    assert told[:-1] == [
        RunStarted(accepted.run_id, "python"),
        RunOutput(accepted.run_id, "stdout", "hel"),
        RunOutput(accepted.run_id, "stdout", "lo!"),
    ]
    assert told[-1].report.stdout == "hello!"


async def test_a_started_run_that_cannot_be_made_says_so(executor: Executor) -> None:
    executor.sandbox.is_busy = True
    async with executor.app.bus.tap(runs) as tap:
        accepted = await executor.app.bus.execute(StartRun("python", "x"))
        with anyio.fail_after(10):
            async for tapped in tap:
                if isinstance(tapped.event, RunFailed):
                    break
    run = await executor.app.bus.ask(GetRun(accepted.run_id))
    assert run.summary.state == "failed"


async def test_a_caller_that_gives_up_stops_the_program(executor: Executor) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(executor.app.bus.execute, RunCode("python", "wait"))
        with anyio.fail_after(10):
            await executor.sandbox.started.wait()
        tasks.cancel_scope.cancel()
    assert executor.sandbox.cancelled.is_set()


async def test_runs_are_listed_the_newest_first_in_pages(executor: Executor) -> None:
    ids = [(await executor.app.bus.execute(RunCode("python", str(number)))).run_id for number in range(5)]
    first = await executor.app.bus.ask(ListRuns(limit=2))
    assert [run.run_id for run in first.runs] == [ids[4], ids[3]]
    second = await executor.app.bus.ask(ListRuns(limit=2, before=first.next))
    assert [run.run_id for run in second.runs] == [ids[2], ids[1]]
    third = await executor.app.bus.ask(ListRuns(limit=2, before=second.next))
    assert [run.run_id for run in third.runs] == [ids[0]]
    assert third.next is None


async def test_the_oldest_runs_make_room_for_new_ones(executor: Executor) -> None:
    ids = [(await executor.app.bus.execute(RunCode("python", str(number)))).run_id for number in range(6)]
    with pytest.raises(UnknownRun):
        await executor.app.bus.ask(GetRun(ids[0]))
    assert (await executor.app.bus.ask(GetRun(ids[1]))).report is not None


async def test_the_id_of_a_run_does_not_tell_the_id_of_another(executor: Executor) -> None:
    ids = [(await executor.app.bus.execute(RunCode("python", ""))).run_id for _ in range(2)]
    common = sum(one == other for one, other in zip(*ids, strict=True))
    assert common < len(ids[0]) // 2


async def test_a_repeated_start_is_the_same_run(executor: Executor) -> None:
    first = await executor.app.bus.execute(StartRun("python", "x"), id="the-same")
    second = await executor.app.bus.execute(StartRun("python", "x"), id="the-same")
    assert first == second
