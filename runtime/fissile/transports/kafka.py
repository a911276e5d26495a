"""The transport `kafka://host:port`: a client of Kafka, on aiokafka.

What it promises is in `fissile/abc.py`. aiokafka is asyncio-only: on Trio it runs in a thread of its own, which nobody outside these
files notices. "Home" is the runtime's loop, "the loop" is aiokafka's (`_kafka_bridge.py`); each object of the other files belongs to
one of the two, and says so.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Self

import anyio
from attrs import define, evolve, field

from fissile._clock import Clock
from fissile._errors import CallError, DeadlineExceeded, MessageTooLarge, Overloaded, TransportClosed, Unavailable
from fissile._parking import Parked, parking
from fissile._partitioner import partition_of
from fissile._settings import Settings
from fissile.abc import Member, Outgoing, Partition, Reader, Start, Stored, TopicSpec, Transport, no_key
from fissile.transports._inbox import RECORD_BYTES, Inbox
from fissile.transports._kafka_bridge import Bridge, open_bridge
from fissile.transports._kafka_consumer import Consumer
from fissile.transports._kafka_direct import DirectSource, KafkaReader
from fissile.transports._kafka_group import GroupSource, KafkaMember
from fissile.transports._kafka_lanes import Append, Lanes, Part, Several, Single
from fissile.transports._kafka_library import Clients, library, patiently, security_context
from fissile.transports._kafka_options import Options, options_of
from fissile.transports._kafka_probe import Probe
from fissile.transports._kafka_producer import Producers
from fissile.transports._kafka_source import Source
from fissile.transports._kafka_topics import ensure, find

_logger = logging.getLogger("fissile.kafka")

_LEAVE_S = 5.0
"""How long a transport that is left waits at most for what is being stored, in seconds: a process has to end in time."""


@define(eq=False)
class KafkaTransport(Transport):
    """A client of Kafka."""

    options: Options

    durable = True
    shared = True

    _bridge: Bridge = field(init=False, repr=False)
    _context: ssl.SSLContext | None = field(init=False, repr=False)
    _clients: Clients = field(init=False, repr=False)
    _producers: Producers = field(init=False, repr=False)
    _lanes: Lanes = field(init=False, repr=False)
    _submit: Callable[[Append], None] = field(init=False, repr=False)
    _probe: Probe = field(init=False, repr=False)
    _park: Callable[[], Parked] = field(init=False, repr=False)
    _topics: dict[str, int] = field(factory=dict[str, int], init=False, repr=False)
    _compacted: set[str] = field(factory=set[str], init=False, repr=False)
    _open: set[Append] = field(factory=set[Append], init=False, repr=False)
    _open_bytes: int = field(default=0, init=False, repr=False)
    _all_told: anyio.Event | None = field(default=None, init=False, repr=False)
    _inboxes: dict[Inbox, Sequence[Source]] = field(factory=dict[Inbox, "Sequence[Source]"], init=False, repr=False)
    _is_closed: bool = field(default=True, init=False, repr=False)
    _next: Callable[[], int] = field(factory=lambda: count().__next__, init=False, repr=False)

    # --- the life ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        library()
        self.options = evolve(self.options, client_id=self.client)
        self._context = security_context(self.options)
        self._park = parking()
        self._clients = Clients()
        self._bridge = open_bridge()
        await self._bridge.start(self._died, self._clients.close)
        try:
            await self._bridge.call(self._connect)
        except BaseException:
            with anyio.CancelScope(shield=True), suppress(Unavailable):
                await self._bridge.call(self._clients.close)
            await self._bridge.stop()
            raise
        self._is_closed = False
        return self

    async def _connect(self) -> None:
        self._producers = Producers(self.options, self._context, self._clients)
        self._lanes = Lanes(self._bridge, self._producers, self.options, self._finish)
        self._submit = self._lanes.submit
        if self._bridge.is_apart:  # else there is nothing to cross
            self._submit = lambda append: self._bridge.to_loop(self._lanes.submit, append)
        self._probe = Probe(self.options, self._context, self._clients)
        try:
            await self._producers.get()
        except Unavailable as error:
            problem = None if self.options.tokens is None else self.options.tokens.problem
            raise error if problem is None else Unavailable(f"{error} {problem}") from None
        self._probe.start(self._bridge)

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_closed = True
        with anyio.CancelScope(shield=True):
            if not self._bridge.is_dead:
                with anyio.move_on_after(min(self.options.append_s, _LEAVE_S)):
                    await self._until_told()
                try:
                    await self._bridge.call(self._disconnect)
                except Unavailable as error:
                    _logger.warning("Kafka was not left in good order: %s", error)
                with anyio.move_on_after(1.0):
                    await self._until_told()  # what was given up is on its way home
            await self._bridge.stop()
            for append in tuple(self._open):
                self._finish_as_lost(append)

    async def _until_told(self) -> None:
        if self._open:
            self._all_told = anyio.Event()
            await self._all_told.wait()

    async def _disconnect(self) -> None:
        await self._probe.stop()
        await self._lanes.stop()
        await self._producers.stop()
        await self._clients.close()

    def _died(self) -> None:
        """The thread has ended: nobody may wait for it any longer."""
        for append in tuple(self._open):
            self._finish_as_lost(append)
        for inbox in tuple(self._inboxes):
            inbox.fail(Unavailable(f"{inbox.name} has failed: the Kafka thread has ended."), at_once=True)

    def check(self) -> str | None:
        if self._is_closed:
            return "It is not connected to Kafka."
        if self._bridge.is_dead:
            return "The Kafka thread has ended; the process has to be started again."
        found = [self._probe.trouble(), None if self.options.tokens is None else self.options.tokens.problem]
        trouble = self._lanes.trouble()
        if trouble is not None:
            found.append(f"The last message could not be stored: {trouble}")
        for sources in self._inboxes.values():
            for source in sources:
                found += source.damages()
        return " ".join(text for text in found if text is not None) or None

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        self._refuse_if_closed()
        await self._bridge.call(self._ensure, topics)
        self._topics.update({spec.name: spec.partitions for spec in topics})
        self._compacted.update(spec.name for spec in topics if spec.is_compacted)

    async def _know(self, topics: Collection[str]) -> None:
        """Look for topics that this process has not made or checked itself."""
        unknown = tuple(topic for topic in topics if topic not in self._topics)
        if unknown:
            self._topics.update(await self._bridge.call(self._find, unknown))

    async def _find(self, topics: Collection[str]) -> dict[str, int]:
        return await patiently(
            2 * self.options.request_s,
            "Topics cannot be found",
            lambda: find(topics, self.options, self._context, self._clients),
        )

    async def _ensure(self, topics: Sequence[TopicSpec]) -> None:
        # Making a topic, and waiting for its leaders, is several requests.
        await patiently(
            3 * self.options.request_s,
            "Topics cannot be made",
            lambda: ensure(topics, self.options, self._context, self._clients),
        )

    def _refuse_if_closed(self) -> None:
        if self._is_closed:
            raise TransportClosed("The connection to Kafka is closed.")
        if self._bridge.is_dead:
            raise Unavailable("The Kafka thread of this process has ended.")

    # --- storing -----------------------------------------------------------------------------------------------------

    def append_nowait(self, records: Sequence[Outgoing], done: Callable[[Stored | CallError], None]) -> None:
        if self._is_closed or self._bridge.is_dead:
            self._refuse_if_closed()
        append: Append
        if len(records) == 1:
            record = records[0]
            partition = record.partition
            if partition is None or not 0 <= partition < self._topics.get(record.topic, 0):
                partition = self._partition_for(record)
            append = Single(done, self._size_of(record), None, None, record, partition)
        else:
            append = self._several(records, done)
        if self._open_bytes + append.size_bytes > self.options.buffer_bytes and self._open:
            raise Overloaded(
                f"{self._open_bytes} bytes wait to be stored in Kafka (setting FISSILE_KAFKA_BUFFER_BYTES)."
            )
        self._open.add(append)
        self._open_bytes += append.size_bytes
        self._submit(append)

    def _several(self, records: Sequence[Outgoing], done: Callable[[Stored | CallError], None]) -> Several:
        append = Several(done, 0, None, None, [], [(0, 0)] * len(records), len(records))
        anywhere = self._next()  # one partition for all of a call that may be in any: fewer batches
        size_bytes = 0
        for number, record in enumerate(records):
            size_bytes += self._size_of(record)
            append.parts.append(Part(record, self._partition_for(record, anywhere), append, number))
        append.size_bytes = size_bytes
        return append

    def _partition_for(self, record: Outgoing, anywhere: int | None = None) -> int:
        partition, counted = record.partition, self._topics.get(record.topic) or self._partitions_of(record.topic)
        if partition is not None:
            if not 0 <= partition < counted:
                raise Unavailable(f"The topic {record.topic} has no partition {partition}.")
            return partition
        if record.key is not None:
            return partition_of(record.key, counted)
        if record.topic in self._compacted:
            # Kafka would refuse the whole batch, with the records of others in it.
            raise no_key(record.topic)
        return (self._next() if anywhere is None else anywhere) % counted

    def _size_of(self, record: Outgoing) -> int:
        size = record.size_bytes()
        if size > self.options.max_record_bytes:
            raise MessageTooLarge(record.topic, size, self.options.max_record_bytes)
        return size + RECORD_BYTES

    def _partitions_of(self, topic: str) -> int:
        try:
            return self._topics[topic]
        except KeyError:
            raise Unavailable(f"The log has no topic {topic}. Topics are made when the application starts.") from None

    def _finish(self, told: Sequence[Append]) -> None:
        for append in told:
            if append not in self._open:
                continue
            self._open.discard(append)
            self._open_bytes -= append.size_bytes
            assert append.result is not None, append
            try:
                append.done(append.result)
            except Exception:
                _logger.exception("what was to be told of a stored message has failed")
        if not self._open and self._all_told is not None:
            self._all_told.set()

    def _finish_as_lost(self, append: Append) -> None:
        append.result = _lost(append)
        self._finish([append])

    async def append(self, records: Sequence[Outgoing]) -> Stored:
        self._refuse_if_closed()
        await self._know({record.topic for record in records})
        parked = self._park()
        self.append_nowait(records, parked.set)
        outcome: Stored | CallError = await parked.wait()
        if isinstance(outcome, CallError):
            raise outcome
        return outcome

    # --- reading -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def join(self, group: str, topics: Mapping[str, Start], *, batch: int = 500) -> AsyncGenerator[Member]:
        self._refuse_if_closed()
        await self._know(topics)
        for topic in topics:
            self._partitions_of(topic)
        sources: list[GroupSource] = []
        inbox = self._inbox(f"The member of {group}", batch, sources)

        async def start() -> None:
            consumer = Consumer(self.options, self._context, self._clients, self.options.prefix + group)
            sources.append(GroupSource(self._bridge, inbox, consumer, self._names(topics), self.options, dict(topics)))
            await sources[0].start()

        async with self._reading(inbox, sources):
            await self._bridge.call(start)
            yield KafkaMember(self._bridge, inbox, sources[0])

    @asynccontextmanager
    async def read(
        self, partitions: Sequence[Partition], start: Start | Mapping[Partition, int], *, batch: int = 500
    ) -> AsyncGenerator[Reader]:
        self._refuse_if_closed()
        await self._know({topic for topic, _ in partitions})
        for topic, number in partitions:
            if not 0 <= number < self._partitions_of(topic):
                raise Unavailable(f"The topic {topic} has no partition {number}.")
        sources: list[DirectSource] = []
        inbox = self._inbox("The reader of " + ", ".join(sorted({topic for topic, _ in partitions})), batch, sources)

        async def begin() -> tuple[dict[Partition, int], dict[Partition, int]]:
            consumer = Consumer(self.options, self._context, self._clients, None)
            names = self._names({topic for topic, _ in partitions})
            sources.append(DirectSource(self._bridge, inbox, consumer, names, self.options))
            return await sources[0].start(partitions, start)

        async with self._reading(inbox, sources):
            begins, ends = await self._bridge.call(begin)
            yield KafkaReader(inbox, sources[0], begins, ends)

    def _names(self, topics: Mapping[str, Start] | set[str]) -> dict[str, str]:
        return {self.options.prefix + topic: topic for topic in topics}

    def _inbox(self, name: str, batch: int, sources: Sequence[Source]) -> Inbox:
        def make_room(taken_bytes: int) -> None:
            self._bridge.to_loop(sources[0].make_room, taken_bytes)

        return Inbox(name, batch, make_room)

    @asynccontextmanager
    async def _reading(self, inbox: Inbox, sources: Sequence[Source]) -> AsyncGenerator[None]:
        self._inboxes[inbox] = sources
        try:
            yield
        finally:
            self._inboxes.pop(inbox, None)
            inbox.close()
            with anyio.CancelScope(shield=True):
                for source in sources:
                    try:
                        await self._bridge.call(source.close)
                    except Unavailable as error:
                        _logger.warning("%s was not left in good order: %s", inbox.name, error)


def _lost(append: Append) -> CallError:
    if append.at is None:
        return Unavailable("Kafka was disconnected before it could be sent.")
    return DeadlineExceeded("Kafka was disconnected before it had answered; it may be stored.")


def transport(settings: Settings, clock: Clock) -> KafkaTransport:  # noqa: ARG001 -- Kafka has a clock of its own
    """Make the transport of a `kafka://` URL.

    Raises:
        StartupFailed: The settings have faults.
    """
    return KafkaTransport(options_of(settings))
