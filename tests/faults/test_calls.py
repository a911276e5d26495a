"""Requests, replies and cancellations between processes over Apache Kafka, where callers die or give up and callees come and go.

`tests/remote` has the same on the log in memory, and more of it.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import attrs
import pytest

from fissile import Settings
from fissile._clock import SystemClock
from fissile._remote import RemoteStatistics
from fissile.transports.kafka import transport
from tests.faults.desk import Hold, asker, desk, door
from tests.faults.driver import PATIENCE_S, SETTINGS, Site, caller, on, site, until

pytestmark = pytest.mark.timeout(300)

QUICK = attrs.evolve(SETTINGS, drain_s=1.0)


@asynccontextmanager
async def calling(
    folder: Path, broker: str, backend: Any, *, is_there: bool = True, settings: Settings = QUICK
) -> AsyncGenerator[Site]:
    """A caller in this process, and a process of the module that it calls, unless that is to come later."""
    hosts = (desk,) if is_there else ()
    async with site(folder, broker, backend, *hosts, settings=settings, modules=(desk, asker)) as found:
        yield found


def _open(found: Site, name: str) -> None:
    door(found.effects.path, name).touch()


async def _seen(found: Site, what: str) -> None:
    await until(lambda: what in found.effects.look(), what)


def _statistics(found: Site) -> RemoteStatistics:
    """Return what the calls of this process have come to."""
    statistics = found.app.remote_statistics()
    assert statistics is not None
    return statistics


async def _answers(found: Site, name: str) -> None:
    """See that a call is answered as ever."""
    _open(found, name)
    with anyio.fail_after(PATIENCE_S):
        assert await found.bus.execute(Hold(name)) == f"did {name}"


@on("asyncio", "trio")
async def test_a_handler_whose_caller_was_killed_ends_at_the_callers_deadline_and_the_others_are_answered(
    apache_kafka: str, tmp_path: Path, anyio_backend: Any
) -> None:
    async with calling(tmp_path, apache_kafka, anyio_backend) as found:
        dying = await found.start(asker)
        await _seen(found, "of the dead began")
        dying.signal(signal.SIGKILL)
        await _answers(found, "of the living")
        await _seen(
            found, "of the dead was cancelled"
        )  # at the deadline that came with it: a dead process cancels nothing
        await _answers(found, "still living")


@on("trio", "asyncio")
async def test_a_late_reply_is_counted_and_dropped(apache_kafka: str, tmp_path: Path, anyio_backend: Any) -> None:
    async with calling(tmp_path, apache_kafka, anyio_backend) as found:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(found.bus.execute, Hold("a", shielded=True))
            await _seen(found, "a began")
            tasks.cancel_scope.cancel()
        assert _statistics(found).late == 0
        _open(found, "a")
        await until(lambda: _statistics(found).late == 1, "the reply has come too late")
        await _answers(found, "b")
        assert _statistics(found).late == 1


@on("asyncio", "trio")
@pytest.mark.parametrize("end", ["killed", "told to stop"])
async def test_a_request_outlives_a_callee_that_is(
    end: Literal["killed", "told to stop"], apache_kafka: str, tmp_path: Path, anyio_backend: Any
) -> None:
    replies: list[str] = []
    async with calling(tmp_path, apache_kafka, anyio_backend) as found:

        async def call() -> None:
            replies.append(await found.bus.execute(Hold("a")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await _seen(found, "a began")
            (first,) = found.living
            if end == "killed":
                found.kill(first)
            else:
                await first.leave()
            _open(found, "a")
            await found.start(desk)
    assert replies == ["did a"]
    processes = {effect.id: effect.process for effect in found.effects.all()}
    assert processes["a ended"] != first.process.pid


@on("trio", "asyncio")
async def test_processes_that_share_a_partition_of_replies_get_each_their_own(
    apache_kafka: str, tmp_path: Path, anyio_backend: Any
) -> None:
    settings = attrs.evolve(QUICK, reply_partitions=1)
    async with (
        calling(tmp_path, apache_kafka, anyio_backend, settings=settings) as found,
        caller(found, "other") as other,
    ):
        for number in range(10):
            names = f"one {number}", f"other {number}"
            for name in names:
                _open(found, name)
            assert await found.bus.execute(Hold(names[0])) == f"did {names[0]}"
            assert await other.bus.execute(Hold(names[1])) == f"did {names[1]}"
        await until(lambda: _statistics(found).late == 10, "the other's replies have come here too")
        assert _statistics(found).replies == 10


@on("asyncio", "trio")
async def test_a_caller_that_gives_up_while_the_handler_runs_stops_it(
    apache_kafka: str, tmp_path: Path, anyio_backend: Any
) -> None:
    async with calling(tmp_path, apache_kafka, anyio_backend) as found:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(found.bus.execute, Hold("a"))
            await _seen(found, "a began")
            tasks.cancel_scope.cancel()
        await _seen(found, "a was cancelled")
        await _answers(found, "b")
        assert _statistics(found).cancelled == 1


async def _stored_requests(found: Site) -> int:
    """Return how many requests and cancellations are in the log."""
    async with transport(found.settings, SystemClock()) as log, log.read([("desk.requests", 0)], "latest") as reader:
        return reader.ends["desk.requests", 0]


@on("trio", "asyncio")
async def test_what_a_caller_gave_up_while_it_was_in_the_log_is_not_begun(
    apache_kafka: str, tmp_path: Path, anyio_backend: Any
) -> None:
    settings = attrs.evolve(QUICK, partitions=1)
    async with calling(tmp_path, apache_kafka, anyio_backend, is_there=False, settings=settings) as found:
        with anyio.move_on_after(0.2):
            await found.bus.execute(Hold("too late"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(found.bus.execute, Hold("cancelled"))
            await until(lambda: _statistics(found).waiting == 1, "it is sent")
            tasks.cancel_scope.cancel()
        with anyio.fail_after(PATIENCE_S):
            while await _stored_requests(found) < 4:  # two requests, two cancellations
                await anyio.sleep(0.1)
        for name in ("too late", "cancelled"):
            _open(found, name)
        await found.start(desk)
        await _answers(found, "in time")  # it is behind them, in the same partition
        assert [effect.id for effect in found.effects.all()] == ["in time began", "in time ended"]
