"""The records of one partition that are in hand: lanes by key, and the lowest unfinished offset. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import define, field

from fissile._delivery.lifecycle import Delivery, State, Step

if TYPE_CHECKING:
    from fissile._delivery.subscription import Subscription
    from fissile.abc import Partition, Record

LaneKey = tuple["Subscription", bytes]


@define(eq=False)
class Lane:
    """The deliveries of one key to one handler; the first is the one that may run.

    A delivery without a key has a lane of its own, which nobody shares.
    """

    key: LaneKey | None
    deliveries: deque[Delivery] = field(factory=deque[Delivery])


@define(eq=False)
class PartitionState:
    """What a member has in hand of one partition it owns.

    A late result is recognised by the identity of this object: after a revocation there is a new one, or none.

    Args:
        partition: The topic and the number of the partition.
        generation: The assignment that it belongs to.
        offer: Takes a delivery whose turn has come.
    """

    partition: Partition
    generation: int
    offer: Callable[[Delivery], None]
    in_hand: int = field(default=0, init=False)
    handling: int = field(default=0, init=False)
    paused: bool = field(default=False, init=False)
    revoked: bool = field(default=False, init=False)
    committed: int | None = field(default=None, init=False)
    backlog: deque[Record] = field(factory=deque["Record"], init=False)
    """What has arrived beyond the window: a batch may be larger than what is left of it."""
    next_offset: int | None = field(default=None, init=False)
    _lanes: dict[LaneKey, Lane] = field(factory=dict[LaneKey, Lane], init=False)
    _keyless: dict[Delivery, None] = field(factory=dict[Delivery, None], init=False)
    # Offsets have gaps (compaction, transactions), so the lowest unfinished one is found in a queue, not by counting.
    _open: deque[list[int]] = field(factory=deque[list[int]], init=False)
    _remaining: dict[int, list[int]] = field(factory=dict[int, list[int]], init=False)

    def add(self, record: Record, subscriptions: list[tuple[Subscription, bytes | None]]) -> list[Delivery]:
        """Take a record in hand, for each of the subscriptions with the key that orders it there.

        Returns:
            The deliveries, each of which `begin` has to be told of.
        """
        self.next_offset = record.offset + 1
        if not subscriptions:
            return []
        entry = [record.offset, len(subscriptions)]
        self._open.append(entry)
        self._remaining[record.offset] = entry
        self.in_hand += 1
        deliveries: list[Delivery] = []
        for subscription, key in subscriptions:
            lane = self._lane(subscription, key)
            delivery = Delivery(record, subscription, lane, self)
            lane.deliveries.append(delivery)
            if lane.key is None:
                self._keyless[delivery] = None
            deliveries.append(delivery)
        return deliveries

    def begin(self, delivery: Delivery) -> None:
        """Let a delivery have its turn, unless others of its key are before it."""
        if delivery.lane.deliveries[0] is delivery:
            self._give_turn(delivery)

    def finish(self, delivery: Delivery) -> None:
        """Note that a delivery is done: the next of its key has its turn, and the watermark may rise."""
        assert delivery.state is State.DONE, delivery
        lane = delivery.lane
        assert lane.deliveries[0] is delivery, delivery
        lane.deliveries.popleft()
        if lane.deliveries:
            self._give_turn(lane.deliveries[0])
        elif lane.key is None:
            del self._keyless[delivery]
        else:
            del self._lanes[lane.key]
        entry = self._remaining[delivery.record.offset]
        entry[1] -= 1
        if entry[1] == 0:
            del self._remaining[delivery.record.offset]
            self.in_hand -= 1
            while self._open and self._open[0][1] == 0:
                self._open.popleft()

    def revoke(self) -> None:
        """Drop what has not begun; what is being handled may finish, and then still counts."""
        self.revoked = True
        self.backlog.clear()
        for delivery in self._all():
            if delivery.state is not State.HANDLING and delivery.state is not State.BURYING:
                delivery.step(Step.REVOKED)

    def abandon(self) -> None:
        """Give up what is still being handled: stop it, and ignore what comes of it. The next owner of the partition begins anew."""
        for delivery in self._all():
            if delivery.state is State.ABANDONED:
                continue
            if (
                delivery.state is not State.WAITING
            ):  # it failed after the revocation: there is nothing to stop, and no further attempt
                delivery.give_up()
            delivery.step(Step.REVOKED)

    def watermark(self) -> int | None:
        """Return the offset to commit: the lowest unfinished one, or the next to come; None before the first record."""
        return self._open[0][0] if self._open else self.next_offset

    def _all(self) -> list[Delivery]:
        return [delivery for lane in self._lanes.values() for delivery in lane.deliveries] + list(self._keyless)

    def _lane(self, subscription: Subscription, key: bytes | None) -> Lane:
        if key is None:
            return Lane(None)
        lane = self._lanes.get((subscription, key))
        if lane is None:
            lane = self._lanes[subscription, key] = Lane((subscription, key))
        return lane

    def _give_turn(self, delivery: Delivery) -> None:
        if not self.revoked:
            delivery.step(Step.TURN)
            self.offer(delivery)
