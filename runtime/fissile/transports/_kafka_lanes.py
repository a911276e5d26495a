"""The sending: a lane per partition, in the loop. A lane has one batch under way; what comes meanwhile makes the next one.

So nothing lingers, batches grow with the load, and order is kept. What has not been handed to the producer is certainly not stored; so a lane
hands over nothing while it does not know what became of its last batch (an idempotent producer of aiokafka tries for ever).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import msgspec

from fissile._errors import CallError, DeadlineExceeded, MessageTooLarge, Unavailable
from fissile.abc import Outgoing, Stored
from fissile.transports._kafka_bridge import Bridge, forget
from fissile.transports._kafka_library import kafka_error
from fissile.transports._kafka_options import Options
from fissile.transports._kafka_producer import Batch, Place, Producer, Producers, is_refusal, is_too_large
from fissile.transports._kafka_reasons import reason

_TROUBLE_S = 10.0
"""How long a failure to store something is told, in seconds."""


class Append(msgspec.Struct, eq=False):
    """One call of `append_nowait`.

    Attributes:
        done: Who is told.
        size_bytes: What the records take in the buffer.
        at: When it reached the loop, on its clock; None before.
        result: What `done` is told, once that is known.
    """

    done: Callable[[Stored | CallError], None]
    size_bytes: int
    at: float | None
    result: Stored | CallError | None


class Single(Append):
    """An append of one record, as most are. It stands in its lane itself: there is one per request and one per reply.

    Attributes:
        record: The record.
        partition: Its partition.
    """

    record: Outgoing
    partition: int

    whole: ClassVar[None] = None

    def since(self) -> float:
        """Return since when it is in its lane."""
        return self.at or 0.0


class Several(Append):
    """An append of several records, or of none.

    Attributes:
        parts: Its records, until they are in their lanes.
        places: The partition and the offset of each, once they are known.
        left: Of how many it is not known yet what became of them.
        failure: Why a record of it is not stored, or may not be: then none that follows it in its partition is to be.
    """

    parts: list[Part]
    places: list[tuple[int, int]]
    left: int
    failure: CallError | None = None
    _is_unknown: bool = False

    def stored(self, part: Part, offset: int) -> bool:
        """Note where a record is; tell whether that was the last to be known of."""
        self.places[part.number] = (part.partition, offset)
        self._is_unknown = True  # if another of them fails
        self.left -= 1
        return not self.left

    def failed(self, error: CallError) -> bool:
        """Note why a record is not stored, or may not be; tell whether that was the last to be known of."""
        self._is_unknown = self._is_unknown or isinstance(error, DeadlineExceeded)
        self.failure = self.failure or error
        self.left -= 1
        return not self.left

    def outcome(self) -> Stored | CallError:
        """Return what `done` is told: "not stored" only if none is."""
        if self.failure is None:
            return self.places
        if self._is_unknown and not isinstance(self.failure, DeadlineExceeded):
            return DeadlineExceeded(f"Some of the records may be stored. {self.failure}")
        return self.failure


class Part(msgspec.Struct, eq=False):
    """One record of several.

    Attributes:
        record: The record.
        partition: Its partition.
        whole: The append that it is of.
        number: Its place there.
    """

    record: Outgoing
    partition: int
    whole: Several
    number: int

    def since(self) -> float:
        """Return since when it is in its lane."""
        return self.whole.at or 0.0


Entry = Single | Part
"""A record in a lane."""


class Lane:
    """The way into one partition.

    Attributes:
        topic: Its physical topic.
        partition: Its number.
        queue: What waits for the next batch.
        is_running: Whether a task empties it.
        doubtful: The batch of which it is not known whether it is stored.
    """

    __slots__ = ("doubtful", "is_running", "partition", "queue", "topic")

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.queue: deque[Entry] = deque()
        self.is_running = False
        self.doubtful: asyncio.Future[Place] | None = None


class Lanes:
    """All lanes of a process.

    Args:
        bridge: To home.
        producers: Who sends.
        options: Bounds.
        finish: Called at home with appends whose results are known.
    """

    def __init__(
        self,
        bridge: Bridge,
        producers: Producers,
        options: Options,
        finish: Callable[[Sequence[Append]], None],
    ) -> None:
        self._trouble: tuple[str, float] | None = None
        self._bridge = bridge
        self._producers = producers
        self._options = options
        self._finish = finish
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopped = False

    def submit(self, append: Append) -> None:
        """Put the records of an append into their lanes."""
        append.at = self._bridge.loop.time()
        if isinstance(append, Single):
            self._put(append)
            return
        assert isinstance(append, Several), append
        parts, append.parts = (
            append.parts,
            [],
        )  # each knows its append: no circle of them is left to the garbage collector
        if not parts:
            append.result = ()
            self._bridge.loop.call_soon(self._bridge.to_home, self._finish, [append])
        for part in parts:
            self._put(part)

    def _put(self, entry: Entry) -> None:
        place = (entry.record.topic, entry.partition)
        lane = self._lanes.get(place)
        if lane is None:
            lane = self._lanes[place] = Lane(self._options.prefix + place[0], place[1])
        if self._is_stopped:
            self._bridge.loop.call_soon(self._fail, [entry], Unavailable("Kafka is being disconnected."))
            return
        lane.queue.append(entry)
        if not lane.is_running:
            lane.is_running = True
            task = self._bridge.create_task(self._run(lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def trouble(self) -> str | None:
        """Return what went wrong last, if it was a short while ago and nothing was stored since; from home.

        It is forgotten after a while: a process that is not ready gets nothing to do, and so would never find out that all is well again.
        """
        trouble = self._trouble
        return trouble[0] if trouble is not None and time.monotonic() - trouble[1] < _TROUBLE_S else None

    async def stop(self) -> None:
        """Give up what is not stored yet."""
        self._is_stopped = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        for task in tasks:
            forget(task)
        for lane in self._lanes.values():
            entries, lane.queue = list(lane.queue), deque()
            self._fail(entries, Unavailable("Kafka was disconnected before they could be sent."))

    async def _run(self, lane: Lane) -> None:
        try:
            while lane.queue:
                if lane.doubtful is not None:
                    await self._settle_doubt(lane)
                else:
                    await self._send_next(lane)
        finally:
            lane.is_running = False

    async def _settle_doubt(self, lane: Lane) -> None:
        """Wait for news of the last batch; what waits too long meanwhile is certainly not stored."""
        assert lane.doubtful is not None
        remaining_s = lane.queue[0].since() + self._options.append_s - self._bridge.loop.time()
        if remaining_s > 0:
            await asyncio.wait((lane.doubtful,), timeout=remaining_s)
        if lane.doubtful.done():
            lane.doubtful = None
            return
        limit = self._bridge.loop.time() - self._options.append_s
        expired: list[Entry] = []
        while lane.queue and lane.queue[0].since() <= limit:
            expired.append(lane.queue.popleft())
        self._fail(expired, Unavailable(f"Kafka has not answered for {self._options.append_s:g} s."))

    async def _send_next(self, lane: Lane) -> None:
        entries: list[Entry] = []
        skipped: list[Entry] = []
        try:
            producer = self._producers.current() or await self._producers.get()
            batch = self._fill(producer, lane, entries, skipped)
            if skipped:
                self._fail(skipped, Unavailable("One before it in the same append was not stored."))
            if not entries:
                return
            async with asyncio.timeout(self._options.append_s):
                future = await producer.submit(batch, lane.topic, lane.partition)
        except (TimeoutError, Unavailable, kafka_error()) as error:
            # None of it is on its way, nor what came meanwhile: that would have to wait as long, to be told the same.
            entries += lane.queue
            lane.queue.clear()
            why = error if isinstance(error, Unavailable) else Unavailable(f"Kafka cannot be reached: {reason(error)}.")
            self._fail(entries, why)
            return
        except asyncio.CancelledError:
            self._fail(entries, Unavailable("Kafka was disconnected before they could be sent."))
            raise
        producer.under_way += 1
        future.add_done_callback(lambda answer: _answered(producer, answer))
        try:
            await _settled(future, self._options.append_s)
        except asyncio.CancelledError:
            self._fail(entries, DeadlineExceeded("Kafka was disconnected before it had answered."))
            raise
        if not future.done():
            lane.doubtful = future
            self._fail(
                entries,
                DeadlineExceeded(f"Kafka has not answered within {self._options.append_s:g} s; it may be stored."),
            )
        elif future.cancelled():
            self._fail(entries, DeadlineExceeded("Kafka was disconnected before it had answered."))
        elif (failure := future.exception()) is not None:
            self._fail(entries, _told(failure, entries, self._options))
        else:
            self._stored(entries, future.result().offset)

    @staticmethod
    def _fill(producer: Producer, lane: Lane, entries: list[Entry], skipped: list[Entry]) -> Batch:
        batch = producer.new_batch()
        add, queue = batch.add, lane.queue
        now_ms = int(
            time.time() * 1000
        )  # of the machine, whatever clock a test owns: Kafka expires records by it, and refuses future ones
        while queue:
            entry = queue[0]
            whole, record = entry.whole, entry.record
            if whole is not None and whole.failure is not None:
                skipped.append(queue.popleft())
                continue
            if add(len(entries), now_ms, record.key, record.value, list(record.headers)) is None:
                break
            entries.append(queue.popleft())
        batch.close(len(entries))
        return batch

    def _stored(self, entries: list[Entry], first: int) -> None:
        self._trouble = None
        told: list[Append] = []
        # -1: the broker knows that it has stored the batch before, and no longer where (DuplicateSequenceNumber).
        offset, step = (first, 1) if first >= 0 else (-1, 0)
        for entry in entries:
            if isinstance(entry, Single):
                entry.result = ((entry.partition, offset),)
                told.append(entry)
            elif entry.whole.stored(entry, offset):
                entry.whole.result = entry.whole.outcome()
                told.append(entry.whole)
            offset += step
        self._bridge.to_home(self._finish, told)

    def _fail(self, entries: Iterable[Entry], error: CallError) -> None:
        told: list[Append] = []
        for entry in entries:
            self._trouble = (str(error), time.monotonic())
            if isinstance(entry, Single):
                entry.result = error
                told.append(entry)
            elif entry.whole.failed(error):
                entry.whole.result = entry.whole.outcome()
                told.append(entry.whole)
        self._bridge.to_home(self._finish, told)


async def _settled(future: asyncio.Future[Place], seconds: float) -> None:
    """Wait for a future within a bound, and leave it as it is. `asyncio.wait` does that too, and takes three times as long."""
    if future.done():
        return
    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[None] = loop.create_future()

    def wake(_: object = None) -> None:
        if not waiter.done():
            waiter.set_result(None)

    timer = loop.call_later(seconds, wake)
    future.add_done_callback(wake)
    try:
        await waiter
    finally:
        timer.cancel()
        future.remove_done_callback(wake)


def _answered(producer: Producer, future: asyncio.Future[Place]) -> None:
    producer.under_way -= 1
    if not future.cancelled() and future.exception() is not None:
        producer.is_broken = True


def _told(failure: BaseException, entries: list[Entry], options: Options) -> CallError:
    """Return what is told of a batch that the broker or the producer has failed."""
    if is_too_large(failure) and len(entries) == 1:
        record = entries[0].record
        return MessageTooLarge(record.topic, len(record.value or b""), options.max_record_bytes)
    if is_refusal(failure):
        return Unavailable(f"Kafka refuses the records: {failure!r}.")
    return DeadlineExceeded(f"Kafka's client has failed: {failure!r}; the records may be stored.")
