"""What an extender implements: a transport, which carries records and keeps logs.

One delivery engine above all transports does the rest: order per key, windows, retries, dead letters, offsets. A transport knows none of it.
`tests/conformance/` holds each transport to this contract, which was found by implementing it for memory and for Kafka, on asyncio and on
Trio, before anything was built on it.

All of it is called from, and calls back into, the runtime's own event loop, wherever the transport does its work. Offsets only grow, with
gaps; an offset given to `commit` or `read` is the *next one to read*. What is not `async` returns at once and does no I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Self

import msgspec

from fissile._errors import CallError, InvalidMessage

Headers = tuple[tuple[str, bytes], ...]
Partition = tuple[str, int]
Start = Literal["earliest", "latest"]


class TopicSpec(msgspec.Struct, frozen=True):
    """A topic that has to exist.

    Attributes:
        name: Its name in the log.
        partitions: How many partitions it has; a different number in the log is refused.
        retention_s: How long a record is kept, in seconds; of a compacted topic, how long one without a value is, after which its key is
            forgotten.
        is_compacted: Whether the last record of each key is kept for ever, and older ones of the key may go; records without a key are not
            taken.
        is_stamped_by_log: Whether the time of a record has to be when the log has stored it, whatever the clock of its writer says; else it
            may be either.
    """

    name: str
    partitions: int
    retention_s: float
    is_compacted: bool = False
    is_stamped_by_log: bool = False


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A record to be stored: in the partition named, else in that of its key (murmur2, as Kafka's clients have it), else in any.

    A value of None says, in a compacted topic, that the key is to be forgotten (a tombstone); it is read as an empty value.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int | None = None

    def size_bytes(self) -> int:
        """Return what its key, its value and its headers take."""
        size = len(self.value or b"") + len(self.key or b"")
        for name, value in self.headers:
            size += len(name)
            size += len(value)  # apart from the other: twice as fast as their sum, in Python 3.11
        return size

    def headers_by_name(self) -> dict[str, bytes]:
        """Return the headers as a dictionary; the last of a name wins."""
        return dict(self.headers)


def no_key(topic: str) -> InvalidMessage:
    """Say that a record cannot be stored in a compacted topic."""
    return InvalidMessage(topic, "the topic keeps the last record of each key, and this one has none")


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record as it stands in a log. Offsets of a partition rise, with gaps."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Headers
    timestamp_ms: int


class Assigned(msgspec.Struct, frozen=True):
    """The member now holds exactly these partitions, none of them paused.

    Attributes:
        generation: The number of this assignment, unique in the process.
        positions: The first offset that will come, per partition.
    """

    generation: int
    positions: Mapping[Partition, int]


class Revoked(msgspec.Struct, frozen=True):
    """All partitions of a generation are being taken; no record of it follows.

    It may still be committed until `receive` is called again: that call hands the partitions over. So drop what has not begun, let finish
    what has, commit, receive. Who takes too long loses them all the same, and the commit is refused.
    """

    generation: int
    partitions: frozenset[Partition]


class Status(msgspec.Struct, frozen=True):
    """How a member or a reader is doing.

    Attributes:
        lag: How many records of its partitions it has not returned yet; None if that is not known.
        silent_s: Since when the log has answered nothing, in seconds.
        partitions: How many partitions it holds.
        refused: How many commits were refused.
        rebalances: How many assignments it has seen.
        lags: The same per partition, where it is known; of one that has none, a record that comes later was stored later.
    """

    lag: int | None
    silent_s: float
    partitions: int
    refused: int = 0
    rebalances: int = 0
    lags: Mapping[Partition, int] = {}


class Reader(ABC):
    """Reads partitions directly, without a group, and commits nothing. One task calls `receive`.

    Attributes:
        begins: The first offset that will come, per partition; resolved when the reader was opened, so nothing stored later is missed.
        ends: The ends of the log at that moment.
    """

    begins: Mapping[Partition, int]
    ends: Mapping[Partition, int]

    @abstractmethod
    async def receive(self) -> Sequence[Record]:
        """Wait for at least one record; return them in order per partition. A cancelled call loses nothing and repeats nothing.

        Raises:
            PositionLost: The log has expired what comes next.
            Unavailable: This reader will never work again; open another.
            TransportClosed: It was closed.
        """

    @abstractmethod
    def positions(self) -> Mapping[Partition, int]:
        """Return the next offset of each partition: past what was returned, and past what a log has there besides records.

        So whoever reads up to `ends` knows when that is reached, where the last offsets are no records: the ends of transactions, or what was
        compacted. It may be told some seconds late.
        """

    @abstractmethod
    def status(self) -> Status:
        """Return how it is doing."""


class Member(ABC):
    """One member of a consumer group. Leaving the context of `Transport.join` leaves the group and commits nothing.

    One task calls `receive` and is never long away from it: that is the only way to learn of a revocation. To hold back work, pause; to
    drain, pause everything and go on receiving.
    """

    @abstractmethod
    async def receive(self) -> Sequence[Record] | Assigned | Revoked:
        """Wait for the next thing, all in one order: `Assigned`, records of that generation only, `Revoked`, `Assigned`, …

        The first thing is an `Assigned`, possibly of nothing. What was not committed comes again after it, to whoever holds the partition
        then. A cancelled call loses nothing and repeats nothing.

        Raises:
            Unavailable: This member will never work again; join anew.
            TransportClosed: It has left.
        """

    @abstractmethod
    async def commit(self, generation: int, offsets: Mapping[Partition, int]) -> bool:
        """Store the next offsets to read.

        Returns:
            False if it was refused, because the generation is over. That is no error: the records come again.

        Raises:
            Unavailable: No answer came in time; try again later.
        """

    @abstractmethod
    def pause(self, partitions: Iterable[Partition]) -> None:
        """Return no more records of these partitions, not even buffered ones, until `resume` or the end of the assignment."""

    @abstractmethod
    def resume(self, partitions: Iterable[Partition]) -> None:
        """Go on with paused partitions, without gap or repeat."""

    @abstractmethod
    def status(self) -> Status:
        """Return how it is doing."""


Stored = Sequence[tuple[int, int]]
"""The partition and the offset of each record of an append."""


class Transport(ABC):
    """Carries records and keeps logs. It is an async context manager: entered when a process starts, left when it has drained.

    Attributes:
        durable: Whether what was stored is there after a stop of the process.
        shared: Whether several processes can use the same log.
        client: What a log that keeps a list of its clients is told of this one: application and process. Set before it is entered.
        incarnation: Names this log among those that come and go at the same place, once topics are ensured: an offset of one says nothing in
            another. Empty where the log has no such name.
    """

    durable: bool
    shared: bool
    client: str = "fissile"
    incarnation: str = ""

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            Unavailable: The log cannot be reached.
        """

    @abstractmethod
    async def __aexit__(self, *exc_info: object) -> None:
        """After all members and readers: wait, within a bound, for what is being stored; then disconnect. Raises nothing."""

    @abstractmethod
    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        """Create the topics that do not exist, and check those that do.

        Raises:
            StartupFailed: A topic has another number of partitions.
            Unavailable: The log cannot be reached.
        """

    @abstractmethod
    def append_nowait(self, records: Sequence[Outgoing], done: Callable[[Stored | CallError], None]) -> None:
        """Store records, and tell `done` where each is, or why not. For hot code: it makes no task and no event.

        `done` is called once, never before this returns, within a bound, in no task of the caller's: it must not block, await or raise. It is
        told `Unavailable` or `MessageTooLarge` if none is stored, `DeadlineExceeded` if some may be. Per partition, records are stored in the
        order of these calls, and if one of a call is not stored, none after it in that call is: whoever appends the same again after a failure
        repeats, and leaves no gap. Nothing cancels an append.

        Raises:
            MessageTooLarge: A record is larger than the log takes.
            InvalidMessage: A record has no key, and its topic is compacted.
            Overloaded: The buffer of what is being stored is full.
            TransportClosed: The transport is closed, or closing.
            Unavailable: The log has no such topic.
        """

    @abstractmethod
    async def append(self, records: Sequence[Outgoing]) -> Stored:
        """Store records and wait until they are. Raises what `append_nowait` raises and tells; if cancelled, they may be stored."""

    @abstractmethod
    def join(self, group: str, topics: Mapping[str, Start], *, batch: int = 500) -> AbstractAsyncContextManager[Member]:
        """Become a member of a consumer group. Entering does not wait for partitions.

        Args:
            group: The group's name.
            topics: The topics to read, and where the group begins in each, which holds once per partition.
            batch: How many records `receive` returns at most.
        """

    @abstractmethod
    def read(
        self, partitions: Sequence[Partition], start: Start | Mapping[Partition, int], *, batch: int = 500
    ) -> AbstractAsyncContextManager[Reader]:
        """Read partitions directly.

        Args:
            partitions: Which.
            start: Where to begin: at the first record kept, after the last one, or at an offset per partition. An offset that the log does not
                have becomes the first one kept; `Reader.begins` tells.
            batch: How many records `receive` returns at most.
        """

    def check(self) -> str | None:
        """Return what is wrong with the connection, as a sentence, or None if all is well."""
        return None


TransportFactory = Callable[..., Transport]
"""What `transports/<scheme>.py` has under the name `transport`: takes the settings and the clock."""
