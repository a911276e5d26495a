"""The code executor as other modules see it, in every placement, with a sandbox that runs nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from fissile import Bus, InvalidMessage
from modules.code_executor.contract import (
    ExecutorBusy,
    GetLimits,
    GetRun,
    Language,
    LimitsNotKept,
    ListLanguages,
    ListRuns,
    NoSandbox,
    RunCase,
    RunCode,
    RunFailed,
    RunFinished,
    RunOutput,
    RunQueued,
    RunStarted,
    SourceTooLarge,
    StartRun,
    UnknownLanguage,
    UnknownRun,
    runs,
)
from modules.code_executor.service import ExecutorSettings
from tests.modules.code_executor.conftest import until
from tests.modules.code_executor.fake_sandbox import LIMIT_BYTES, PEOPLE_AT_ONCE, WAITING

DRIPS = 300


async def test_a_run_is_reported(bus: Bus) -> None:
    report = await bus.execute(RunCode("python", "print(1)", "input"))
    assert (report.outcome, report.exit_code, report.stdout, report.stderr) == ("finished", 0, "print(1)", "input")
    assert (report.language, report.sandbox) == ("python", "fake")


async def test_a_run_can_be_looked_up_afterwards(bus: Bus) -> None:
    report = await bus.execute(RunCode("python", "print(1)"))
    run = await bus.ask(GetRun(report.run_id))
    assert run.report == report
    assert (run.summary.state, run.summary.outcome) == ("done", "finished")


async def test_an_unknown_language_is_refused_with_those_there_are(bus: Bus) -> None:
    with pytest.raises(UnknownLanguage) as refused:
        await bus.execute(RunCode("cobol", ""))
    assert refused.value == UnknownLanguage("cobol", ("bash", "python"))


@pytest.mark.parametrize("field", ["source", "stdin"])
async def test_a_source_or_input_over_the_limit_is_refused_with_its_name(bus: Bus, field: str) -> None:
    long = "é" * (LIMIT_BYTES // 2 + 1)
    with pytest.raises(SourceTooLarge) as refused:
        await bus.execute(RunCode("python", long) if field == "source" else RunCode("python", "", long))
    assert refused.value == SourceTooLarge(field, LIMIT_BYTES + 2, LIMIT_BYTES)


async def test_where_no_sandbox_holds_nothing_is_run_and_the_cure_is_told(unsafe: Bus, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for message in (RunCode("python", f"touch {ran}"), StartRun("python", f"touch {ran}")):
        with pytest.raises(NoSandbox, match="install bubblewrap"):
            await unsafe.execute(message)
    with pytest.raises(NoSandbox):
        await unsafe.ask(ListLanguages())
    assert not ran.exists()


async def test_a_full_queue_is_told(busy: Bus) -> None:
    with pytest.raises(ExecutorBusy) as refused:
        await busy.execute(RunCode("python", ""))
    assert refused.value.waiting == 7


async def test_the_languages_are_listed_with_their_sandbox(bus: Bus) -> None:
    listed = await bus.ask(ListLanguages())
    assert listed == (Language("bash", "fake"), Language("python", "fake"))


async def test_a_started_run_tells_its_progress_as_events(bus: Bus) -> None:
    async with bus.tap(runs) as tap:
        accepted = await bus.execute(StartRun("python", "hello!"))
        told: list[Any] = []
        with anyio.fail_after(10):
            async for tapped in tap:
                assert tapped.key == accepted.run_id
                told.append(tapped.event)
                if isinstance(tapped.event, RunFinished):
                    break
    begun = [event for event in told[:-1] if not isinstance(event, RunQueued)]  # of which a repeat comes at any time
    assert list(dict.fromkeys(begun)) == [  # a command that comes again tells it again
        RunStarted(accepted.run_id, "python"),
        RunOutput(accepted.run_id, "stdout", "hel"),
        RunOutput(accepted.run_id, "stdout", "lo!"),
    ]
    assert told[-1].report.stdout == "hello!"


async def test_a_run_for_a_judge_is_neither_kept_nor_told(bus: Bus) -> None:
    async with bus.tap(runs) as tap:
        judged = await bus.execute(RunCase("python", "hidden", "case", 1.0, 64))
        assert (judged.outcome, judged.stdout, judged.stderr) == ("finished", "hidden", "case")
        own = await bus.execute(RunCode("python", "own"))
        with anyio.fail_after(10):
            tapped = await anext(aiter(tap))
        assert tapped.event == RunFinished(own.run_id, own)
    assert [run.run_id for run in (await bus.ask(ListRuns())).runs] == [own.run_id]
    with pytest.raises(UnknownRun):
        await bus.ask(GetRun(judged.run_id))


async def test_a_program_that_writes_a_byte_at_a_time_is_not_told_a_byte_at_a_time(bus: Bus) -> None:
    written = {"stdout": "", "stderr": ""}
    count = 0
    async with bus.tap(runs) as tap:
        accepted = await bus.execute(StartRun("python", f"drip {DRIPS}"))
        with anyio.fail_after(10):
            async for tapped in tap:
                event = tapped.event
                assert event.run_id == accepted.run_id
                if isinstance(event, RunOutput):
                    written[event.stream] += event.text
                    count += 1
                if isinstance(event, RunFinished):
                    break
    times, rest = divmod(len(written["stdout"]), DRIPS)  # a command that comes again tells it again
    assert times >= 1
    assert rest == 0
    assert written == {"stdout": "o" * DRIPS * times, "stderr": "e" * DRIPS * times}
    assert count <= times * 20


async def test_a_report_of_the_largest_output_in_its_longest_form_reaches_the_caller(bus: Bus) -> None:
    """A NUL is six bytes of a message: this is what a program could do to be neither answered nor recorded."""
    output_bytes = ExecutorSettings().output_bytes
    report = await bus.execute(RunCode("python", f"nul {output_bytes}"))
    assert report.stdout == report.stderr == "\0" * output_bytes
    assert (await bus.ask(GetRun(report.run_id))).report == report


async def test_a_run_has_the_limits_of_the_executor_and_less_where_less_is_asked_for(bus: Bus) -> None:
    usual = ExecutorSettings().limits()
    for command, limits in (
        (RunCode("python", "limits"), usual),
        (RunCode("python", "limits", time_s=0.5), replace(usual, cpu_s=0.5, wall_s=1.75)),
        (RunCode("python", "limits", memory_mib=32), replace(usual, memory_bytes=32 << 20)),
        (RunCode("python", "limits", time_s=1e6, memory_mib=1 << 30), replace(usual, wall_s=8.5)),
        (RunCode("python", "limits", memory_mib=usual.memory_bytes >> 20), usual),
    ):
        assert (await bus.execute(command)).stdout == repr(limits)


async def test_a_case_is_run_with_the_limits_that_are_asked_for_or_not_at_all(bus: Bus) -> None:
    usual = ExecutorSettings().limits()
    most = await bus.ask(GetLimits())
    assert (most.time_s, most.memory_mib) == (usual.cpu_s, usual.memory_bytes >> 20)
    assert (most.input_bytes, most.output_bytes) == (LIMIT_BYTES, usual.output_bytes)
    kept = await bus.execute(RunCase("python", "limits", "", 2.0, 32))
    assert kept.stdout == repr(replace(usual, cpu_s=2.0, wall_s=4.0, memory_bytes=32 << 20))
    for time_s, memory_mib in ((most.time_s + 0.5, 32), (2.0, most.memory_mib + 1)):
        with pytest.raises(LimitsNotKept) as refused:
            await bus.execute(RunCase("python", "limits", "", time_s, memory_mib))
        assert refused.value == LimitsNotKept(most.time_s, most.memory_mib)


@pytest.mark.parametrize("asked", [{"time_s": 0.0}, {"time_s": -1.0}, {"memory_mib": 15}, {"memory_mib": -1}])
async def test_a_limit_that_no_program_could_keep_is_refused(bus: Bus, asked: dict[str, Any], tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with pytest.raises(InvalidMessage):
        await bus.execute(RunCode("python", f"touch {ran}", **asked))
    assert not ran.exists()


async def test_a_started_run_that_cannot_be_made_says_so(busy: Bus) -> None:
    async with busy.tap(runs) as tap:
        accepted = await busy.execute(StartRun("python", "x"))
        with anyio.fail_after(10):
            async for tapped in tap:
                if isinstance(tapped.event, RunFailed):
                    break
    run = await busy.ask(GetRun(accepted.run_id))
    assert run.summary.state == "failed"


async def test_a_caller_that_gives_up_stops_the_program(bus: Bus, tmp_path: Path) -> None:
    runs_now = tmp_path / "runs"
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bus.execute, RunCode("python", f"wait {runs_now}"))
        await until(runs_now.exists, "the program runs")
        tasks.cancel_scope.cancel()
    await until(lambda: not runs_now.exists(), "it was stopped")


async def test_however_many_runs_wait_a_case_is_judged(bus: Bus, tmp_path: Path) -> None:
    full = anyio.Event()

    async def wait(number: int) -> None:
        try:
            await bus.execute(RunCode("python", f"wait {tmp_path / str(number)}"))
        except ExecutorBusy as error:
            if error == ExecutorBusy(WAITING):
                full.set()

    async with anyio.create_task_group() as tasks:
        for number in range(PEOPLE_AT_ONCE + WAITING + 1):
            tasks.start_soon(wait, number)
        with anyio.fail_after(60):
            await full.wait()
        await until(lambda: len(os.listdir(tmp_path)) == PEOPLE_AT_ONCE, "as many run as may")  # noqa: PTH208 -- of three
        with anyio.fail_after(60):
            assert (await bus.execute(RunCase("python", "judged", "", 1.0, 64))).stdout == "judged"
        tasks.cancel_scope.cancel()
    with anyio.fail_after(
        60
    ):  # those who have given up, running or waiting, hold no place, once the executor has learnt of it
        while True:
            try:
                assert (await bus.execute(RunCode("python", "at last"))).stdout == "at last"
            except ExecutorBusy:
                await anyio.sleep(0.01)
            else:
                break


async def test_runs_are_listed_the_newest_first_in_pages(bus: Bus) -> None:
    ids = [(await bus.execute(RunCode("python", str(number)))).run_id for number in range(5)]
    first = await bus.ask(ListRuns(limit=2))
    assert [run.run_id for run in first.runs] == [ids[4], ids[3]]
    second = await bus.ask(ListRuns(limit=2, before=first.next))
    assert [run.run_id for run in second.runs] == [ids[2], ids[1]]
    third = await bus.ask(ListRuns(limit=2, before=second.next))
    assert [run.run_id for run in third.runs] == [ids[0]]
    assert third.next is None
    for wrong in (ListRuns(limit=-5), ListRuns(limit=0), ListRuns(limit=101), ListRuns(before="x" * 65)):
        with pytest.raises(InvalidMessage):
            await bus.ask(wrong)


async def test_the_oldest_runs_make_room_for_new_ones(bus: Bus) -> None:
    ids = [(await bus.execute(RunCode("python", str(number)))).run_id for number in range(6)]
    with pytest.raises(UnknownRun):
        await bus.ask(GetRun(ids[0]))
    assert (await bus.ask(GetRun(ids[1]))).report is not None


async def test_the_id_of_a_run_does_not_tell_the_id_of_another(bus: Bus) -> None:
    ids = [(await bus.execute(RunCode("python", ""))).run_id for _ in range(2)]
    common = sum(one == other for one, other in zip(*ids, strict=True))
    assert common < len(ids[0]) // 2


async def test_a_repeated_start_is_the_same_run(bus: Bus) -> None:
    first = await bus.execute(StartRun("python", "x"), id="the-same")
    second = await bus.execute(StartRun("python", "x"), id="the-same")
    assert first == second
