"""What reads from Kafka, in the loop: a consumer, a task that moves its records home, and one that watches over both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from operator import itemgetter
from time import monotonic

from fissile._errors import Unavailable
from fissile.abc import Headers, Partition, Record
from fissile.transports._inbox import READ_AHEAD_BYTES, RECORD_BYTES, Chunk, Inbox, Pulse
from fissile.transports._kafka_bridge import Bridge, forget
from fissile.transports._kafka_consumer import Consumer, Raw
from fissile.transports._kafka_damage import Damage
from fissile.transports._kafka_library import kafka_error
from fissile.transports._kafka_options import Options

_logger = logging.getLogger("fissile.kafka")

_POLL_S = 1.0
PULSE_S = 1.0
"""How often a source is looked after, in seconds."""
_CHUNK_RECORDS = 500
"""How many records are moved home at a time. More would be out of the processor's caches by the time home looks at them."""
_AGAIN_S = 10.0
"""After how long a batch that cannot be read is tried again, in seconds: another copy may have become the leader."""
_STOP_S = 5.0
"""How long a consumer may take to leave its group and disconnect, in seconds."""


_value = itemgetter(1)


def _headers(headers: Sequence[tuple[str, bytes | None]]) -> Headers:
    """Return the headers of a record. In Kafka a header may have no value, which other programs make use of; here it is empty then."""
    if all(map(_value, headers)):  # asked so, because comparing each with None takes twice as long
        return tuple(headers)  # type: ignore[arg-type]  # it has been seen that none is None
    return tuple((name, value or b"") for name, value in headers)


