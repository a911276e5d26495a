"""The brokers that the rows over Kafka are measured on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from benchmarks._rows import CannotRun
from tests.brokers.apache import VERSION, Cluster, start_apache, why_not
from tests.brokers.embedded import start_embedded
from tests.brokers.processes import BrokerFailed

Fresh = Callable[[], AbstractContextManager[str]]
"""Gives the address of a broker that nobody else uses meanwhile."""


@contextmanager
def embedded() -> Generator[str]:
    """Start an embedded broker; it grows with its history, so each use has its own."""
    try:
        broker = start_embedded()
    except BrokerFailed as error:
        raise CannotRun(str(error)) from None
    if isinstance(broker, str):
        raise CannotRun(broker)
    try:
        yield broker.server
    finally:
        broker.end()


@contextmanager
def apache() -> Generator[str]:
    """Start an Apache Kafka, or use the one that `FISSILE_TEST_KAFKA` names."""
    given = os.environ.get("FISSILE_TEST_KAFKA")
    if given:
        yield given
        return
    cluster: Cluster | None = None
    reason = why_not()
    if reason is None:
        try:
            cluster = start_apache()
        except BrokerFailed as error:
            reason = str(error)
    if cluster is None:
        raise CannotRun(reason or "it did not start")
    try:
        yield cluster.servers
    finally:
        cluster.end()


BROKERS: Mapping[str, tuple[str, Fresh]] = {
    "embedded": ("the embedded broker", embedded),
    "apache": (f"Apache Kafka {VERSION}", apache),
}
"""By name: what people call it, and what starts it."""


def make_topics(servers: str, topics: Mapping[str, int]) -> None:
    """Make topics for the floors.

    Args:
        servers: The broker.
        topics: The number of partitions, by topic.
    """

    async def make() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=servers)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(name, count, 1) for name, count in topics.items()])
        finally:
            await admin.close()

    asyncio.run(make())
