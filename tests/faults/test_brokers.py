"""A broker that is frozen, or killed and started again, and one of three that is killed: nothing acknowledged is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from tests.brokers.apache import Cluster, _serving
from tests.brokers.processes import BrokerProcess
from tests.faults.driver import RECOVERY_S, SCALE, SETTINGS, Site, site, until
from tests.faults.load import steady
from tests.faults.modules import ledger, reader

pytestmark = [pytest.mark.timeout(600), pytest.mark.parametrize("anyio_backend", ["asyncio"])]

AWAY_S = 10.0 if SCALE >= 10 else 4.0
SHORT = attrs.evolve(SETTINGS, call_timeout_s=3.0, kafka_append_s=3.0)


async def _more(found: Site, count: int) -> None:
    """Wait for so many more operations that end well."""
    reached = len(found.history.acknowledged) + count
    await until(lambda: len(found.history.acknowledged) >= reached, f"{count} more operations end well")


async def test_a_broker_that_is_frozen_costs_time_and_nothing_else(
    own_apache_kafka: BrokerProcess, tmp_path: Path, anyio_backend: Any
) -> None:
    async with site(tmp_path, own_apache_kafka.server, anyio_backend, ledger, reader, settings=SHORT) as found:
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steady, found, stop)
            await _more(found, 300)
            found.history.fault("frozen broker")
            own_apache_kafka.stop()
            try:
                await anyio.sleep(AWAY_S)
            finally:
                own_apache_kafka.go_on()
            found.history.fault("frozen broker", "end")
            await _more(found, 400)
            stop.set()
        await found.settle()
        report = found.report(f"a broker frozen for {AWAY_S:g} s")
    assert report.anomalies == ()
    assert report.unknown + report.failed > 0  # callers were told in time
    assert report.recovery_s(0.99) <= RECOVERY_S


async def test_a_broker_that_is_killed_and_started_again_has_all_that_it_acknowledged(
    own_apache_kafka: BrokerProcess, tmp_path: Path, anyio_backend: Any
) -> None:
    async with site(tmp_path, own_apache_kafka.server, anyio_backend, ledger, reader, settings=SHORT) as found:
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steady, found, stop)
            await _more(found, 300)
            found.history.fault("killed broker")
            own_apache_kafka.kill()
            try:
                await anyio.sleep(AWAY_S / 2)
            finally:
                own_apache_kafka.start()
            await anyio.to_thread.run_sync(own_apache_kafka.wait_ready)
            found.history.fault("killed broker", "end")
            await _more(found, 400)
            stop.set()
        await found.settle()
        report = found.report("a broker killed and started again")
    assert report.anomalies == ()
    assert report.recovery_s(0.99) <= RECOVERY_S


async def test_a_node_of_three_that_is_killed_is_replaced_by_the_others(
    three_node_kafka: Cluster, tmp_path: Path, anyio_backend: Any
) -> None:
    async with site(tmp_path, three_node_kafka.servers, anyio_backend, ledger, reader) as found:
        stop = anyio.Event()
        node = found.random.choice(list(three_node_kafka.nodes))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steady, found, stop)
            await _more(found, 300)
            found.history.fault("killed node")
            node.kill()
            try:
                # Until Kafka notices, after 9 s, the other nodes wait for this one before they acknowledge: so long the fault lasts.
                await _serving(",".join(other.server for other in three_node_kafka.nodes if other is not node), 2)
                found.history.fault("killed node", "end")
                await _more(found, 400)
            finally:
                node.start()
            await anyio.to_thread.run_sync(node.wait_ready)
            await _more(found, 200)
            stop.set()
        await found.settle()
        report = found.report("a node of three killed")
    assert report.anomalies == ()
    assert report.recovery_s(0.99) <= RECOVERY_S
