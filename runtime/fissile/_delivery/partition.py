"""The records of one partition that are in hand: lanes by key, and the lowest unfinished offset. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec
from attrs import define, field

from fissile._delivery.lifecycle import Delivery, State, Step

if TYPE_CHECKING:
    from fissile._delivery.subscription import Subscription
    from fissile.abc import Partition, Record

LaneKey = tuple["Subscription", bytes]

_NO_HEADERS: Mapping[str, bytes] = MappingProxyType({})


class Lane(msgspec.Struct, eq=False):
    """The deliveries of one key to one handler; the first is the one that may run."""

    key: LaneKey | None
    deliveries: deque[Delivery]


_FREE = Lane(None, deque())
"""Stands for the lane of a delivery without a key, which waits for nobody."""


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
    # By the offset of their record, the first one first. Offsets have gaps (compaction, transactions), so the lowest unfinished one cannot
    # be found by counting.
    _open: dict[int, list[Delivery]] = field(factory=dict[int, "list[Delivery]"], init=False)

    def add(
        self,
        record: Record,
        subscriptions: Sequence[tuple[Subscription, bytes | None]],
        headers: Mapping[str, bytes] = _NO_HEADERS,
    ) -> list[Delivery]:
        """Take a record in hand, for each of the subscriptions with the key that orders it there.

        Args:
            record: The record.
            subscriptions: The subscriptions and keys.
            headers: Its headers by name.

        Returns:
            The deliveries, each of which `begin` has to be told of.
        """
        self.next_offset = record.offset + 1
        if not subscriptions:
            return []
        deliveries: list[Delivery] = []
        for subscription, key in subscriptions:
            lane = _FREE if key is None else self._lane(subscription, key)
            delivery = Delivery(record, subscription, lane, self, headers)
            if lane is not _FREE:
                lane.deliveries.append(delivery)
            deliveries.append(delivery)
        self._open[record.offset] = deliveries
        self.in_hand += 1
        return deliveries

    def begin(self, delivery: Delivery) -> None:
        """Let a delivery have its turn, unless others of its key are before it."""
        lane = delivery.lane
        if lane is _FREE or lane.deliveries[0] is delivery:
            self._give_turn(delivery)

    def finish(self, delivery: Delivery) -> None:
        """Note that a delivery is done: the next of its key has its turn, and the watermark may rise."""
        assert delivery.state is State.DONE, delivery
        lane = delivery.lane
        if lane is not _FREE:
            assert lane.deliveries[0] is delivery, delivery
            lane.deliveries.popleft()
            if lane.deliveries:
                self._give_turn(lane.deliveries[0])
            elif lane.key is not None:
                del self._lanes[lane.key]
        offset = delivery.record.offset
        unfinished = self._open[offset]
        if len(unfinished) > 1:
            self._open[offset] = [other for other in unfinished if other is not delivery]
        else:
            del self._open[offset]
            self.in_hand -= 1

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
        return next(iter(self._open), self.next_offset)

    def _all(self) -> list[Delivery]:
        return [delivery for deliveries in self._open.values() for delivery in deliveries]

    def _lane(self, subscription: Subscription, key: bytes) -> Lane:
        lane = self._lanes.get((subscription, key))
        if lane is None:
            lane = self._lanes[subscription, key] = Lane((subscription, key), deque())
        return lane

    def _give_turn(self, delivery: Delivery) -> None:
        if not self.revoked:
            delivery.step(Step.TURN)
            self.offer(delivery)
