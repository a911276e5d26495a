"""Processes that are killed, frozen past their session, or come and go: nothing is lost, and the order of each key is kept."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from fissile import Module
from tests.faults.commits import watching_commits
from tests.faults.driver import RECOVERY_S, SESSION_S, SETTINGS, Site, Worker, on, scaled, site, until
from tests.faults.history import Fault, Op, read_history
from tests.faults.load import CALLERS, EXPOSED, STEADY_S, commands, events, exposed, steady
from tests.faults.modules import ledger, reader

pytestmark = pytest.mark.timeout(600)

IN_HAND = SETTINGS.window * SETTINGS.partitions
"""How many events one of two processes may have at hand: a window of each of its partitions, and as much again behind it."""
PAUSE_S = 0.03
"""How long publishers pause, on average: so that what may come again is less than all."""


async def _kill_and_replace(found: Site, total: int, kills: int, module: Module, running: int) -> None:
    """Kill one of the processes that are there, in the middle and while so many operations are running, and start another."""
    for number in range(kills):
        at = found.random.randint(total // 4, total // 2) + number * total // 8

        def is_middle(at: int = at) -> bool:
            return found.history.done >= at and found.history.running >= running

        await until(is_middle, "the middle is reached")
        found.kill(found.random.choice(found.living))
        await found.start(module)


@on("asyncio", "trio")
async def test_commands_outlive_a_callee_that_is_killed_in_the_middle(
    apache_kafka: str, tmp_path: Path, anyio_backend: Any
) -> None:
    total, kills = scaled(1000), scaled(3)
    async with site(tmp_path, apache_kafka, anyio_backend, ledger, ledger) as found:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_kill_and_replace, found, total, kills, ledger, CALLERS // 2)
            await commands(found, total, pause_s=0.05)
        await found.settle()
        report = found.report("SIGKILL of a callee")
    assert report.anomalies == ()
    assert report.in_flight >= CALLERS // 2
    # Another process takes over long before the callers' deadline: none of them is left without an answer.
    assert (report.sent, report.failed, report.unknown) == (total, 0, 0)
    assert report.declared == total // 10
    assert report.repeats <= EXPOSED * kills
    assert report.recoveries  # it has held something up
    assert report.recovers_within(RECOVERY_S)


@on("trio", "asyncio")
async def test_events_outlive_a_subscriber_that_is_killed_in_the_middle(
    apache_kafka: str, tmp_path: Path, anyio_backend: Any
) -> None:
    total, kills = scaled(10_000), scaled(3)
    async with site(tmp_path, apache_kafka, anyio_backend, reader, reader) as found:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_kill_and_replace, found, total, kills, reader, 1)
            await events(found, total, pause_s=PAUSE_S)
        await found.settle()
        report = found.report("SIGKILL of a subscriber")
    assert report.anomalies == ()
    assert (report.sent, report.ok) == (total, total)
    # Of the one that is killed; and where the next one takes a share, what stands behind an event that was not begun yet.
    assert report.repeats <= 2 * exposed(PAUSE_S) * kills
    assert report.recoveries  # it has held something up
    assert report.recovers_within(RECOVERY_S)


def _of_others(found: Site, zombie: Worker) -> set[str]:
    """Return what was sent while a process was frozen, was handled by another, and by this one when it went on."""
    lines, effects = list(read_history(found.history.path)), found.effects.all()
    began, ended = (line.time for line in lines if isinstance(line, Fault))
    sent = {line.id for line in lines if isinstance(line, Op) and line.type == "invoke" and began < line.time < ended}
    own = {effect.id for effect in effects if effect.process == zombie.process.pid and effect.time > ended}
    return sent & own & {effect.id for effect in effects if effect.process != zombie.process.pid}


@on("asyncio")
async def test_a_subscriber_that_was_frozen_past_its_session_does_no_harm_when_it_goes_on(
    apache_kafka: str, tmp_path: Path, anyio_backend: Any
) -> None:
    total = scaled(10_000)
    async with site(tmp_path, apache_kafka, anyio_backend, reader, reader) as found:
        async with watching_commits(found), anyio.create_task_group() as tasks:
            tasks.start_soon(partial(events, found, total, pause_s=PAUSE_S))
            await until(lambda: found.history.done >= total // 4, "some events are published")
            zombie = found.random.choice(found.workers)
            found.freeze(zombie)
            await anyio.sleep(SESSION_S * 1.5)
            await found.settle()  # by the other one, which has all partitions now
            found.go_on(zombie)
            await events(found, total // 4, pause_s=PAUSE_S, prefix="later")
            await found.settle()
        report = found.report("a process frozen past its session")
    assert report.anomalies == ()
    assert report.ok == total + total // 4
    assert _of_others(found, zombie) == set()
    # By the other one, by itself when it goes on with what it had at hand, and where it takes its share again.
    assert report.repeats <= 2 * exposed(PAUSE_S) + IN_HAND
    assert report.recoveries  # it has held something up
    assert report.recovers_within(RECOVERY_S)


def _owes(found: Site, worker: Worker) -> int:
    """Return how many commands a process has done and not replied to."""
    done = {effect.id for effect in found.effects.all() if effect.process == worker.process.pid}
    return len(done - found.history.acknowledged)


def _late(found: Site) -> int:
    """Return how many replies came to this process for nobody."""
    statistics = found.app.remote_statistics()
    assert statistics is not None
    return statistics.late


@on("trio", "asyncio")
async def test_a_callee_that_was_frozen_past_its_session_replies_late_and_does_no_harm(
    apache_kafka: str, tmp_path: Path, anyio_backend: Any
) -> None:
    total = scaled(2000)
    async with site(tmp_path, apache_kafka, anyio_backend, ledger, ledger) as found:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(commands, found, total, pause_s=0.05))
            zombie = found.random.choice(found.workers)
            await until(lambda: found.history.done >= total // 4 and _owes(found, zombie) > 1, "it is to reply")
            found.freeze(zombie)
            await anyio.sleep(SESSION_S * 1.5)
        await found.settle()  # by the other one, which has answered its callers
        before = _late(found)
        found.go_on(zombie)
        await until(lambda: _late(found) > before, "it replies, though the other one has")
        await commands(found, total // 4, pause_s=0.05, prefix="later")
        await found.settle()
        report = found.report("a callee frozen past its session")
    assert report.anomalies == ()
    assert (report.sent, report.failed, report.unknown) == (total + total // 4, 0, 0)
    # Brokers give it what was stored meanwhile, when it goes on: it does not touch that.
    assert _of_others(found, zombie) == set()
    assert report.repeats <= EXPOSED
    assert report.recoveries  # it has held something up
    assert report.recovers_within(RECOVERY_S)


@on("asyncio")
async def test_joins_and_leaves_under_load_lose_nothing(apache_kafka: str, tmp_path: Path, anyio_backend: Any) -> None:
    async with site(tmp_path, apache_kafka, anyio_backend, ledger, reader) as found:
        stop = anyio.Event()
        async with watching_commits(found), anyio.create_task_group() as tasks:
            tasks.start_soon(steady, found, stop)
            await found.more(scaled(1000))  # so that it is known what is usual
            guests: list[Worker] = []
            for number in range(scaled(40)):
                if number % 2 == 0:
                    found.history.fault("join")
                    guests.append(await found.start((reader, ledger)[number // 2 % 2]))
                    found.history.fault("join", "felt")
                else:
                    found.history.fault("leave")
                    await guests.pop(found.random.randrange(len(guests))).leave()
                    found.history.fault("leave", "felt")
            stop.set()
        await found.settle()
        report = found.report("joins and leaves")
    assert report.anomalies == ()
    assert report.failed == report.unknown == 0
    # Who leaves, or has to share, finishes and commits what it has in hand. Commands wait for no other of their key; of events there may be
    # one that has not begun, and then what is done behind it comes again.
    assert report.repeats_of["command"] == 0
    assert report.repeats_of["event"] <= exposed(STEADY_S) * len(report.faults)
    assert report.most <= 2
    assert report.recoveries  # it has held something up
    assert report.recovers_within(RECOVERY_S)
