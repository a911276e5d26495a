"""A broker that is frozen, or killed and started again, and one of three that is killed: nothing acknowledged is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest

from tests.brokers.apache import Cluster, wait_serving
from tests.brokers.processes import BrokerProcess
from tests.faults.driver import IS_FULL, RECOVERY_S, SETTINGS, on, scaled, site
from tests.faults.load import steady
from tests.faults.modules import ledger, reader

pytestmark = pytest.mark.timeout(600)

FROZEN_S = 10.0 if IS_FULL else 4.0
"""How long a broker is frozen: longer than its clients wait, so that they are told."""
DOWN_S = 10.0 if IS_FULL else 2.0
"""How long a broker is down, until it is started again."""
SHORT = attrs.evolve(SETTINGS, call_timeout_s=3.0, kafka_append_s=3.0)


@on("asyncio", "trio")
async def test_a_broker_that_is_frozen_costs_time_and_nothing_else(
    own_apache_kafka: BrokerProcess, tmp_path: Path, anyio_backend: Any
) -> None:
    async with site(tmp_path, own_apache_kafka.server, anyio_backend, ledger, reader, settings=SHORT) as found:
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steady, found, stop)
            await found.more(scaled(1000))
            found.history.fault("frozen broker")
            own_apache_kafka.stop()
            try:
                await anyio.sleep(FROZEN_S)
            finally:
                own_apache_kafka.go_on()
            found.history.fault("frozen broker", "end")
            await found.more(scaled(2000))
            stop.set()
        await found.settle()
        report = found.report(f"a broker frozen for {FROZEN_S:g} s")
    assert report.anomalies == ()
    assert report.in_flight > 0
    assert report.unknown + report.failed > 0  # callers were told in time
    assert report.recoveries  # it has held something up
    assert report.recovers_within(RECOVERY_S)


@on("trio", "asyncio")
async def test_a_broker_that_is_killed_and_started_again_has_all_that_it_acknowledged(
    own_apache_kafka: BrokerProcess, tmp_path: Path, anyio_backend: Any
) -> None:
    async with site(tmp_path, own_apache_kafka.server, anyio_backend, ledger, reader, settings=SHORT) as found:
        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steady, found, stop)
            await found.more(scaled(1000))
            found.history.fault("killed broker")
            own_apache_kafka.kill()
            try:
                await anyio.sleep(DOWN_S)
            finally:
                own_apache_kafka.start()
            await anyio.to_thread.run_sync(own_apache_kafka.wait_ready)
            await anyio.to_thread.run_sync(wait_serving, [own_apache_kafka])  # its port is open before that
            found.history.fault("killed broker", "end")
            await found.more(scaled(2000))
            stop.set()
        await found.settle()
        report = found.report(f"a broker killed, and started again {DOWN_S:g} s later")
    assert report.anomalies == ()
    assert report.in_flight > 0
    assert report.recoveries  # it has held something up
    assert report.recovers_within(RECOVERY_S)


@on("asyncio", "trio")
async def test_a_node_of_three_that_is_killed_is_replaced_by_the_others(
    three_node_kafka: Cluster, tmp_path: Path, anyio_backend: Any
) -> None:
    async with site(tmp_path, three_node_kafka.servers, anyio_backend, ledger, reader) as found:
        stop = anyio.Event()
        node = found.random.choice(list(three_node_kafka.nodes))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(steady, found, stop)
            await found.more(scaled(1000))
            found.history.fault("killed node")
            node.kill()
            # Until Kafka notices, the other nodes wait for this one before they acknowledge: so long the fault lasts.
            others = [other for other in three_node_kafka.nodes if other is not node]
            await anyio.to_thread.run_sync(wait_serving, others)
            found.history.fault("killed node", "end")
            await found.more(scaled(2000))
            if IS_FULL:
                node.start()
                await anyio.to_thread.run_sync(wait_serving, three_node_kafka.nodes)
                await found.more(scaled(1000))
            stop.set()
        await found.settle()
        report = found.report("a node of three killed")
    assert report.anomalies == ()
    assert report.in_flight > 0
    assert report.recoveries  # it has held something up
    assert report.recovers_within(RECOVERY_S)
