"""A member of a consumer group: its side in the loop, which goes through rebalances, and its side at home, which the engine has."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from time import monotonic

import anyio.lowlevel
from attrs import define

from fissile._errors import Unavailable
from fissile.abc import Assigned, Member, Partition, Record, Revoked, Start, Status
from fissile.transports._inbox import Inbox
from fissile.transports._kafka_bridge import Bridge
from fissile.transports._kafka_consumer import Consumer
from fissile.transports._kafka_damage import Damage
from fissile.transports._kafka_library import kafka_error, partition_of, within
from fissile.transports._kafka_options import Options
from fissile.transports._kafka_source import PULSE_S, Source

_logger = logging.getLogger("fissile.kafka")

_generations = itertools.count(1)
"""Numbers of assignments, of all members of the process: two members' assignments must not be taken for each other."""

_COMMIT_S = 5.0
"""How long a commit may take, in seconds; aiokafka would try for ever."""


class GroupSource(Source):
    """A member of a group, in the loop.

    Nothing is committed between the hand-over and the next assignment, nor after the end: what stands in for the group's generation is taken
    away then, and a commit without it is refused before it is sent.
    """

    def __init__(
        self,
        bridge: Bridge,
        inbox: Inbox,
        consumer: Consumer,
        names: Mapping[str, str],
        options: Options,
        topics: Mapping[str, Start],
    ) -> None:
        super().__init__(bridge, inbox, consumer, names, options)
        self._starts = topics
        self._generation: int | None = None
        self._identity: tuple[int, str] = (-1, "")
        self._handed_over: asyncio.Future[None] | None = None
        self._late: tuple[int, float] | None = None
        self._unanswered = 0

    async def start(self) -> None:
        """Connect and begin to join; that does not wait for partitions.

        Raises:
            Unavailable: No broker answers.
        """
        await self.consumer.start()
        # Only now: a start after it would wait for partitions, and so for the other members to hand theirs over.
        self.consumer.subscribe(self.names, self)
        self.start_watch()

    # --- rebalances, called by aiokafka while the group waits --------------------------------------------------------

    async def taken(self) -> None:
        """Tell home, and wait within a bound until it has handed the partitions over."""
        generation = self._generation
        if generation is None or self.is_over:
            return
        partitions = frozenset(self._logical(partition) for partition in self._held)
        await self.stop_pump()
        if self.is_over:  # it is leaving meanwhile: nobody would answer
            return
        self._handed_over = self.bridge.loop.create_future()
        self.bridge.to_home(self.inbox.revoke, Revoked(generation, partitions))
        await asyncio.wait((self._handed_over,), timeout=self.options.revoke_s)
        if not self._handed_over.done():
            _logger.warning("%s did not hand its partitions over within %g s", self.inbox.name, self.options.revoke_s)
            self._late = self._late or (generation, monotonic())
        self._generation = self._handed_over = None

    _held: Collection[Partition] = ()

    async def given(self, partitions: Collection[Partition]) -> None:
        """Find out where to begin, commit where that is new to the group, and tell home."""
        if self.is_over:
            return
        try:
            await self._given(partitions)
        except Exception as error:  # noqa: BLE001 -- aiokafka would log it, and the member wait for ever
            self.fail(
                error if isinstance(error, Unavailable) else Unavailable(f"{self.inbox.name} has failed: {error!r}.")
            )

    async def _given(self, partitions: Collection[Partition]) -> None:
        identity = self.consumer.identity()
        positions: dict[Partition, int] = {}
        ends: dict[Partition, int] = {}
        if partitions:
            # No heartbeat is sent meanwhile.
            positions, ends, fresh = await within(
                self.options.session_s / 2, f"{self.inbox.name} cannot find its positions", self._resolve(partitions)
            )
            for partition, offset in positions.items():
                self.consumer.seek(partition, offset)
            if fresh:
                await within(
                    _COMMIT_S, f"{self.inbox.name} cannot store its positions", self.consumer.commit(identity, fresh)
                )
        self._identity = identity
        self._held = tuple(partitions)
        self._generation = next(_generations)
        told = Assigned(self._generation, {self._logical(partition): offset for partition, offset in positions.items()})
        self.bridge.to_home(self.inbox.assign, told, {self._logical(partition): end for partition, end in ends.items()})
        self.start_pump()  # after it, so that no record can overtake the news

    async def _resolve(
        self, partitions: Collection[Partition]
    ) -> tuple[dict[Partition, int], dict[Partition, int], dict[Partition, int]]:
        """Return where to begin, the ends of the log, and what of the former has to be committed.

        A start is committed at once: "latest" would otherwise mean another place to the next member, and skip what came in between.
        An end that a new leader does not know yet is asked for again (KIP-207), so that what is beyond the end is really lost.
        """
        (begins, ends), committed = await asyncio.gather(
            self.consumer.bounds(partitions), self.consumer.committed(partitions)
        )
        positions: dict[Partition, int] = {}
        fresh: dict[Partition, int] = {}
        for partition in partitions:
            topic, number = self._logical(partition)
            begin, end = begins[partition], ends[partition]
            offset = committed.get(partition)
            if offset is None:
                offset = fresh[partition] = begin if self._starts[topic] == "earliest" else end
            elif not begin <= offset <= end:
                why = "has expired" if offset < begin else "was never reached: the broker has lost records"
                _logger.error("%s: %s[%d] goes on at %d; %d %s", self.inbox.name, topic, number, begin, offset, why)
                offset = fresh[partition] = begin
            positions[partition] = offset
        return positions, ends, fresh

    async def until_owned(self) -> None:
        """Wait until the group has confirmed this member. A process that was frozen past its session is given records as before when it goes on,
        since brokers give them to everybody: they were handled by others meanwhile. If they were, a revocation ends this.
        """
        await self.consumer.until_confirmed()

    def told(self, damage: Damage) -> str:
        """Add how to skip it: what is in it would be lost, so that is for a person to decide. The command wants a group without members."""
        topic, number = damage.partition
        return (
            f"{super().told(damage)} That partition waits and is tried again; the others go on. To give up what is in the batch, "
            f"stop all members of the group and run: kafka-consumer-groups.sh --bootstrap-server {','.join(self.options.servers)} "
            f"--group {self.consumer.group} --topic {topic}:{number} --reset-offsets --to-offset {damage.next_offset} --execute"
        )

    def _logical(self, partition: Partition) -> Partition:
        return self.names[partition[0]], partition[1]

    async def on_error(self, error: Exception) -> None:
        """Go on at the first record kept where the log has been cut under the position."""
        if not isinstance(error, kafka_error("OffsetOutOfRangeError")):
            await super().on_error(error)
            return
        lost: dict[Partition, int] = error.args[0]
        begins, _ = await self.consumer.bounds(list(lost))
        for partition, offset in lost.items():
            topic, number = self._logical(partition)
            _logger.error(
                "%s: %s[%d] goes on at %d; %d has expired", self.inbox.name, topic, number, begins[partition], offset
            )
            self.consumer.seek(partition, begins[partition])

    # --- from home ---------------------------------------------------------------------------------------------------

    def hand_over(self, generation: int) -> None:
        """Learn that home is done with the partitions of a generation."""
        if self._late is not None and self._late[0] == generation:
            self._late = None
        if generation == self._generation:
            self._answer_revocation()

    def _answer_revocation(self) -> None:
        if self._handed_over is not None and not self._handed_over.done():
            self._handed_over.set_result(None)

    # --- the watch over home -----------------------------------------------------------------------------------------

    def ask_home(self) -> None:
        """Ping home. On one loop there is no need: if that is blocked, so are the heartbeats, and the group notices.

        Pings are counted, not the time: if the whole process was stopped, home gets its chance to answer.
        """
        if self.bridge.is_apart:
            self._unanswered += 1
            self.bridge.to_home(self._answer)

    def _answer(self) -> None:
        """At home: answer. (Setting a number needs no crossing.)"""
        self._unanswered = 0

    def absent(self) -> str | None:
        """Tell whether somebody else should have its partitions; heartbeats would go on for ever, and they lie about."""
        session_s = self.options.session_s
        if self._unanswered * PULSE_S >= session_s:
            return f"the event loop of this process was blocked for {session_s:g} s"
        if self._late is not None and monotonic() - self._late[1] > session_s:
            return f"its partitions were not handed over for {session_s + self.options.revoke_s:g} s"
        return None

    # --- from home ---------------------------------------------------------------------------------------------------

    async def commit(self, generation: int, offsets: Mapping[Partition, int]) -> bool:
        """Commit as the member of a generation of ours; False if that is over.

        Raises:
            Unavailable: No answer came in time.
        """
        if self.is_over or generation != self._generation:
            return False
        physical = {
            partition_of(self.options.prefix + topic, number): offset for (topic, number), offset in offsets.items()
        }
        return await within(_COMMIT_S, "Offsets cannot be committed", self._commit(generation, physical))

    async def _commit(self, generation: int, offsets: Mapping[Partition, int]) -> bool:
        while generation == self._generation and not self.is_over:
            try:
                return await self.consumer.commit(self._identity, offsets)
            except kafka_error() as error:
                if not getattr(error, "retriable", False):
                    raise
                await asyncio.sleep(0.1)
        return False

    def pause(self, generation: int | None, partitions: tuple[Partition, ...]) -> None:
        """Fetch no more of some partitions; what was meant for an assignment that is over is forgotten.

        aiokafka drops what it has buffered of them, and reads it again.
        """
        if generation == self._generation and not self.is_over:
            self._paused.update(partitions)
            self.consumer.pause(self._physical(partitions))

    def resume(self, generation: int | None, partitions: tuple[Partition, ...]) -> None:
        """Fetch them again."""
        if generation == self._generation and not self.is_over:
            self._paused.difference_update(partitions)
            self._moved_at.clear()
            self.consumer.resume(self._physical(partitions))

    def _physical(self, partitions: Iterable[Partition]) -> list[Partition]:
        return [partition_of(self.options.prefix + topic, number) for topic, number in partitions]

    async def close(self) -> None:
        """Leave the group: first the commits end, then an open revocation, then the rest."""
        self.is_over = True
        self._generation = None
        self._answer_revocation()
        await super().close()


