"""A cluster of three nodes, of which one is killed."""

from __future__ import annotations

import os
from functools import partial
from time import monotonic
from typing import Any

import anyio
import pytest

from fissile._errors import DeadlineExceeded, Unavailable
from fissile.abc import Assigned, Revoked
from tests.brokers.apache import Cluster, start_apache, why_not
from tests.brokers.fixtures import skip_or_fail
from tests.transports.helpers import PATIENCE_S, all_of, numbers, opened, record, until, without_uvloop

pytestmark = pytest.mark.skipif(
    "FISSILE_TEST_SOAK" not in os.environ, reason="takes half a minute; set FISSILE_TEST_SOAK"
)


@without_uvloop
async def test_a_node_that_is_gone_costs_time_and_fails_nothing() -> None:
    """With the bounds of production: Kafka misses the node after 9 s, and its copies are waited for until then."""
    reason = why_not()
    if reason is not None:
        skip_or_fail(reason)
    session = {"broker.session.timeout.ms": "9000", "broker.heartbeat.interval.ms": "2000"}
    cluster = await anyio.to_thread.run_sync(partial(start_apache, 3, properties=session))
    try:
        async with opened(cluster.servers, partitions=3) as transport:
            await transport.append([record(number, partition=number) for number in range(3)])
            cluster.nodes[0].kill()
            end = monotonic() + 15.0
            longest_s = 0.0
            while monotonic() < end:
                began = monotonic()
                async with anyio.create_task_group() as tasks:
                    for number in range(3):
                        tasks.start_soon(transport.append, [record(number, partition=number)])
                longest_s = max(longest_s, monotonic() - began)
                assert "has not answered" not in (transport.check() or "")  # others do
                await anyio.sleep(0.05)
            print(f"\na node of three killed: the longest append took {longest_s:.1f} s")
    finally:
        cluster.end()


@without_uvloop
async def test_what_is_acknowledged_survives_a_node_and_all_goes_on(
    three_node_kafka: Cluster, anyio_backend: Any
) -> None:
    async with opened(three_node_kafka.servers, partitions=3, kafka_append_s=3.0) as transport:
        acknowledged: set[int] = set()
        refused: set[int] = set()
        received: set[int] = set()

        async def receive() -> None:
            while True:
                try:
                    async with transport.join("g", {"t": "earliest"}) as member:
                        while True:
                            news = await member.receive()
                            if not isinstance(news, (Assigned, Revoked)):
                                received.update(numbers(news))
                except Unavailable:
                    await anyio.sleep(0.1)

        node = three_node_kafka.nodes[0]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            for number in range(300):
                if number == 100:
                    node.kill()
                try:
                    await transport.append([record(number, partition=number % 3)])
                    acknowledged.add(number)
                except Unavailable:
                    refused.add(number)
                except DeadlineExceeded:
                    pass
            await until(lambda: received >= acknowledged, "all that is acknowledged is received")
            tasks.cancel_scope.cancel()
        node.start()
        await anyio.to_thread.run_sync(node.wait_ready)
        with anyio.fail_after(PATIENCE_S):
            found = numbers(await all_of(transport, 3))
        assert acknowledged <= set(found)
        assert not refused & set(found)
        assert len(found) == len(set(found))
        assert len(acknowledged) > 250
