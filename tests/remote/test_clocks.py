"""Machines whose clocks differ: what a request has spent in the log is taken off what its caller waits, and nothing else is."""

from __future__ import annotations

from datetime import datetime, timedelta

import anyio
import pytest

from fissile import Settings
from fissile._clock import Environment, SystemClock
from fissile._delivery.ages import FRESH_S, Ages
from tests.remote.site import Deadline, Desk, Site, Work, until, worker_module

DEADLINE_S = 10.0


class Shifted(SystemClock):
    """The clock of a machine that goes wrong by so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self.seconds)


@pytest.mark.parametrize("seconds", [-3600.0, 60.0, 3600.0])
async def test_a_call_is_answered_however_the_clock_of_the_callee_goes(seconds: float) -> None:
    site, desk = Site(), Desk()
    callee = site.process(worker_module(desk), environment=Environment(clock=Shifted(seconds)))
    async with callee as host, site.process() as caller:
        for number in range(20):
            with anyio.fail_after(DEADLINE_S):
                assert await caller.bus.execute(Work(str(number))) == f"did {number}"
        with anyio.fail_after(DEADLINE_S):
            assert 0 < await caller.bus.ask(Deadline()) <= DEADLINE_S
        statistics = host.statistics()["worker"].consumer
        assert statistics is not None
        assert statistics.expired == 0


async def test_clocks_that_differ_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    settings = Settings(partitions=1, reply_partitions=1)
    callee = site.process(worker_module(Desk()), environment=Environment(clock=Shifted(3600.0)), settings=settings)
    async with callee, site.process(settings=settings) as caller:
        for number in range(3):
            await caller.bus.execute(Work(str(number)))
    told = [record.getMessage() for record in caplog.records if "differ: set them (NTP)" in record.getMessage()]
    assert len(told) == 1
    assert "worker: a request that has just come says that it was stored 3600 s ago" in told[0]


async def test_what_a_request_has_spent_in_the_log_is_taken_off_what_its_caller_waits() -> None:
    site = Site()
    remaining: list[float] = []
    began = anyio.current_time()
    async with site.process() as caller, anyio.create_task_group() as tasks:

        async def ask() -> None:
            with anyio.CancelScope(deadline=began + 30.0):
                remaining.append(await caller.bus.ask(Deadline()))

        tasks.start_soon(ask)
        await until(lambda: anyio.current_time() > began + 0.5)  # the time in the log is what this is about
        async with site.process(worker_module(Desk())):
            await until(lambda: remaining)
    assert remaining[0] < 29.7


def test_a_request_is_never_older_than_when_the_log_was_read_to_its_end() -> None:
    ages = Ages("worker")
    ages.now, read_up_at = 100.0, 90.0
    # By its own clock it was stored at 40; long after the log was read to its end, it may be as old as that is.
    assert ages.learn(0.0, read_up_at, 40.0) == (90.0, 50.0)
    # The first since then, and the clocks are believed as far as they can be right.
    assert ages.learn(float("inf"), read_up_at, 95.0) == (95.0, 0.0)
    assert ages.learn(float("inf"), read_up_at, 40.0) == (90.0, 50.0)
    assert ages.learn(float("inf"), read_up_at, 140.0) == (100.0, 0.0)


def test_a_request_that_comes_right_after_the_log_was_read_to_its_end_is_new_and_the_next_are_counted_from_it() -> None:
    ages = Ages("worker")
    ages.now = 100.0
    read_up_at = ages.now - FRESH_S / 2
    stored_at, behind_s = ages.learn(float("inf"), read_up_at, 40.0)
    assert (stored_at, behind_s) == (100.0, 60.0)
    ages.now = 103.0
    assert ages.epoch + behind_s + 41.0 == 101.0  # what the consumer works out itself: two seconds in the log
    assert ages.learn(behind_s, read_up_at, 45.0) == (103.0, 58.0)  # quicker than the first
