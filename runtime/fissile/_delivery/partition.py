"""The records of one partition that are in hand: lanes by key, and the lowest unfinished offset. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING

from attrs import define, field

from fissile._delivery.lifecycle import Delivery, State, Step

if TYPE_CHECKING:
    from fissile._delivery.lifecycle import LaneKey
    from fissile._delivery.subscription import Subscription
    from fissile.abc import Partition, Record

_NO_HEADERS: Mapping[str, bytes] = MappingProxyType({})


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
    given_up: set[bytes] = field(factory=set[bytes], init=False)
    """The requests that are given up by a cancellation in the backlog, by their correlation, until it is taken out of there."""
    next_offset: int | None = field(default=None, init=False)
    behind_s: float = field(default=0.0, init=False)
    """How far the clock that its records are stamped by is behind ours, in seconds, as far as that is known; infinite where the next one
    tells. See `ages.py`."""
    read_up_at: float = field(default=-inf, init=False)
    """When it was known to be read to its end, on the event loop's clock."""
    # Of each lane one delivery has its turn; these queue behind it, and mostly there are none.
    _lanes: dict[LaneKey, deque[Delivery] | None] = field(factory=dict["LaneKey", "deque[Delivery] | None"], init=False)
    # By the offset of their record, the first one first. Offsets have gaps (compaction, transactions), so the lowest unfinished one cannot
    # be found by counting.
    _open: dict[int, list[Delivery]] = field(factory=dict[int, "list[Delivery]"], init=False)

    def add(
        self,
        record: Record,
        subscriptions: Sequence[Subscription],
        key: bytes | None,
        headers: Mapping[str, bytes] = _NO_HEADERS,
    ) -> list[Delivery]:
        """Take a record in hand, for each of the subscriptions.

        Args:
            record: The record.
            subscriptions: The subscriptions.
            key: What orders it where a subscription is ordered; None if nothing does.
            headers: Its headers by name.

        Returns:
            The deliveries, each of which `begin` has to be told of.
        """
        self.next_offset = record.offset + 1
        if not subscriptions:
            return []
        deliveries: list[Delivery] = []
        for subscription in subscriptions:
            lane = (subscription, key) if key is not None and subscription.ordered else None
            delivery = Delivery(record, subscription, lane, self, headers)
            if lane is not None:
                if lane in self._lanes:
                    self._queue(lane, delivery)
                else:
                    self._lanes[lane] = None
            deliveries.append(delivery)
        self._open[record.offset] = deliveries
        self.in_hand += 1
        return deliveries

    def begin(self, delivery: Delivery) -> None:
        """Let a delivery have its turn, unless others of its key are before it."""
        if not delivery.is_behind:
            self._give_turn(delivery)

    def finish(self, delivery: Delivery) -> None:
        """Note that a delivery is done: the next of its key has its turn, and the watermark may rise."""
        assert delivery.state is State.DONE, delivery
        lane = delivery.lane
        if lane is not None:
            assert not delivery.is_behind, delivery
            behind = self._lanes[lane]
            if behind:
                following = behind.popleft()
                following.is_behind = False
                self._give_turn(following)
            else:
                del self._lanes[lane]
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
        self.given_up.clear()
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

    def _queue(self, lane: LaneKey, delivery: Delivery) -> None:
        delivery.is_behind = True
        behind = self._lanes[lane]
        if behind is None:
            self._lanes[lane] = deque((delivery,))
        else:
            behind.append(delivery)

    def _give_turn(self, delivery: Delivery) -> None:
        if not self.revoked:
            delivery.step(Step.TURN)
            self.offer(delivery)
