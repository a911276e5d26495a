"""The producers: idempotent, acks=all, one at a time; a broken one is replaced by the next."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from fissile.transports._kafka_bridge import forget, result_of
from fissile.transports._kafka_library import Clients, disconnect, kafka_error, library, within
from fissile.transports._kafka_options import BATCH_BYTES, Options, milliseconds

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


_ANSWER_S = 5.0
"""After how long without an answer to a batch it is sent again over a new connection, in seconds."""


class Batch:
    """A batch of records of one partition.

    Attributes:
        add: Takes the number of a record in the batch, its timestamp in milliseconds, key, value and headers, which have to be a list; returns
            None if there is no room for it. It is aiokafka's builder itself, since what stands around it takes as long again.
    """

    __slots__ = ("add", "raw")

    def __init__(self, raw: Any) -> None:  # Any: the library has no types
        self.raw = raw
        self.add: Callable[[int, int, bytes | None, bytes | None, list[tuple[str, bytes]]], object] = (
            raw._builder.append
        )

    def close(self, count: int) -> None:
        """Let nobody add to it; it has so many records."""
        self.raw._relative_offset = count
        self.raw.close()


class Place(Protocol):
    """Where a batch was stored."""

    offset: int


class Producer:
    """A producer of aiokafka.

    Attributes:
        is_broken: Whether it has failed a batch. Its numbers of that partition then have a gap, and the broker refuses all that follows
            (`OutOfOrderSequenceNumber`); Java's client begins a new epoch then, aiokafka does not. So it is not used again.
        under_way: How many batches it has in hand.
    """

    def __init__(self, options: Options, context: ssl.SSLContext | None, clients: Clients) -> None:
        self._clients = clients
        self.is_broken = False
        self.under_way = 0
        arguments = options.client()
        # An answer that does not come is asked for again over a new connection within the deadline of the append.
        arguments["request_timeout_ms"] = milliseconds(min(options.append_s, _ANSWER_S))
        self._raw: Any = library().AIOKafkaProducer(  # Any: the library has no types
            **arguments,
            ssl_context=context,
            acks="all",
            enable_idempotence=True,
            max_batch_size=BATCH_BYTES,
            max_request_size=max(2 * BATCH_BYTES, options.max_record_bytes + BATCH_BYTES),
        )
        self._options = options

    @property
    def network(self) -> Any:  # Any: the library has no types
        """What of aiokafka has its connections to brokers."""
        return self._raw.client

    async def start(self) -> None:
        """Connect, and get a producer id.

        Raises:
            Unavailable: No broker answers.
        """
        await self._clients.start(self, self._options.append_s, self._raw.start())

    @property
    def is_usable(self) -> bool:
        """Whether it can still store anything: an error in its sender task fails everything from then on (aiokafka#907, #974)."""
        task: asyncio.Task[None] | None = self._raw._sender.sender_task
        return not self.is_broken and task is not None and not task.done()

    def new_batch(self) -> Batch:
        """Make an empty batch."""
        return Batch(self._raw.create_batch())

    async def submit(self, batch: Batch, topic: str, partition: int) -> asyncio.Future[Place]:
        """Hand a batch over; the answer is a future, which must not be cancelled."""
        future: asyncio.Future[Place] = await self._raw.send_batch(batch.raw, topic, partition=partition)
        return future

    async def stop(self, seconds: float) -> None:
        """Disconnect, within a bound. What is not stored by then may still be, or never. Raises nothing.

        aiokafka's own `stop` of an idempotent producer waits for ever where the broker is away (#1101).
        """
        try:
            await within(seconds, "The producer does not stop", self._raw.stop())
        except Exception:  # noqa: BLE001 -- whatever it was, the next step does not depend on it
            self._raw._closed = True
            sender: asyncio.Task[None] | None = self._raw._sender.sender_task
            if sender is not None:
                sender.cancel()
            await disconnect(self._raw.client)
            if sender is not None:
                await asyncio.wait((sender,), timeout=1.0)
                forget(sender)


class Producers:
    """The producer of the moment.

    Args:
        options: What producers are made with.
        context: The TLS context.
        clients: Where they are known while they are open.

    Attributes:
        replaced: How often one was replaced.
    """

    def __init__(self, options: Options, context: ssl.SSLContext | None, clients: Clients) -> None:
        self._options = options
        self._context = context
        self._clients = clients
        self._current: Producer | None = None
        self._making: asyncio.Task[Producer] | None = None
        self.replaced = 0

    def current(self) -> Producer | None:
        """Return the producer if it can be used."""
        producer = self._current
        return producer if producer is not None and producer.is_usable else None

    async def get(self) -> Producer:
        """Return a producer that can be used; make one if there is none. All who ask meanwhile wait for the same try.

        Raises:
            Unavailable: No broker answers.
        """
        producer = self.current()
        if producer is not None:
            return producer
        if self._making is None:
            self._making = asyncio.get_running_loop().create_task(self._make())
        making = self._making
        await asyncio.wait((making,))
        return result_of(making)

    async def _make(self) -> Producer:
        try:
            old, self._current = self._current, None
            if old is not None:
                self.replaced += 1
                self._clients.in_background(self._retire(old))
            producer = Producer(self._options, self._context, self._clients)
            await producer.start()
            self._current = producer
            return producer
        finally:
            self._making = None

    async def _retire(self, producer: Producer) -> None:
        """Let a producer finish what other partitions have given it, then stop it."""
        try:
            async with asyncio.timeout(self._options.append_s):
                while producer.under_way:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pass
        finally:
            await self._clients.stop(producer, 1.0)

    async def stop(self) -> None:
        """Disconnect, within a bound."""
        making = self._making
        if making is not None:
            making.cancel()
            await asyncio.wait((making,), timeout=1.0)
            forget(making)
        producer, self._current = self._current, None
        if producer is not None:
            await self._clients.stop(producer, 1.0)


def is_refusal(error: BaseException) -> bool:
    """Tell whether an error of a batch means that the broker has not stored it. (What is tried again is stored once: it has a number.)"""
    names = (
        "TopicAuthorizationFailedError",
        "ClusterAuthorizationFailedError",
        "InvalidTopicError",
        "RecordListTooLargeError",
        "MessageSizeTooLargeError",
        "InvalidTimestampError",
        "PolicyViolationError",
        "UnsupportedForMessageFormatError",
    )
    return isinstance(error, tuple(kafka_error(name) for name in names))


def is_too_large(error: BaseException) -> bool:
    """Tell whether the broker found a record too large."""
    return isinstance(error, (kafka_error("MessageSizeTooLargeError"), kafka_error("RecordListTooLargeError")))
