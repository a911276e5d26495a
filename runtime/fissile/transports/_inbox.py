"""The inbox of a member or a reader: what the loop has sent home and `receive` has not returned yet. It lives at home.

Records come in chunks of one partition, news between them, all in one order. A paused partition's chunks are set aside and come first at its
resume. What is taken out makes room for more, which the loop is told of now and then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from time import monotonic

import anyio.lowlevel
import msgspec
from attrs import define, field

from fissile._errors import TransportClosed
from fissile._parking import Parked, parking
from fissile.abc import Assigned, Partition, Record, Revoked, Status

READ_AHEAD_BYTES = 8 * 1024 * 1024
"""How much a member or reader buffers."""
RECORD_BYTES = 512
"""What a record takes in memory besides its value; for the bounds of buffers."""


class Chunk(msgspec.Struct, frozen=True):
    """Records of one partition, in order.

    Attributes:
        partition: Which.
        records: At least one.
        cost_bytes: What they take in memory.
        end: The end of the log when they were read.
    """

    partition: Partition
    records: list[Record]
    cost_bytes: int
    end: int


class Pulse(msgspec.Struct, frozen=True):
    """What the loop tells every second.

    Attributes:
        positions: The next offset that it will read, per partition: past what a log has besides records, such as the ends of transactions.
        ends: The ends of the log.
        silent_s: Since when the log has answered nothing, in seconds.
    """

    positions: Mapping[Partition, int]
    ends: Mapping[Partition, int]
    silent_s: float


@define(eq=False)
class Inbox:
    """What came and was not returned.

    Attributes:
        name: What people call whose it is.
        batch: How many records it gives out at most.
        make_room: Tells the loop how many bytes were taken out.
    """

    name: str
    batch: int
    make_room: Callable[[int], None]
    is_closed: bool = False
    rebalances: int = 0
    _items: deque[Chunk | Assigned | Revoked] = field(factory=deque[Chunk | Assigned | Revoked])
    _paused: set[Partition] = field(factory=set[Partition])
    _aside: dict[Partition, list[Chunk]] = field(factory=dict[Partition, list[Chunk]])
    _positions: dict[Partition, int] = field(factory=dict[Partition, int])
    _ends: dict[Partition, int] = field(factory=dict[Partition, int])
    _taken_bytes: int = 0
    _silent_s: float = 0.0
    _told_at: float = field(factory=monotonic)
    _error: Exception | None = None
    _changed: Parked | None = None
    _new_parked: Callable[[], Parked] = field(factory=parking)

    # --- what the loop sends -----------------------------------------------------------------------------------------

    def put(self, chunks: list[Chunk]) -> None:
        """Take records in."""
        for chunk in chunks:
            self._ends[chunk.partition] = chunk.end
        self._items.extend(chunks)
        self._answered(0.0)
        self._wake()

    def assign(self, assigned: Assigned, ends: Mapping[Partition, int]) -> None:
        """Take in that there are partitions now."""
        self.begin(assigned.positions, ends)
        self._items.append(assigned)
        self.rebalances += 1
        self._wake()

    def begin(self, positions: Mapping[Partition, int], ends: Mapping[Partition, int]) -> None:
        """Note where reading begins."""
        self._positions = dict(positions)
        self._ends = dict(ends)
        self._answered(0.0)

    def revoke(self, revoked: Revoked) -> None:
        """Take in that all partitions are being taken; their records with them."""
        self._drop()
        self._items.append(revoked)
        self._wake()

    def pulse(self, pulse: Pulse) -> None:
        """Note how the loop is doing."""
        self._answered(pulse.silent_s)
        waiting = {item.partition for item in self._items if isinstance(item, Chunk)} | self._aside.keys()
        for partition, end in pulse.ends.items():
            if partition in self._ends:
                self._ends[partition] = max(end, self._ends[partition])
        for partition, position in pulse.positions.items():
            if partition in self._positions and partition not in waiting:
                self._positions[partition] = max(position, self._positions[partition])

    def fail(self, error: Exception, *, at_once: bool) -> None:
        """Take in that nothing more will come.

        Args:
            error: What `receive` raises from now on.
            at_once: Whether it drops what has come; else it comes after that.
        """
        if at_once:
            self._drop()
            self._items.clear()
        if self._error is None:
            self._error = error
        self._wake()

    def close(self) -> None:
        """Let `receive` raise that it is closed."""
        self.is_closed = True
        self._wake()

    def _answered(self, silent_s: float) -> None:
        self._silent_s, self._told_at = silent_s, monotonic()

    def _drop(self) -> None:
        self._items = deque(item for item in self._items if not isinstance(item, Chunk))
        self._aside.clear()
        self._paused.clear()
        self._positions = {}
        self._ends = {}
        self._taken_bytes = 0

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set(None)
            self._changed = None

    # --- what home does ----------------------------------------------------------------------------------------------

    def take(self) -> list[Record] | Assigned | Revoked | None:
        """Take the next thing out, or nothing if there is none.

        Raises:
            TransportClosed: It is closed.
            Exception: Nothing more will come; the reason.
        """
        if self.is_closed:
            raise TransportClosed(f"{self.name} is closed.")
        records: list[Record] = []
        while self._items and len(records) < self.batch:
            item = self._items[0]
            if not isinstance(item, Chunk):
                if records:
                    break
                self._items.popleft()
                if isinstance(item, Assigned):
                    self._paused.clear()  # what was paused after the last assignment was lost and before that was known
                return item
            self._items.popleft()
            self._taken_bytes += item.cost_bytes
            if item.partition in self._paused:
                self._aside.setdefault(item.partition, []).append(Chunk(item.partition, item.records, 0, item.end))
                continue
            room = self.batch - len(records)
            if len(item.records) > room:
                self._items.appendleft(Chunk(item.partition, item.records[room:], 0, item.end))
            records += item.records[:room]
            self._positions[item.partition] = records[-1].offset + 1
        if self._taken_bytes >= READ_AHEAD_BYTES // 4:
            self.make_room(self._taken_bytes)
            self._taken_bytes = 0
        if records:
            return records
        if self._error is not None and not self._items:
            raise self._error
        return None

    async def wait(self) -> None:
        """Wait until there may be something to take. One task may."""
        changed = self._changed = self._new_parked()
        await changed.wait()

    async def checkpoint(self) -> None:
        """Be the checkpoint of a call that finds something to take at once; one that waits has its own.

        It comes before anything is taken: a cancelled call must not have taken it.
        """
        if self._items or self._error is not None or self.is_closed:
            await anyio.lowlevel.checkpoint()

    def pause(self, partitions: Iterable[Partition]) -> None:
        """Set records of these partitions aside."""
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """Put what was set aside to the front again."""
        for partition in partitions:
            self._paused.discard(partition)
            self._items.extendleft(reversed(self._aside.pop(partition, [])))
        self._wake()

    def positions(self) -> Mapping[Partition, int]:
        """Return the next offset of each partition, past what was returned and what there is besides records."""
        return dict(self._positions)

    def status(self, refused: int = 0) -> Status:
        """Return how it is doing; the loop's silence counts too."""
        lags = {
            partition: max(0, self._ends[partition] - offset)
            for partition, offset in self._positions.items()
            if partition in self._ends
        }
        lag = sum(lags.values()) if len(lags) == len(self._positions) else None
        # A pulse is late by a second at most.
        late_s = monotonic() - self._told_at
        silent_s = self._silent_s + (late_s if late_s > 2.0 else 0.0)
        return Status(lag, silent_s, len(self._positions), refused, self.rebalances, lags)
