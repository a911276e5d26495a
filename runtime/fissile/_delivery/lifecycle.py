"""The life of one delivery, as a table without I/O.

    queued ──turn──▶ ready ──taken──▶ handling ──succeeded──▶ done
                       ▲                 │ │
                       └──due── waiting ◀┘ └──given up──▶ burying ──buried──▶ done

A delivery is one record for one handler. It queues behind earlier deliveries of its key, and while it waits for its next attempt it keeps
its place: only its own key is held back. It is done when it was handled or when its dead letter is stored, never before. A revocation ends
it in any state, without a commit: the next owner of the partition gets the record again.

What is not in the table cannot happen: a transition that is missing raises.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    import anyio

    from fissile._delivery.dead_letters import DeadLetter
    from fissile._delivery.partition import PartitionState
    from fissile._delivery.subscription import Subscription
    from fissile._requests import Request
    from fissile.abc import Record

    LaneKey = tuple[Subscription, bytes]


class State(Enum):
    """Where a delivery stands."""

    QUEUED = "queued"
    READY = "ready"
    HANDLING = "handling"
    WAITING = "waiting"
    BURYING = "burying"
    DONE = "done"
    ABANDONED = "abandoned"

    __hash__ = object.__hash__  # Enum's own is written in Python, and is asked for at each step of each delivery


class Step(Enum):
    """What happens to a delivery."""

    TURN = "its turn came"
    TAKEN = "a worker took it"
    SUCCEEDED = "its handler succeeded"
    FAILED = "its handler failed and there is another attempt"
    GIVEN_UP = "its handler failed and there is no other attempt"
    DUE = "its pause is over"
    BURIED = "its dead letter is stored"
    REVOKED = "its partition went to another member"

    __hash__ = object.__hash__


TABLE: dict[State, dict[Step, State]] = {
    State.QUEUED: {Step.TURN: State.READY, Step.REVOKED: State.ABANDONED},
    State.READY: {Step.TAKEN: State.HANDLING, Step.REVOKED: State.ABANDONED},
    State.HANDLING: {
        Step.SUCCEEDED: State.DONE,
        Step.FAILED: State.WAITING,
        Step.GIVEN_UP: State.BURYING,
        Step.REVOKED: State.ABANDONED,
    },
    State.WAITING: {Step.DUE: State.READY, Step.REVOKED: State.ABANDONED},
    State.BURYING: {Step.BURIED: State.DONE, Step.REVOKED: State.ABANDONED},
    State.DONE: {},
    State.ABANDONED: {},
}


class IllegalStep(AssertionError):
    """Raised when a delivery is asked to do what its state does not allow: a bug of fissile."""


class Delivery(msgspec.Struct, eq=False):
    """One record on its way to one handler.

    Attributes:
        record: The record.
        subscription: The handler, with its policies.
        lane: The handler and the key that order it; None where it waits for nobody.
        owner: The partition that it is of.
        headers: The record's headers by name.
        request: Who waits for an answer, if anyone does.
        deadline: When that caller stops waiting, on the event loop's clock.
        state: Where it stands.
        is_behind: Whether another one of its lane has its turn.
        failures: How often its handler has failed.
        postponed: How often in a row its handler could not run, for no fault of its own.
        scope: What to cancel to stop its handler, while that runs.
        is_given_up: Whether its caller no longer waits, so that it need not begin, or go on.
        first_failed: When its handler failed for the first time.
        retried: The dead letter that it is a retry of, if it is one.
        is_orphan: Whether it is a retry for a handler that is no more.
    """

    record: Record
    subscription: Subscription
    lane: LaneKey | None
    owner: PartitionState
    headers: Mapping[str, bytes]
    request: Request | None = None
    deadline: float = float("inf")
    state: State = State.QUEUED
    is_behind: bool = False
    failures: int = 0
    postponed: int = 0
    scope: anyio.CancelScope | None = None
    is_given_up: bool = False
    first_failed: datetime | None = None
    retried: DeadLetter | None = None
    is_orphan: bool = False

    def step(self, step: Step) -> None:
        """Go where the table says.

        Raises:
            IllegalStep: The table has no such transition.
        """
        following = TABLE[self.state].get(step)
        if following is None:
            raise IllegalStep(f"a delivery that is {self.state.value} cannot take the step '{step.value}': {self!r}")
        self.state = following

    def give_up(self) -> None:
        """Stop its handler at its next checkpoint, or do not begin."""
        self.is_given_up = True
        if self.scope is not None:
            self.scope.cancel()

    def __repr__(self) -> str:
        record = self.record
        return (
            f"<Delivery {self.state.value} {self.subscription.name} {record.topic}[{record.partition}]@{record.offset} "
            f"attempt {self.failures + 1}>"
        )
