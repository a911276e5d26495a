"""Whose program is run next, where nothing but the line is at work."""

from __future__ import annotations

import anyio
import pytest

from fissile.testing import ManualClock
from modules.code_executor.contract import ExecutorBusy
from modules.code_executor.places import NOBODY, Places


def places(*, at_once: int = 1, waiting: int = 12, each: int = 4, clock: ManualClock | None = None) -> Places:
    return Places(at_once, at_once, waiting, each, clock or ManualClock())


async def test_callers_take_turns_whatever_one_of_them_has_asked_for_before() -> None:
    shared, order = places(), list[str]()
    first = anyio.Event()

    async def run(who: str, hold: anyio.Event | None = None) -> None:
        async with shared.one(shared.people, who):
            order.append(who)
            if hold is not None:
                await hold.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, "holds", first)
        await anyio.wait_all_tasks_blocked()
        for who in ("a", "a", "a", "a", NOBODY, NOBODY, "b"):
            tasks.start_soon(run, who)
            await anyio.wait_all_tasks_blocked()
        first.set()
    assert order == ["holds", "a", NOBODY, "b", "a", NOBODY, "a", "a"]


async def test_who_leaves_the_line_leaves_no_gap_in_it() -> None:
    shared, hold, ran = places(each=1), anyio.Event(), list[str]()

    async def run(who: str) -> None:
        async with shared.one(shared.people, who):
            ran.append(who)
            await hold.wait()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, "holds")
        await anyio.wait_all_tasks_blocked()
        for _ in range(3):  # each time in the place that the one before has left
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as leaving:
                    leaving.start_soon(run, "a")
                    await anyio.wait_all_tasks_blocked()
                    with pytest.raises(ExecutorBusy):
                        await run("a")
                    scope.cancel()
        tasks.start_soon(run, "a")
        await anyio.wait_all_tasks_blocked()
        hold.set()
    assert ran == ["holds", "a"]


async def test_what_was_accepted_holds_its_place_until_it_has_begun_or_for_so_long() -> None:
    clock = ManualClock()
    shared = places(waiting=1, each=1, clock=clock)
    shared.accept(shared.people, "a", "run 1")
    shared.accept(shared.people, "a", "run 1")  # a repeat
    shared.accept(shared.people, "a", "run 2")
    for who in ("a", "b", NOBODY):
        with pytest.raises(ExecutorBusy):
            shared.accept(shared.people, who, "run 3")
    shared.people.begun("run 2")  # elsewhere
    shared.accept(shared.people, "b", "run 3")
    async with shared.one(shared.people, "a", accepted="run 1"):
        with pytest.raises(ExecutorBusy):
            shared.accept(shared.people, NOBODY, "run 4")
    shared.accept(shared.people, NOBODY, "run 4")
    clock.advance(60.0)
    shared.accept(shared.people, NOBODY, "run 5")


async def test_cases_for_judging_fill_their_line_alone() -> None:
    shared = places(waiting=0, each=1)
    async with shared.one(shared.judging):
        with pytest.raises(ExecutorBusy):
            async with shared.one(shared.judging):
                pass
        with pytest.raises(ExecutorBusy):
            async with shared.one(shared.people, "a"):
                pass
    async with shared.one(shared.people, "a"):
        pass
