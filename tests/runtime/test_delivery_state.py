"""The life of a delivery and the state of a partition, without I/O: any sequence of steps, a revocation at any time."""

from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fissile._delivery.lifecycle import TABLE, Delivery, IllegalStep, State, Step
from fissile._delivery.partition import PartitionState
from fissile._delivery.subscription import Subscription
from fissile._retry import Retry
from fissile.abc import Record

SUBSCRIPTIONS = [
    Subscription(name, cast("Any", None), Retry(), ordered=True, bears_repeats=True) for name in ("first", "second")
]


def record(offset: int, key: bytes) -> Record:
    return Record("topic", 0, offset, key, b"", (), 0)


def test_every_state_is_in_the_table_and_every_end_is_final() -> None:
    assert set(TABLE) == set(State)
    assert TABLE[State.DONE] == TABLE[State.ABANDONED] == {}


def test_a_revocation_ends_every_delivery_that_is_not_done() -> None:
    for state, steps in TABLE.items():
        if state not in (State.DONE, State.ABANDONED):
            assert steps[Step.REVOKED] is State.ABANDONED


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("step", Step)
def test_a_step_that_is_not_in_the_table_raises_with_step_and_state(state: State, step: Step) -> None:
    partition = PartitionState(("topic", 0), 1, lambda delivery: None)
    (delivery,) = partition.add(record(0, b"k"), SUBSCRIPTIONS[:1], b"k")
    delivery.state = state
    if step in TABLE[state]:
        delivery.step(step)
        assert delivery.state is TABLE[state][step]
    else:
        with pytest.raises(IllegalStep, match=f"{state.value} cannot take the step '{step.value}'"):
            delivery.step(step)
        assert delivery.state is state


def test_the_table_can_only_be_left_where_a_message_was_handled_buried_or_revoked() -> None:
    ends = {(step, state) for steps in TABLE.values() for step, state in steps.items() if not TABLE[state]}
    assert ends == {
        (Step.SUCCEEDED, State.DONE),
        (Step.BURIED, State.DONE),
        (Step.REVOKED, State.ABANDONED),
    }


class PartitionMachine(RuleBasedStateMachine):
    """Drives a partition as consumer and workers do."""

    def __init__(self) -> None:
        super().__init__()
        self.offered: list[Delivery] = []
        self.partition = PartitionState(("topic", 0), 1, self.offered.append)
        self.next_offset = 0
        self.unfinished: dict[int, int] = {}
        self.all: list[Delivery] = []
        self.handling: list[Delivery] = []
        self.waiting: list[Delivery] = []
        self.burying: list[Delivery] = []
        self.order: dict[tuple[str, bytes], list[int]] = {}
        self.abandoned = False

    @precondition(lambda self: not self.partition.revoked)
    @rule(key=st.sampled_from([b"a", b"b", b"c"]), keyed=st.booleans(), count=st.integers(0, 2), gap=st.integers(1, 3))
    def take(self, key: bytes, keyed: bool, count: int, gap: int) -> None:
        offset = self.next_offset
        self.next_offset += gap
        deliveries = self.partition.add(record(offset, key), SUBSCRIPTIONS[:count], key if keyed else None)
        self.last_taken = offset
        if count:
            self.unfinished[offset] = count
        self.all.extend(deliveries)
        for delivery in deliveries:
            self.partition.begin(delivery)

    @precondition(lambda self: any(each.state is State.READY for each in self.offered))
    @rule(data=st.data())
    def handle(self, data: st.DataObject) -> None:
        ready = [delivery for delivery in self.offered if delivery.state is State.READY]
        delivery = data.draw(st.sampled_from(ready))
        self.offered.remove(delivery)
        delivery.step(Step.TAKEN)
        if delivery.lane is not None and delivery.failures == 0:
            self.order.setdefault((delivery.subscription.name, delivery.record.key or b""), []).append(
                delivery.record.offset
            )
        self.handling.append(delivery)

    def _end(self, delivery: Delivery, step: Step) -> None:
        delivery.step(step)
        self.partition.finish(delivery)
        offset = delivery.record.offset
        self.unfinished[offset] -= 1
        if not self.unfinished[offset]:
            del self.unfinished[offset]

    @precondition(lambda self: self.handling)
    @rule(data=st.data(), outcome=st.sampled_from([Step.SUCCEEDED, Step.FAILED, Step.GIVEN_UP]))
    def finish(self, data: st.DataObject, outcome: Step) -> None:
        delivery = self.handling.pop(data.draw(st.integers(0, len(self.handling) - 1)))
        if delivery.state is State.ABANDONED:
            return
        if outcome is Step.SUCCEEDED:
            self._end(delivery, outcome)
            return
        delivery.step(outcome)
        delivery.failures += 1
        (self.waiting if outcome is Step.FAILED else self.burying).append(delivery)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def due(self, data: st.DataObject) -> None:
        delivery = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        if delivery.state is State.WAITING:
            delivery.step(Step.DUE)
            self.offered.append(delivery)

    @precondition(lambda self: self.burying)
    @rule(data=st.data())
    def buried(self, data: st.DataObject) -> None:
        delivery = self.burying.pop(data.draw(st.integers(0, len(self.burying) - 1)))
        if delivery.state is State.BURYING:
            self._end(delivery, Step.BURIED)

    @precondition(lambda self: not self.partition.revoked)
    @rule()
    def revoke(self) -> None:
        self.partition.revoke()

    @precondition(lambda self: self.partition.revoked)
    @rule()
    def abandon(self) -> None:
        self.partition.abandon()
        self.abandoned = True

    @invariant()
    def the_watermark_is_the_lowest_unfinished_record(self) -> None:
        watermark = self.partition.watermark()
        if self.unfinished:
            assert watermark == min(self.unfinished)
        elif self.next_offset:
            assert watermark == self.last_taken + 1
        else:
            assert watermark is None

    @invariant()
    def what_is_in_hand_is_what_is_unfinished(self) -> None:
        assert self.partition.in_hand == len(self.unfinished)

    @invariant()
    def records_of_one_key_begin_in_their_order_and_one_at_a_time(self) -> None:
        assert all(offsets == sorted(offsets) for offsets in self.order.values())
        active = [
            (each.subscription.name, each.record.key)
            for each in self.all
            if each.lane is not None and each.state in (State.READY, State.HANDLING, State.WAITING, State.BURYING)
        ]
        assert len(active) == len(set(active))

    @invariant()
    def after_a_revocation_nothing_new_begins_and_after_it_was_abandoned_nothing_goes_on(self) -> None:
        if self.partition.revoked:
            assert all(each.state is not State.QUEUED for each in self.all)
        if self.abandoned:
            assert all(each.state in (State.DONE, State.ABANDONED) for each in self.all)


TestPartition = PartitionMachine.TestCase
TestPartition.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
