"""The network between a process and its broker, through a proxy that its clients are told of: cut, delayed, half-open."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from functools import cache
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from tests.brokers.apache import start_apache, why_not
from tests.brokers.fixtures import skip_or_fail
from tests.brokers.processes import BrokerProcess, free_ports
from tests.faults.driver import SCALE, SETTINGS, site, until
from tests.faults.load import steady
from tests.faults.modules import ledger, reader
from tests.faults.proxy import Damage, Proxy, proxied

pytestmark = [pytest.mark.timeout(600), pytest.mark.parametrize("anyio_backend", ["asyncio"])]

AWAY_S = 10.0 if SCALE >= 10 else 4.0
QUICK = attrs.evolve(SETTINGS, call_timeout_s=15.0, kafka_append_s=3.0, kafka_revoke_s=1.0)
# That the other side is gone is noticed by requests that are not answered in time, which is longer than the session.
USUAL = attrs.evolve(SETTINGS, kafka_session_s=10.0, kafka_heartbeat_s=1.0)


@cache
def broker_with_two_doors() -> tuple[BrokerProcess, int, int]:
    """Start a broker; return the port that its second listener advertises, which is the proxy's, and the one where it is."""
    (node,) = start_apache().nodes
    inner, outer = free_ports(2)
    node.kill()
    lines: list[str] = []
    path = node.folder / "server.properties"
    for line in path.read_text().splitlines():
        name, _, value = line.partition("=")
        more = {
            "listeners": f",PROXIED://127.0.0.1:{inner}",
            "advertised.listeners": f",PROXIED://127.0.0.1:{outer}",
            "listener.security.protocol.map": ",PROXIED:PLAINTEXT",
        }
        lines.append(f"{name}={value}{more.get(name, '')}\n")
    path.write_text("".join(lines))
    node.start()
    node.wait_ready()
    return node, outer, inner


@pytest.fixture(scope="module")
def doors() -> tuple[BrokerProcess, int, int]:
    """A broker with a second listener that advertises the proxy."""
    reason = why_not()
    if reason is not None:
        skip_or_fail(reason)
    return broker_with_two_doors()


@pytest.fixture
async def proxy(doors: tuple[BrokerProcess, int, int], anyio_backend: Any) -> AsyncGenerator[Proxy]:
    """The proxy in front of that listener."""
    async with proxied(doors[1], doors[2]) as found:
        yield found


@pytest.mark.parametrize("damage", ["cut", "delayed", "half-open"])
async def test_a_process_survives_a_network_that_is(
    damage: Damage, doors: tuple[BrokerProcess, int, int], proxy: Proxy, tmp_path: Path, anyio_backend: Any
) -> None:
    settings = USUAL if damage == "half-open" else QUICK
    far = f"kafka://127.0.0.1:{proxy.port}"
    async with site(tmp_path, doors[0].server, anyio_backend, settings=settings) as found:
        async with anyio.create_task_group() as starting:
            for module in (ledger, reader):
                starting.start_soon(lambda module=module: found.start(module, bus=far))  # type: ignore[misc]
        assert proxy.connections > 0
        stop = anyio.Event()

        async def more(count: int) -> None:
            reached = len(found.history.acknowledged) + count
            await until(lambda: len(found.history.acknowledged) >= reached, f"{count} more operations end well")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steady, found, stop)
            await more(300)
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
            await more(400)
            stop.set()
        await found.settle()
        report = found.report(f"a network that is {damage}")
    assert report.anomalies == ()
    assert report.recovery_s(0.99) <= settings.kafka_session_s + 5.0
