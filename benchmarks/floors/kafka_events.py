"""The floor of events over Kafka, by hand on aiokafka: `python -m benchmarks.floors.kafka_events ROLE SERVERS PREFIX`.

The same bytes and headers as fissile's, the same partition per key. The subscriber handles one record after the other, which keeps the
order of each key.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from time import monotonic
from typing import Any

import msgspec

from benchmarks._load import Tally, load, obey
from benchmarks.feed.contract import Told, event
from benchmarks.floors.kafka_log import (
    PARTITIONS,
    RECORDS,
    Header,
    Lanes,
    Open,
    Times,
    Watermarks,
    keep,
    new_ids,
    open_consumer,
    open_producer,
    run,
)
from fissile._partitioner import partition_of

TOPIC = "feed.told"
PER_CAUSE = 500
"""After so many events the cause, which they name, is another one."""
UNDER_WAY = 2000
"""How many may be under way to the broker."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Told).decode


class Publisher:
    """Publishes."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._new_id = new_ids()
        self._times = Times()
        self._under_way = 0
        self._room = asyncio.Event()

    def _headers(self, message_id: bytes, source: bytes) -> list[Header]:
        return [
            ("ce_specversion", b"1.0"),
            ("ce_id", message_id),
            ("ce_type", b"feed.told"),
            ("ce_source", source),
            ("ce_time", self._times.now()),
            ("content-type", b"application/json"),
        ]

    async def many(self, *, count: int, suspends: bool) -> Mapping[str, float]:
        """Publish without waiting for each, as a handler does."""
        began = monotonic()
        cause, depth = b"", b"1"
        for number in range(count):
            if number % PER_CAUSE == 0:
                cause = self._new_id().encode()
                await asyncio.sleep(0)
            happened = event(number, suspends=suspends)
            headers = self._headers(b"%s.%d" % (cause, number % PER_CAUSE + 1), b"/app/feed")
            headers += [("fissile-caller", b"feed"), ("fissile-cause", cause), ("fissile-depth", depth)]
            key = happened.key.encode()
            self._under_way += 1
            self._lanes[partition_of(key, PARTITIONS)].put(key, _encode(happened), headers, self._stored)
            while self._under_way >= UNDER_WAY:
                self._room.clear()
                await self._room.wait()
        return {"began": began}

    def _stored(self) -> None:
        self._under_way -= 1
        self._room.set()

    async def one_by_one(self, *, count: int, publishers: int) -> Mapping[str, float]:
        """Publish, and wait for each."""
        began, number, loop = monotonic(), 0, asyncio.get_running_loop()

        async def publish() -> None:
            nonlocal number
            number += 1
            happened = event(number, suspends=False)
            key = happened.key.encode()
            future: asyncio.Future[None] = loop.create_future()
            headers = self._headers(self._new_id().encode(), b"/app")
            self._lanes[partition_of(key, PARTITIONS)].put(
                key, _encode(happened), headers, lambda: future.set_result(None)
            )
            await future

        await load(publish, publishers, count)
        return {"began": began}


async def publish(servers: str, prefix: str) -> None:
    """Be the publisher."""
    async with AsyncExitStack() as stack:
        publisher = Publisher(Lanes(await open_producer(stack, servers), prefix + TOPIC, PARTITIONS))
        await obey({"in_handlers": publisher.many, "one_by_one": publisher.one_by_one})


async def subscribe(servers: str, prefix: str) -> None:
    """Be the subscriber."""
    tally = Tally()

    async def handle(happened: Told) -> None:
        if happened.suspends:
            await asyncio.sleep(0)
        tally.add()

    async def take(consumer: Any, watermarks: Watermarks) -> None:  # Any: the library has no types
        while True:
            for partition, records in (await consumer.getmany(timeout_ms=1000, max_records=RECORDS)).items():
                in_hand = watermarks.of(partition)
                for record in records:
                    entry = Open(record.offset)
                    in_hand.append(entry)
                    if dict(record.headers)["ce_type"] == b"feed.told":
                        await handle(_decode(record.value))
                    entry.finish()

    async with AsyncExitStack() as stack:
        consumer = await open_consumer(stack, servers, f"{prefix}reader")
        watermarks = Watermarks(consumer)
        consumer.subscribe([prefix + TOPIC], listener=watermarks)
        while not consumer.assignment():
            await asyncio.sleep(0.01)
        keep(watermarks.commit_regularly())
        keep(take(consumer, watermarks))

        async def expect(*, count: int) -> Mapping[str, bool]:
            tally.expect(count)
            return {"is_counting": True}

        async def at() -> Mapping[str, float]:
            return {"at": await tally.at()}

        await obey({"expect": expect, "at": at})


if __name__ == "__main__":
    run({"publisher": publish, "subscriber": subscribe}, sys.argv[1:])
