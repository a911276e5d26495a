"""The network between a broker and those who are called, or who calls, through a proxy that clients are told of: cut, delayed, half-open."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal

import anyio
import attrs
import pytest

from tests.brokers.apache import Door
from tests.brokers.processes import BrokerProcess
from tests.faults.driver import IS_FULL, RECOVERY_S, SETTINGS, on, scaled, site
from tests.faults.load import EXPOSED, STEADY_S, exposed, steady
from tests.faults.modules import ledger, reader
from tests.faults.proxy import Damage, Proxy, proxied

pytestmark = [pytest.mark.timeout(600), on("asyncio", "trio")]

AWAY_S = 10.0 if IS_FULL else 4.0
QUICK = attrs.evolve(SETTINGS, kafka_revoke_s=1.0)


@pytest.fixture
async def proxy(apache_door: Door, anyio_backend: Any) -> AsyncGenerator[Proxy]:
    """The proxy that the clients of the broker's second listener are told of."""
    async with proxied(apache_door.outer, apache_door.inner) as found:
        yield found


@pytest.mark.parametrize("damage", ["cut", "delayed", "half-open"])
@pytest.mark.parametrize("side", ["called", "caller"])
async def test_a_process_survives_a_network_that_is(
    side: Literal["called", "caller"],
    damage: Damage,
    own_apache_kafka: BrokerProcess,
    proxy: Proxy,
    tmp_path: Path,
    anyio_backend: Any,
) -> None:
    far = f"kafka://127.0.0.1:{proxy.port}"
    of_caller, of_called = (far, None) if side == "caller" else (None, far)
    async with site(tmp_path, own_apache_kafka.server, anyio_backend, settings=QUICK, bus=of_caller) as found:
        async with anyio.create_task_group() as starting:
            for module in (ledger, reader):
                starting.start_soon(lambda module=module: found.start(module, bus=of_called))  # type: ignore[misc]
        assert proxy.connections > 0
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steady, found, stop)
            await found.more(scaled(1000))
            found.history.fault(damage)
            match damage:
                case "cut":
                    proxy.cut()
                    await anyio.sleep(AWAY_S)
                case "delayed":
                    proxy.delay_s = 0.2
                    await anyio.sleep(AWAY_S)
                case "half-open":
                    proxy.lose()  # for good: its recovery is counted from here
            if damage != "half-open":
                proxy.heal()
                found.history.fault(damage, "end")
            await found.more(scaled(2000))
            stop.set()
        await found.settle()
        report = found.report(f"a network that is {damage}, of the {side}")
    assert report.anomalies == ()
    assert report.in_flight > 0
    # What was not committed when it was cut off. What is stored meanwhile does not come to it before its group has taken it back.
    assert report.repeats <= (EXPOSED + exposed(STEADY_S) if side == "called" else 0)
    assert report.recoveries  # it has held something up
    assert report.recovers_within(RECOVERY_S)
