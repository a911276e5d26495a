"""What an extender implements: a transport, which carries records and keeps logs.

One delivery engine above all transports does the rest: order per key, windows, retries, dead letters, offsets. A transport knows none of it.
`tests/conformance/` holds each transport to this contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal

import msgspec

Headers = tuple[tuple[str, bytes], ...]
Partition = tuple[str, int]
Start = Literal["earliest", "latest"]


class Outgoing(msgspec.Struct, frozen=True):
    """A record to be stored. Records with equal keys go to the same partition: murmur2 of the key, as Kafka's own client has it."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers
    partition: int | None = None

    def headers_by_name(self) -> dict[str, bytes]:
        """Return the headers as a dictionary; the last of a name wins."""
        return dict(self.headers)


class Record(msgspec.Struct, frozen=True):
    """A record as it stands in a log. Offsets of a partition rise, with gaps."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: Headers
    timestamp_ms: int


class Assigned(msgspec.Struct, frozen=True):
    """The member now owns these partitions; their records follow, from the group's committed offsets."""

    partitions: frozenset[Partition]


class Revoked(msgspec.Struct, frozen=True):
    """The member loses these partitions. It finishes or drops what it has in hand, commits, and then calls `Member.hand_over`."""

    partitions: frozenset[Partition]


class TopicSpec(msgspec.Struct, frozen=True):
    """A topic that has to exist.

    Attributes:
        name: Its name in the log.
        partitions: How many partitions it has; a different number in the log is refused.
        retention_s: How long a record is kept, in seconds.
    """

    name: str
    partitions: int
    retention_s: float


class Member(ABC):
    """One member of a consumer group. Leaving the context of `Transport.join` leaves the group."""

    @abstractmethod
    async def receive(self) -> Sequence[Record] | Assigned | Revoked:
        """Wait for the next thing: records (in order per partition, of several at once), or a change of the assignment.

        A cancelled call loses nothing. After `Revoked` no record of those partitions comes.

        Raises:
            TransportClosed: The member has left, or was thrown out.
            Unavailable: The log cannot be reached; the caller joins again.
        """

    @abstractmethod
    async def commit(self, offsets: Mapping[Partition, int]) -> bool:
        """Store the next offset to read, per partition.

        Returns:
            False if it was refused, because the group has moved on. That is no error: the records come again.
        """

    @abstractmethod
    def hand_over(self, revoked: Revoked) -> None:
        """Say that nothing of the revoked partitions is in hand any more."""

    @abstractmethod
    def pause(self, partition: Partition) -> None:
        """Let no more records of a partition come until `resume`. What `receive` has returned stays with the caller."""

    @abstractmethod
    def resume(self, partition: Partition) -> None:
        """Let records of a paused partition come again."""

    @abstractmethod
    def lag(self) -> Mapping[Partition, int]:
        """Return how many records of each owned partition have not been received."""


class Reader(ABC):
    """Reads partitions directly, without a group, and commits nothing."""

    @abstractmethod
    async def receive(self) -> Sequence[Record]:
        """Wait for records, in order per partition. A cancelled call loses nothing.

        Raises:
            TransportClosed: The reader was closed.
        """

    @abstractmethod
    def receive_nowait(self) -> Sequence[Record]:
        """Return what is there already, possibly nothing."""

    @abstractmethod
    def positions(self) -> Mapping[Partition, int]:
        """Return the next offset to read, per partition."""


class Transport(ABC):
    """Carries records and keeps logs. It is an async context manager: entered when a process starts, left when it has drained."""

    durable: bool
    """Whether what was stored is there after a stop of the process."""

    shared: bool
    """Whether several processes can use the same log."""

    @abstractmethod
    async def __aenter__(self) -> Transport:
        """Connect.

        Raises:
            Unavailable: The log cannot be reached.
        """

    @abstractmethod
    async def __aexit__(self, *exc_info: object) -> None:
        """Store what was accepted, then disconnect."""

    @abstractmethod
    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        """Create the topics that do not exist, and check those that do.

        Raises:
            StartupFailed: A topic has another number of partitions.
        """

    @abstractmethod
    async def append(self, records: Sequence[Outgoing]) -> Sequence[tuple[int, int]]:
        """Store records, in their order per partition, and return the partition and offset of each once all are stored.

        A call that is cancelled may have stored them, or some.

        Raises:
            Unavailable: The log cannot be reached.
            MessageTooLarge: A record is larger than the log takes; none is stored.
        """

    @abstractmethod
    def join(self, group: str, topics: Mapping[str, Start]) -> AbstractAsyncContextManager[Member]:
        """Become a member of a consumer group.

        Args:
            group: The group's name.
            topics: The topics to read, and where the group begins in those where it has committed nothing.
        """

    @abstractmethod
    def read(
        self, topic: str, start: Start | Mapping[int, int], partitions: Sequence[int] | None = None
    ) -> AbstractAsyncContextManager[Reader]:
        """Read a topic directly.

        Args:
            topic: The topic.
            start: Where to begin: at the first record kept, after the last one, or at an offset per partition.
            partitions: Which partitions; all of them unless told.

        Raises:
            PositionLost: The log no longer has a position that was asked for.
        """

    def check(self) -> str | None:
        """Return what is wrong with the connection, as a sentence, or None if all is well."""
        return None


TransportFactory = Callable[..., Transport]