class Source:
    """A consumer and its tasks.

    Args:
        bridge: To home.
        inbox: Where records go; it lives at home.
        consumer: The consumer.
        names: The names of topics by their physical names.
        options: Bounds.
    """

    def __init__(
        self, bridge: Bridge, inbox: Inbox, consumer: Consumer, names: Mapping[str, str], options: Options
    ) -> None:
        self.bridge = bridge
        self.inbox = inbox
        self.consumer = consumer
        self.names = names
        self.options = options
        self.is_over = False
        self._pump_task: asyncio.Task[None] | None = None
        self._watch_task: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._ahead_bytes = 0
        self._room = asyncio.Event()
        self._paused: set[Partition] = set()
        self._damaged: dict[Partition, tuple[Damage, float]] = {}
        self._waits_for_room = False
        self._moved_at: dict[Partition, tuple[int, float]] = {}
        self._held_since: float | None = None
        self._settled_at = monotonic()
        self._is_settled = False

    # --- records -----------------------------------------------------------------------------------------------------

    def start_pump(self) -> None:
        """Move records home from now on."""
        self._ahead_bytes = 0
        self._paused.clear()
        self._damaged = {}
        self._held_since = None
        self._moved_at.clear()
        self._is_settled, self._settled_at = True, monotonic()
        self._pump_task = self.bridge.create_task(self._guarded_pump())

    async def stop_pump(self) -> None:
        """Move no more records home."""
        self._is_settled, self._settled_at = False, monotonic()
        task, self._pump_task = self._pump_task, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,), timeout=1.0)
            forget(task)

    async def _guarded_pump(self) -> None:
        try:
            await self._pump()
        except asyncio.CancelledError:
            return
        except Exception as error:  # noqa: BLE001 -- whatever ends it, who waits for records must learn of it
            self.fail(
                error if isinstance(error, self.passed_on) else Unavailable(f"{self.inbox.name} has failed: {error!r}.")
            )

    passed_on: tuple[type[Exception], ...] = (Unavailable,)
    """Errors that `receive` raises as they are."""

    async def _pump(self) -> None:
        while True:
            while self._ahead_bytes >= READ_AHEAD_BYTES:
                self._room.clear()
                self._waits_for_room = True
                await self._room.wait()
            self._waits_for_room = False
            try:
                found = await self.consumer.receive(_CHUNK_RECORDS, _POLL_S)
            except kafka_error() as error:
                await self.on_error(error)
                continue
            self._held_since = monotonic()
            await self.until_owned()
            self._held_since = None
            if found:
                self._send_home(found)
                if sum(map(len, found.values())) >= _CHUNK_RECORDS:
                    # A turn for home: there is more to take, and so nothing else to wait for here.
                    await asyncio.sleep(0)
            for damage in self.consumer.take_damages():
                if not await self._read_all_the_same(damage):
                    self.on_damage(damage)

    async def until_owned(self) -> None:
        """Wait until what has come is certainly for this one."""

    def _send_home(self, found: Mapping[Partition, Sequence[Raw]]) -> None:
        chunks: list[Chunk] = []
        for (physical, number), raws in found.items():
            topic = self.names[physical]
            records = [
                Record(topic, number, raw.offset, raw.key, raw.value or b"", _headers(raw.headers), raw.timestamp)
                for raw in raws
            ]
            cost = len(records) * RECORD_BYTES + sum(len(record.value) for record in records)
            self._ahead_bytes += cost
            end = self.consumer.end((physical, number)) or 0
            chunks.append(Chunk((topic, number), records, cost, max(end, records[-1].offset + 1)))
        self.bridge.to_home(self.inbox.put, chunks)

    async def _read_all_the_same(self, damage: Damage) -> bool:
        """Send home what is in a batch that is whole and that aiokafka cannot read; tell whether that could be."""
        if not damage.is_whole:
            return False
        try:
            raws, end = await self.consumer.reread(damage)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is tried again later, and told until then
            _logger.debug("%s cannot be read another way either: %r", damage, error)
            return False
        topic, number = damage.partition
        partition = (self.names[topic], number)
        _logger.warning(
            "%s: a header of %s[%d] between %d and %d has a name that is no UTF-8; it is read with U+FFFD in it",
            *(self.inbox.name, *partition, damage.offset, end - 1),
        )
        if raws:
            self._send_home({damage.partition: raws})
        self.consumer.seek(damage.partition, end)
        if partition not in self._paused:
            self.consumer.resume([damage.partition])
        return True

    async def on_error(self, error: Exception) -> None:
        """Deal with an error in the middle of reading, or raise it."""
        if getattr(error, "retriable", False) or isinstance(error, kafka_error("NoOffsetForPartitionError")):
            await asyncio.sleep(0.1)  # the latter: set before the position was
            return
        raise error

    def on_damage(self, damage: Damage) -> None:
        """Deal with a batch that cannot be read; its partition is paused."""
        topic, number = damage.partition
        partition = (self.names[topic], number)
        since = monotonic()
        if partition not in self._damaged:
            _logger.error("%s", self.told(damage))
            since -= _AGAIN_S - PULSE_S  # it may have been the network: look again soon
        self._damaged = {**self._damaged, partition: (damage, since)}  # a new dictionary: home looks at it

    def damages(self) -> tuple[str, ...]:
        """Return what cannot be read, and how a person skips it; from home."""
        return tuple(self.told(damage) for damage, _ in self._damaged.values())

    def told(self, damage: Damage) -> str:
        """Return what is told of a batch that cannot be read."""
        topic, number = damage.partition
        end = f", up to {damage.next_offset - 1}" if damage.next_offset > damage.offset + 1 else ""
        return (
            f"{self.inbox.name} cannot read {self.names[topic]}[{number}] at offset {damage.offset}{end}: "
            f"the broker has a damaged batch there ({damage.why})."
        )

    def _try_again(self) -> None:
        """Read on where a batch could not be read a while ago."""
        for partition, (damage, since) in tuple(self._damaged.items()):
            if monotonic() - since > _AGAIN_S and partition not in self._paused:
                self._damaged = {**self._damaged, partition: (damage, monotonic())}
                self.consumer.resume([damage.partition])

    def _forget_damage(self, positions: Mapping[Partition, int]) -> None:
        """Forget batches that could be read after all."""
        self._damaged = {
            partition: found
            for partition, found in self._damaged.items()
            if positions.get(partition, found[0].offset) <= found[0].offset
        }

    def make_room(self, taken_bytes: int) -> None:
        """Learn that home has taken records out."""
        self._ahead_bytes = max(0, self._ahead_bytes - taken_bytes)
        self._room.set()

    # --- the end -----------------------------------------------------------------------------------------------------

    def fail(self, error: Exception) -> None:
        """Tell home that nothing more comes."""
        if not self.is_over:
            self.is_over = True
            _logger.warning("%s", error)
            self.bridge.to_home(self._fail_at_home, error)

    drops_on_failure = True
    """Whether records that were not returned yet are worth nothing then."""

    def _fail_at_home(self, error: Exception) -> None:
        self.inbox.fail(error, at_once=self.drops_on_failure)

    async def close(self) -> None:
        """Leave and disconnect, within a bound."""
        self.is_over = True
        if self._watch_task is not None:
            self._watch_task.cancel()
            await asyncio.wait((self._watch_task,), timeout=1.0)
            forget(self._watch_task)
        await self.stop_pump()
        if self._stopping is None:
            self._stopping = self.bridge.create_task(self.consumer.close(_STOP_S))
        await asyncio.wait((self._stopping,))

    # --- the watch ---------------------------------------------------------------------------------------------------

    def start_watch(self) -> None:
        """Look after it from now on."""
        self._watch_task = self.bridge.create_task(self._watch())

    async def _watch(self) -> None:
        while not self.is_over:
            self.ask_home()
            await asyncio.sleep(PULSE_S)
            absent = self.absent()
            if absent is not None:
                self._give_up(absent)
                return
            self._try_again()
            pulse = await self._pulse()
            self._forget_damage(pulse.positions)
            self.bridge.to_home(self.inbox.pulse, pulse)
            problem = self._stuck(pulse)
            if problem is not None:
                self.fail(Unavailable(f"{self.inbox.name} is stuck and has to be replaced: {problem}."))

    def ask_home(self) -> None:
        """Ping home, where that matters."""

    def absent(self) -> str | None:
        """Tell whether home has been away for so long that it should give up what it holds, and why."""
        return None

    def _give_up(self, why: str) -> None:
        self.fail(Unavailable(f"{self.inbox.name} has given up: {why}."))
        if self._pump_task is not None:
            self._pump_task.cancel()
        self._stopping = self.bridge.create_task(self.consumer.close(_STOP_S))

    async def _pulse(self) -> Pulse:
        positions: dict[Partition, int] = {}
        ends: dict[Partition, int] = {}
        silent_s = 0.0
        if not self._is_settled:
            return Pulse(positions, ends, monotonic() - self._settled_at)
        if self._held_since is not None:  # the consumer's positions are past what home has not got
            return Pulse(positions, ends, monotonic() - self._held_since)
        for physical, number in tuple(self.consumer.assignment()):
            partition = (self.names.get(physical, physical), number)
            try:
                # It is there at once, unless the partition is just being taken.
                async with asyncio.timeout(0.05):
                    position = await self.consumer.position((physical, number))
                end, answered_s = self.consumer.end((physical, number)), self.consumer.answered((physical, number))
            except (AssertionError, TimeoutError, AttributeError, kafka_error()):
                continue
            positions[partition] = position
            if end is not None:
                ends[partition] = end
            if not self._is_held_back(partition) and not self._waits_for_room:
                since_s = monotonic() - self._settled_at
                silent_s = max(silent_s, since_s if answered_s is None else min(answered_s, since_s))
        return Pulse(positions, ends, silent_s)

    def _is_held_back(self, partition: Partition) -> bool:
        return partition in self._paused or partition in self._damaged

    def _stuck(self, pulse: Pulse) -> str | None:
        """Tell why it has to be replaced, or None (aiokafka#1154, #847: it waits for ever, and nothing says so)."""
        problem = self.consumer.problem()
        if problem is not None:
            return problem
        if pulse.silent_s > self.options.stuck_s:
            what = "no answer" if self._is_settled else "no partitions were given out"
            return f"{what} for {pulse.silent_s:.0f} s"
        now = monotonic()
        if self._waits_for_room:
            self._moved_at.clear()
            return None
        for partition, end in pulse.ends.items():
            position = pulse.positions.get(partition, end)
            before, since = self._moved_at.get(partition, (-1, now))
            if position != before or position >= end or self._is_held_back(partition):
                self._moved_at[partition] = (position, now)
            elif now - since > self.options.stuck_s:
                return f"{partition[0]}[{partition[1]}] stands at {position} of {end} for {now - since:.0f} s"
        return None
