"""Runs that were started and are not waited for: whose turn it is, how they are stopped, and what is told where they cannot be made."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest

from fissile import Bus
from fissile.testing import Placement, user
from modules.code_executor.contract import (
    CancelRun,
    ExecutorBusy,
    GetRun,
    PerformRun,
    Run,
    RunCode,
    RunFailed,
    RunFailure,
    RunFinished,
    RunQueued,
    RunReport,
    RunStopping,
    StartRun,
    UnknownRun,
    runs,
)

from .conftest import executor, until
from .fake_sandbox import EACH, PEOPLE_AT_ONCE, WAITING, that_echoes, that_lets_each_wait


@pytest.fixture
async def fair(placement: Placement, broker: str | None, anyio_backend: Any) -> AsyncGenerator[Bus]:
    """An executor in whose line one caller may have a part only."""
    async with executor(placement, broker, anyio_backend, that_lets_each_wait) as opened:
        yield opened


def present(folder: Path) -> set[str]:
    return set(os.listdir(folder))  # noqa: PTH208 -- a few


async def state_of(bus: Bus, run_id: str, *states: str) -> Run:
    """Wait until a run is in one of these states."""
    with anyio.fail_after(60):
        while (run := await bus.ask(GetRun(run_id))).summary.state not in states:
            await anyio.sleep(0.01)
    return run


async def start(bus: Bus, source: str) -> str:
    return (await bus.execute(StartRun("python", source))).run_id


async def start_all_that_may_wait(bus: Bus, folder: Path) -> list[str]:
    held: list[str] = []
    try:
        for number in range(PEOPLE_AT_ONCE + WAITING):
            held.append(await start(bus, f"wait {folder / str(number)}"))
    except ExecutorBusy:
        return held
    raise AssertionError("all of the line was one caller's")


# --- stopped ---------------------------------------------------------------------------------------------------------


async def test_a_run_that_is_stopped_ends_as_cancelled_with_what_it_has_written(bus: Bus, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    async with bus.tap(runs) as tap:
        run_id = await start(bus, f"wait {ran}")
        await until(ran.exists, "the program runs")
        await bus.execute(CancelRun(run_id))
        with anyio.fail_after(60):
            while not isinstance(event := (await anext(tap)).event, RunFinished):
                pass
    assert (event.report.outcome, event.report.stdout, event.report.exit_code) == ("cancelled", "waits\n", None)
    assert (await state_of(bus, run_id, "done")).report == event.report
    assert not ran.exists()


async def test_a_run_that_is_stopped_frees_its_place_and_one_that_waits_never_begins(bus: Bus, tmp_path: Path) -> None:
    run_ids = [await start(bus, f"wait {tmp_path / str(number)}") for number in range(PEOPLE_AT_ONCE + 1)]
    await until(lambda: len(present(tmp_path)) == PEOPLE_AT_ONCE, "as many run as may")
    (last,) = {str(number) for number in range(PEOPLE_AT_ONCE + 1)} - present(tmp_path)
    await bus.execute(CancelRun(run_ids[int(last)]))
    waited = await state_of(bus, run_ids[int(last)], "done")
    assert waited.report is not None
    assert (waited.report.outcome, waited.report.stdout, waited.report.duration_ms) == ("cancelled", "", 0.0)
    assert last not in present(tmp_path)
    for run_id in run_ids:
        await bus.execute(CancelRun(run_id))
    with anyio.fail_after(60):
        assert (await bus.execute(RunCode("python", "next"))).stdout == "next"
    assert present(tmp_path) == set()


async def test_stopping_what_has_ended_changes_nothing_and_what_is_not_there_is_told(bus: Bus) -> None:
    run_id = await start(bus, "over")
    ended = await state_of(bus, run_id, "done")
    await bus.execute(CancelRun(run_id))
    assert await bus.ask(GetRun(run_id)) == ended
    with pytest.raises(UnknownRun):
        await bus.execute(CancelRun("nobody-has-this"))


# --- refused ---------------------------------------------------------------------------------------------------------


async def test_where_the_line_is_full_a_start_is_refused_at_once_and_nothing_fails_later(
    bus: Bus, tmp_path: Path
) -> None:
    async with bus.tap(runs) as tap:
        run_ids = [await start(bus, f"wait {tmp_path / str(number)}") for number in range(PEOPLE_AT_ONCE + WAITING)]
        for message in (StartRun("python", "more"), RunCode("python", "more")):
            with pytest.raises(ExecutorBusy):
                await bus.execute(message)
        for run_id in run_ids:
            await bus.execute(CancelRun(run_id))
        ended: set[str] = set()
        with anyio.fail_after(60):
            while ended != set(run_ids):
                event = (await anext(tap)).event
                assert not isinstance(event, RunFailed)
                if isinstance(event, RunFinished):
                    ended.add(event.run_id)
    assert (await state_of(bus, await start(bus, "at last"), "done")).report is not None


async def test_a_run_that_cannot_be_made_is_told_in_a_sentence_with_its_kind(busy: Bus) -> None:
    told = RunFailure("busy", "Too many programs wait for their turn. Try again in a while.")
    async with busy.tap(runs) as tap:
        run_id = await start(busy, "x")
        with anyio.fail_after(60):
            while not isinstance(event := (await anext(tap)).event, RunFailed):
                pass
    assert event == RunFailed(run_id, told.kind, told.reason)
    run = await state_of(busy, run_id, "failed")
    assert (run.failure, run.report) == (told, None)


async def test_a_fault_of_the_sandbox_is_told_in_a_sentence_too(bus: Bus) -> None:
    run = await state_of(bus, await start(bus, "fault"), "failed")
    assert run.failure == RunFailure("error", "Something went wrong on our side. Try again.")


# --- whose turn it is ------------------------------------------------------------------------------------------------


async def stop_until_done(bus: Bus, held: list[str], run_id: str) -> None:
    """Stop what runs of the held ones until another run has had its place; in which order they came to the line is chance."""
    with anyio.fail_after(60):
        while (await bus.ask(GetRun(run_id))).summary.state != "done":
            for each in held:
                if (await bus.ask(GetRun(each))).summary.state == "running":
                    await bus.execute(CancelRun(each))
                    break
            await anyio.sleep(0.01)
    for each in held:
        await bus.execute(CancelRun(each))


async def test_one_caller_fills_a_part_of_the_line_and_others_are_run_beside(fair: Bus, tmp_path: Path) -> None:
    greedy, other = fair.acting_as(user("greedy")), fair.acting_as(user("other"))
    held = await start_all_that_may_wait(greedy, tmp_path)
    assert len(held) == PEOPLE_AT_ONCE + EACH
    await stop_until_done(fair, held, await start(other, "mine"))


async def test_those_who_do_not_say_who_they_are_leave_room_for_those_who_do(fair: Bus, tmp_path: Path) -> None:
    held = await start_all_that_may_wait(fair, tmp_path)
    assert len(held) == PEOPLE_AT_ONCE + WAITING - EACH
    await stop_until_done(fair, held, await start(fair.acting_as(user("somebody")), "mine"))


# --- replicas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["split"])
async def test_replicas_know_of_each_others_runs_and_stop_them(
    placement: Placement, broker: str | None, anyio_backend: Any, tmp_path: Path
) -> None:
    async with executor(placement, broker, anyio_backend, that_echoes, replicas=2) as bus:
        for number in range(8):  # whichever of the two it is, and whichever is asked
            report = await bus.execute(RunCode("python", str(number)))
            for _ in range(4):
                assert (await bus.ask(GetRun(report.run_id))).report == report
        for number in range(8):
            ran = tmp_path / str(number)
            run_id = await start(bus, f"wait {ran}")
            for _ in range(4):
                await bus.ask(GetRun(run_id))
            await bus.execute(CancelRun(run_id))
            for _ in range(4):
                run = await state_of(bus, run_id, "done")
                assert run.report is not None
                assert run.report.outcome == "cancelled"
            assert not ran.exists()
        for _ in range(4):
            with pytest.raises(UnknownRun):
                await bus.ask(GetRun("nobody-has-this"))
        first = await bus.execute(StartRun("python", "x"), id="the-same")
        for _ in range(4):  # both know of it then
            await bus.ask(GetRun(first.run_id))
        for _ in range(4):
            assert await bus.execute(StartRun("python", "x"), id="the-same") == first


async def test_what_another_replica_has_told_is_known_from_the_moment_it_is_in_the_log(bus: Bus) -> None:
    for number in range(20):
        report = RunReport(f"elsewhere-{number}", "finished", 0, "out", "", 1.0, None, False, "python", "fake")
        await bus.publish(RunFinished(report.run_id, report))
        assert (await bus.ask(GetRun(report.run_id))).report == report


async def test_a_run_that_was_stopped_before_it_came_to_a_replica_does_not_begin_there(
    bus: Bus, tmp_path: Path
) -> None:
    await bus.publish(RunQueued("elsewhere", "python", "asked"))
    await bus.publish(RunStopping("elsewhere"))
    assert (await bus.ask(GetRun("elsewhere"))).summary.state == "queued"
    await bus.send(PerformRun("elsewhere", "python", f"wait {tmp_path / 'ran'}", ""))
    run = await state_of(bus, "elsewhere", "done")
    assert (run.summary.outcome, present(tmp_path)) == ("cancelled", set())
