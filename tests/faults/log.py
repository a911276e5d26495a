"""Reads what is stored, and what the groups have committed in the end, from outside of all processes under test and of the runtime."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import anyio.to_thread
import msgspec

from fissile import Settings
from tests.faults.history import Commit, Line, Stored

TOPICS = {"ledger": "ledger.requests", "reader": "ledger.noted"}
"""The topic that each group handles."""
PATIENCE_S = 10.0
"""How long commits may take to reach the end, once all was handled."""


class _Body(msgspec.Struct):
    key: str
    number: int


async def look_at_log(settings: Settings) -> list[Line]:
    """Return what is in the log, and what the groups have committed once that is all of it, or their time is over."""
    return await anyio.to_thread.run_sync(lambda: asyncio.run(_look(settings)))


async def _look(settings: Settings) -> list[Line]:
    from aiokafka import AIOKafkaConsumer
    from aiokafka.admin import AIOKafkaAdminClient

    servers = settings.bus.removeprefix("kafka://").split(",")
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await consumer.start()
    await admin.start()
    found: list[Line] = []
    try:
        for group, topic in TOPICS.items():
            ends = await _ends(admin, consumer, settings.kafka_prefix + topic)
            if ends:
                found += await _stored(consumer, group, ends)
                found += await _committed(admin, settings.kafka_prefix + group, group, ends)
    finally:
        await admin.close()
        await consumer.stop()
    return found


def place(group: str, partition: Any) -> str:  # Any: the library has no types, here and below
    """Return what a partition is called in the history."""
    return f"{group}: {partition.topic}/{partition.partition}"


async def _ends(admin: Any, consumer: Any, topic: str) -> dict[Any, int]:
    """Return the end of each partition that is not empty."""
    from aiokafka import TopicPartition

    (told,) = await admin.describe_topics([topic])
    partitions = [TopicPartition(topic, one["partition"]) for one in told["partitions"]]
    ends: dict[Any, int] = await consumer.end_offsets(partitions)
    return {partition: end for partition, end in ends.items() if end}


async def _stored(consumer: Any, group: str, ends: dict[Any, int]) -> list[Stored]:
    consumer.assign(list(ends))
    await consumer.seek_to_beginning(*ends)
    found: list[Stored] = []
    async with asyncio.timeout(PATIENCE_S):
        while any([await consumer.position(partition) < end for partition, end in ends.items()]):
            for partition, records in (await consumer.getmany(timeout_ms=100)).items():
                told = ((record.offset, _operation(record)) for record in records)
                found += [Stored(time.monotonic(), place(group, partition), at, name) for at, name in told if name]
    return found


def _operation(record: Any) -> str | None:
    """Return the id of the operation that a record is of, if it is of one: others are there as well."""
    headers: dict[str, bytes] = dict(record.headers)
    match headers.get("ce_type"):
        case b"ledger.note":
            return headers["ce_id"].decode() if "ce_id" in headers else None
        case b"ledger.noted":
            try:
                body = msgspec.json.decode(record.value or b"", type=_Body)
            except msgspec.DecodeError:
                return None
            return f"{body.key}/{body.number}"
        case _:
            return None


async def _committed(admin: Any, group_id: str, group: str, ends: dict[Any, int]) -> Iterable[Commit]:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        told = await admin.list_consumer_group_offsets(group_id)
        offsets = {partition: told[partition].offset if partition in told else 0 for partition in ends}
        if time.monotonic() > give_up or all(offsets[partition] >= end for partition, end in ends.items()):
            return [Commit(time.monotonic(), place(group, partition), offset) for partition, offset in offsets.items()]
        await asyncio.sleep(0.1)
