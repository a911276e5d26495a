"""An application whose consumer reads no more, from the first sign to the next answer."""

from __future__ import annotations

import os
from typing import Any
from uuid import uuid4

import anyio
from attrs import frozen

from fissile import App, Command, Contract, Environment, Module, Settings
from fissile._delivery.consumer import Consumer
from fissile.testing import ManualClock
from fissile.transports._kafka_group import KafkaMember
from tests.transports.helpers import PATIENCE_S, until


@frozen
class Double(Command[int]):
    number: int


module = Module(Contract("doubler", messages=[Double]))


@module.command(Double, idempotent=True)
async def double(command: Double) -> int:
    return 2 * command.number


def _problems(app: App) -> dict[str, str]:
    return {check.name: check.problem for check in app.checks() if check.problem is not None}


def _member(app: App) -> KafkaMember:
    consumer: Consumer = app._live()._consumers["doubler"]
    assert isinstance(consumer._member, KafkaMember)
    return consumer._member


async def test_a_consumer_that_is_stuck_shows_in_readiness_is_replaced_and_the_next_command_is_answered(
    apache_kafka: str,
) -> None:
    """aiokafka#1154, #847. The pause before the new one is on the test's clock, so that nothing is missed."""
    clock = ManualClock()
    settings = Settings(
        bus=f"kafka://{apache_kafka}",
        kafka_prefix=f"app-{os.getpid()}-{uuid4().hex[:8]}.",
        partitions=1,
        reply_partitions=1,
        kafka_heartbeat_s=0.2,
        commit_interval_s=3600.0,
    )
    app = App([module], settings=settings, environment=Environment(clock=clock), is_loopback=True)
    with anyio.fail_after(2 * PATIENCE_S):
        async with app:
            assert await app.bus.execute(Double(1)) == 2
            assert _problems(app) == {}
            first = _member(app)
            raw: Any = first.source.consumer._raw
            first.source.bridge.to_loop(raw._fetcher._fetch_task.cancel)
            await until(lambda: "fetcher has ended" in _problems(app).get("consumer doubler", ""), "readiness says so")
            pause_s = await clock.wait_sleeping(at_most_s=1.0)
            assert "consumer doubler" in _problems(app)
            clock.advance(pause_s)
            await until(lambda: not _problems(app), "all is well again")
            assert _member(app) is not first
            assert await app.bus.execute(Double(2)) == 4
