"""What the tests of the Kafka transport share: transports with names of their own, and waiting for what comes."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from fissile import Settings
from fissile._clock import SystemClock
from fissile.abc import Assigned, Member, Outgoing, Partition, Reader, Record, Revoked, TopicSpec
from fissile.transports.kafka import KafkaTransport, transport

PATIENCE_S = 30.0
"""How long a test waits for what has to come."""

without_uvloop = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
"""For tests that take seconds: uvloop runs the same code as asyncio."""

_numbers = itertools.count()


def kafka(servers: str, prefix: str | None = None, **settings: Any) -> KafkaTransport:
    """A transport whose topics and groups no other test has, with quick heartbeats."""
    prefix = prefix or f"t{os.getpid()}-{next(_numbers)}."
    return transport(
        Settings(bus=f"kafka://{servers}", kafka_prefix=prefix, kafka_heartbeat_s=0.2, **settings), SystemClock()
    )


@asynccontextmanager
async def opened(servers: str, partitions: int = 2, **settings: Any) -> AsyncGenerator[KafkaTransport]:
    """A transport that is connected and has the topic `t`."""
    with anyio.fail_after(2 * PATIENCE_S):
        async with kafka(servers, **settings) as found:
            await found.ensure([TopicSpec("t", partitions, 3600.0)])
            yield found


def record(number: int, *, key: str | None = None, partition: int | None = None, size: int = 0) -> Outgoing:
    """A record that says its number."""
    value = str(number).encode().ljust(size)
    return Outgoing("t", None if key is None else key.encode(), value, (("n", str(number).encode()),), partition)


def numbers(records: Sequence[Record]) -> list[int]:
    """The numbers that records say."""
    return [int(record.value) for record in records]


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition that nothing announces."""
    with anyio.move_on_after(PATIENCE_S):
        while not condition():
            await anyio.sleep(0.005)
        return
    pytest.fail(f"Waited in vain until {what}")


async def assigned(member: Member, within_s: float = PATIENCE_S) -> Assigned:
    """Wait for an assignment, passing over all else."""
    with anyio.fail_after(within_s):
        while True:
            news = await member.receive()
            if isinstance(news, Assigned):
                return news


async def revoked(member: Member) -> Revoked:
    """Wait for a revocation, passing over all else."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            news = await member.receive()
            if isinstance(news, Revoked):
                return news


async def some(source: Member | Reader, count: int) -> list[Record]:
    """Wait for so many records."""
    found: list[Record] = []
    with anyio.fail_after(PATIENCE_S):
        while len(found) < count:
            news = await source.receive()
            if not isinstance(news, (Assigned, Revoked)):
                found += news
    return found


async def all_of(found: KafkaTransport, partitions: int = 2) -> list[Record]:
    """Everything that the topic has now."""
    async with found.read([("t", number) for number in range(partitions)], "earliest") as reader:
        return await some(reader, sum(reader.ends.values()) - sum(reader.begins.values()))


async def committed(found: KafkaTransport, group: str) -> dict[Partition, int]:
    """What a group has committed, as the broker says."""
    from aiokafka.admin import AIOKafkaAdminClient

    async def ask() -> dict[Partition, int]:
        admin = AIOKafkaAdminClient(bootstrap_servers=list(found.options.servers))
        await admin.start()
        try:
            offsets = await admin.list_consumer_group_offsets(found.options.prefix + group)
            return {("t", there.partition): one.offset for there, one in offsets.items()}
        finally:
            await admin.close()

    return await found._bridge.call(ask)
