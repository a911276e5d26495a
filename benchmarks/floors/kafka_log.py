"""What the floors over Kafka share: the clients, batches of our own, offsets committed after handling.

The same guarantees as fissile's: acks=all, an idempotent producer, batches of 256 KiB without linger of which one per partition is under
way, each under a deadline; offsets committed by hand, up to the lowest unfinished one.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from random import SystemRandom
from typing import Any

import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition

BATCH_BYTES = 256 * 1024
SEND_S = 5.0
COMMIT_S = 0.5
RECORDS = 2000
PARTITIONS = 8

Header = tuple[str, bytes]
Done = Callable[[], None]


class Lane:
    """The way into one partition: what comes while a batch is under way makes the next one."""

    __slots__ = ("_is_running", "_partition", "_producer", "_queue", "_topic")

    def __init__(self, producer: Any, topic: str, partition: int) -> None:  # Any: the library has no types
        self._producer = producer
        self._topic = topic
        self._partition = partition
        self._queue: deque[tuple[bytes | None, bytes, list[Header], Done | None]] = deque()
        self._is_running = False

    def put(self, key: bytes | None, value: bytes, headers: list[Header], done: Done | None) -> None:
        """Send a record, and call `done` when it is stored."""
        self._queue.append((key, value, headers, done))
        if not self._is_running:
            self._is_running = True
            keep(self._send())

    async def _send(self) -> None:
        queue = self._queue
        while queue:
            batch = self._producer.create_batch()
            told: list[Done] = []
            now_ms = int(time.time() * 1000)
            while queue:
                key, value, headers, done = queue[0]
                if batch.append(timestamp=now_ms, key=key, value=value, headers=headers) is None:
                    break
                queue.popleft()
                if done is not None:
                    told.append(done)
            batch.close()
            async with asyncio.timeout(SEND_S):
                await (await self._producer.send_batch(batch, self._topic, partition=self._partition))
            for done in told:
                done()
        self._is_running = False


class Lanes:
    """The ways into the partitions of one topic."""

    def __init__(self, producer: Any, topic: str, partitions: int) -> None:  # Any: the library has no types
        self.lanes = [Lane(producer, topic, number) for number in range(partitions)]

    def __getitem__(self, partition: int) -> Lane:
        return self.lanes[partition]


_tasks: set[asyncio.Task[None]] = set()


def keep(coroutine: Coroutine[Any, Any, None]) -> None:  # Any: a coroutine's other two types, which nobody uses
    """Run a coroutine in a task that is not forgotten."""
    task = asyncio.get_running_loop().create_task(coroutine)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def open_producer(stack: AsyncExitStack, servers: str) -> Any:  # Any: the library has no types
    """Open a producer."""
    producer = AIOKafkaProducer(
        bootstrap_servers=servers,
        acks="all",
        enable_idempotence=True,
        max_batch_size=BATCH_BYTES,
        max_request_size=8 * BATCH_BYTES,
    )
    await producer.start()
    stack.push_async_callback(producer.stop)
    return producer


async def open_consumer(stack: AsyncExitStack, servers: str, group: str | None) -> Any:  # Any: the library has no types
    """Open a consumer; one without a group begins where it is told to."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=10_000,
        heartbeat_interval_ms=1000,
        max_partition_fetch_bytes=1024 * 1024,
        fetch_max_bytes=16 * 1024 * 1024,
    )
    await consumer.start()
    stack.push_async_callback(consumer.stop)
    _pace(consumer)
    return consumer


def _pace(consumer: Any) -> None:  # Any: the library has no types
    """Pause between empty fetches that are answered at once, as the embedded broker does: thousands a second would take a core."""
    fetcher = consumer._fetcher
    fetch: Callable[..., Awaitable[bool]] = fetcher._proc_fetch_request
    empty = 0

    async def paced(*arguments: object) -> bool:
        nonlocal empty
        began = time.monotonic()
        has_data = await fetch(*arguments)
        if has_data or time.monotonic() - began > 0.01:
            empty = 0
        else:
            empty += 1
            await asyncio.sleep(min(0.02, 0.0005 * 2 ** min(10, empty // 4)))
        return has_data

    fetcher._proc_fetch_request = paced


class Open:
    """A record in hand: done when it is handled and, where it is answered, when the answer is stored."""

    __slots__ = ("is_done", "offset")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.is_done = False

    def finish(self) -> None:
        """Note that it is done."""
        self.is_done = True


class Watermarks(ConsumerRebalanceListener):  # type: ignore[misc]  # the library has no types
    """The offsets to commit of one consumer."""

    def __init__(self, consumer: Any) -> None:  # Any: the library has no types
        self._consumer = consumer
        self._open: dict[TopicPartition, deque[Open]] = {}
        self._next: dict[TopicPartition, int] = {}

    def of(self, partition: TopicPartition) -> deque[Open]:
        """Return what is in hand of a partition, in order."""
        return self._open.setdefault(partition, deque())

    async def commit_regularly(self) -> None:
        """Commit every half second."""
        while True:
            await asyncio.sleep(COMMIT_S)
            await self.commit()

    async def commit(self) -> None:
        """Commit the lowest unfinished offset of each partition where it has risen."""
        risen: dict[TopicPartition, int] = {}
        for partition, open_ in self._open.items():
            while open_ and open_[0].is_done:
                risen[partition] = open_.popleft().offset + 1
        if risen:
            await self._consumer.commit(risen)

    async def on_partitions_revoked(self, revoked: object) -> None:
        """Commit what is done; the rest comes again."""
        await self.commit()
        self._open.clear()

    async def on_partitions_assigned(self, assigned: object) -> None:
        """Begin."""


class Times:
    """The header `ce_time`, made once per millisecond."""

    def __init__(self) -> None:
        self._at = 0.0
        self._text = b""

    def now(self) -> bytes:
        """Return the time of day."""
        at = time.time()
        if at - self._at >= 0.001:
            text = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
            self._at, self._text = at, text.replace("+00:00", "Z").encode()
        return self._text


def new_ids() -> Callable[[], str]:
    """Return what makes ids: a prefix that no other process has, and a counter."""
    prefix, following = f"{SystemRandom().getrandbits(60):015x}", itertools.count(1).__next__
    return lambda: f"{prefix}-{following():x}"


def run(
    roles: dict[str, Callable[[str, str], Coroutine[Any, Any, None]]], arguments: Sequence[str]
) -> None:  # Any: as above
    """Run a floor: its role, the broker, the prefix of its topics."""
    role, servers, prefix = arguments
    uvloop.run(roles[role](servers, prefix))
