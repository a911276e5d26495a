"""The floor of requests over Kafka, by hand on aiokafka: `python -m benchmarks.floors.kafka_requests ROLE SERVERS PREFIX`.

The same bytes and headers as fissile's. The callee awaits the handler in the task that reads: it does not suspend, and so needs no pool. The
caller has a table of futures, one partition of replies by direct assignment from its end, and one sweeper for the deadlines of all calls.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from aiokafka import TopicPartition

from benchmarks._load import load, obey
from benchmarks.executor.contract import RunCode, RunReport
from benchmarks.executor.service import REPORT
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

REQUESTS, REPLIES = "executor.requests", "replies"
REPLY_PARTITIONS = 16
TIMEOUT_S = 30.0
SWEEP_S = 0.05

_encode = msgspec.json.Encoder().encode
_decode_message = msgspec.json.Decoder(RunCode).decode
_decode_reply = msgspec.json.Decoder(RunReport).decode


async def handle(_message: RunCode) -> RunReport:
    """Answer."""
    return REPORT


HANDLERS = {b"executor.run-code": handle}


# --- the callee ------------------------------------------------------------------------------------------------------


async def serve(servers: str, prefix: str) -> None:
    """Be the callee."""
    async with AsyncExitStack() as stack:
        replies = Lanes(await open_producer(stack, servers), prefix + REPLIES, REPLY_PARTITIONS)
        consumer = await open_consumer(stack, servers, f"{prefix}executor")
        watermarks = Watermarks(consumer)
        consumer.subscribe([prefix + REQUESTS], listener=watermarks)
        while not consumer.assignment():
            await asyncio.sleep(0.01)
        keep(watermarks.commit_regularly())
        keep(_answer(consumer, replies, watermarks))
        await obey({})


async def _answer(consumer: Any, replies: Lanes, watermarks: Watermarks) -> None:  # Any: the library has no types
    while True:
        found = await consumer.getmany(timeout_ms=1000, max_records=RECORDS)
        now_ms = time.time() * 1000
        for partition, records in found.items():
            in_hand = watermarks.of(partition)
            for record in records:
                entry = Open(record.offset)
                in_hand.append(entry)
                headers: dict[str, bytes] = dict(record.headers)
                handler = HANDLERS.get(headers.get("ce_type", b""))
                if handler is None or record.timestamp + int(headers["fissile-budget-ms"]) < now_ms:
                    entry.finish()
                    continue
                reply = _encode(await handler(_decode_message(record.value)))
                number = int(headers["fissile-reply-to"].rpartition(b"/")[2])
                added = [("fissile-correlation", headers["fissile-correlation"]), ("fissile-outcome", b"replied")]
                replies[number].put(None, reply, added, entry.finish)


# --- the caller ------------------------------------------------------------------------------------------------------


class Caller:
    """Makes calls."""

    def __init__(self, requests: Lanes, partition: int) -> None:
        self._requests = requests
        self._reply_to = f"{REPLIES}/{partition}".encode()
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[bytes, asyncio.Future[Any]] = {}
        self._deadlines: dict[int, list[tuple[bytes, int]]] = {}
        self._new_id = new_ids()
        self._times = Times()
        self._turn = itertools.cycle(range(PARTITIONS)).__next__

    async def call(self, message: RunCode) -> RunReport:
        """Make a call.

        Raises:
            TimeoutError: No reply came in time.
        """
        message_id, correlation = self._new_id().encode(), self._new_id().encode()
        headers: list[Header] = [
            ("ce_specversion", b"1.0"),
            ("ce_id", message_id),
            ("ce_type", b"executor.run-code"),
            ("ce_source", b"/app"),
            ("ce_time", self._times.now()),
            ("content-type", b"application/json"),
            ("fissile-correlation", correlation),
            ("fissile-reply-to", self._reply_to),
            ("fissile-budget-ms", b"30000"),
        ]
        future = self._waiting[correlation] = self._loop.create_future()
        partition = self._turn()
        bucket = int((self._loop.time() + TIMEOUT_S) / SWEEP_S) + 1
        self._deadlines.setdefault(bucket, []).append((correlation, partition))
        self._requests[partition].put(message_id, _encode(message), headers, None)
        try:
            return _decode_reply(await future)
        finally:
            del self._waiting[correlation]

    async def hand_over(self, consumer: Any) -> None:  # Any: the library has no types
        """Hand replies to those who wait for them."""
        while True:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=RECORDS)).values():
                for record in records:
                    headers = dict(record.headers)
                    future = self._waiting.get(headers["fissile-correlation"])
                    if future is not None and not future.done() and headers["fissile-outcome"] == b"replied":
                        future.set_result(record.value)

    async def sweep(self) -> None:
        """End the calls whose deadline has passed, and tell the callee."""
        last = int(self._loop.time() / SWEEP_S) - 1
        while True:
            now = int(self._loop.time() / SWEEP_S)
            for number in range(last + 1, now + 1):
                for correlation, partition in self._deadlines.pop(number, ()):
                    future = self._waiting.get(correlation)
                    if future is not None and not future.done():
                        future.set_exception(TimeoutError())
                        self._requests[partition].put(correlation, b"", [("fissile-cancel", correlation)], None)
            last = now
            await asyncio.sleep(SWEEP_S)


async def call(servers: str, prefix: str) -> None:
    """Be the caller."""
    async with AsyncExitStack() as stack:
        requests = Lanes(await open_producer(stack, servers), prefix + REQUESTS, PARTITIONS)
        consumer = await open_consumer(stack, servers, None)
        partition = TopicPartition(prefix + REPLIES, 3)
        consumer.assign([partition])
        await consumer.seek_to_end(partition)
        caller = Caller(requests, partition.partition)
        keep(caller.hand_over(consumer))
        keep(caller.sweep())
        message = RunCode("python", "print(6*7)")

        async def calls(*, in_flight: int, count: int) -> Mapping[str, float]:
            return await load(lambda: caller.call(message), in_flight, count)

        await obey({"calls": calls})


if __name__ == "__main__":
    run({"caller": call, "callee": serve}, sys.argv[1:])