@define(eq=False)
class KafkaMember(Member):
    """A member of a group, at home."""

    bridge: Bridge
    inbox: Inbox
    source: GroupSource
    refused: int = 0
    _to_hand_over: int | None = None
    _generation: int | None = None

    async def receive(self) -> Sequence[Record] | Assigned | Revoked:
        if self._to_hand_over is not None:
            self.bridge.to_loop(self.source.hand_over, self._to_hand_over)
            self._generation = self._to_hand_over = None
        await self.inbox.checkpoint()
        while True:
            taken = self.inbox.take()
            if taken is not None:
                if isinstance(taken, Assigned):
                    self._generation = taken.generation
                elif isinstance(taken, Revoked):
                    self._to_hand_over = taken.generation
                return taken
            await self.inbox.wait()

    async def commit(self, generation: int, offsets: Mapping[Partition, int]) -> bool:
        if self.inbox.is_closed or generation != self._generation:
            await anyio.lowlevel.checkpoint()
            stored = False
        else:
            stored = await self.bridge.call(self.source.commit, generation, dict(offsets))
        self.refused += not stored
        return stored

    def pause(self, partitions: Iterable[Partition]) -> None:
        paused = tuple(partitions)
        self.inbox.pause(paused)
        self.bridge.to_loop(self.source.pause, self._generation, paused)

    def resume(self, partitions: Iterable[Partition]) -> None:
        resumed = tuple(partitions)
        self.inbox.resume(resumed)
        self.bridge.to_loop(self.source.resume, self._generation, resumed)

    def status(self) -> Status:
        return self.inbox.status(self.refused)
