"""Moves the records of one module: from its consumer group into hand, to the workers, and the offsets back.

One reader, a pool of workers, one committer. A failed delivery waits in a task of its own, holding back its own key only. When anything here
fails that is not a handler, the whole consumer ends with that error; its supervisor starts another, and what was not committed comes again.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.lowlevel
from attrs import define, field, frozen

from fissile._bus import Bus, Routes
from fissile._clock import Environment
from fissile._delivery.dead_letters import bury
from fissile._delivery.lifecycle import Delivery, State, Step
from fissile._delivery.partition import PartitionState
from fissile._delivery.subscription import Subscription
from fissile._envelope import header
from fissile._errors import InvalidMessage, Unavailable
from fissile._handler import only_leaf
from fissile._messages import DeclaredError
from fissile.abc import Assigned, Member, Partition, Record, Revoked, Start, Transport

if TYPE_CHECKING:
    from fissile._bounds import Slots

_logger = logging.getLogger("fissile.delivery")

HAND_OVER_S = 3.0
"""How long what is being handled may go on after a revocation, in seconds; a group waits for its slowest member."""

LAST_COMMIT_S = 1.0
"""How long the last commit of a process that drains may take, in seconds."""


@frozen
class ConsumerSettings:
    """The bounds of a consumer; see `Settings`."""

    window: int
    workers: int
    commit_interval_s: float


@frozen
class ConsumerStatistics:
    """What a consumer has in hand and has done.

    Attributes:
        partitions: How many partitions it owns.
        in_hand: How many records it holds.
        handled: How many deliveries succeeded.
        retried: How many attempts failed and were, or will be, repeated.
        dead: How many deliveries were given up.
        pauses: How often a full window paused a partition.
        refused_commits: How often the group had moved on.
        lag: How many records wait in the log; None if that is not known.
    """

    partitions: int
    in_hand: int
    handled: int
    retried: int
    dead: int
    pauses: int
    refused_commits: int
    lag: int | None


@define(eq=False)
class Consumer:
    """The consumer of one module.

    Args:
        module: The module's name.
        group: Its consumer group.
        topics: The topics to read, and where a new group begins.
        subscriptions: The handlers, by topic and message name.
        dead_letter_topic: Where given-up messages go.
    """

    module: str
    group: str
    topics: Mapping[str, Start]
    subscriptions: Mapping[tuple[str, str], Sequence[Subscription]]
    dead_letter_topic: str
    transport: Transport
    environment: Environment
    settings: ConsumerSettings
    slots: Slots

    assigned: bool = field(default=False, init=False)
    _partitions: dict[Partition, PartitionState] = field(factory=dict[Partition, PartitionState], init=False)
    _ready: deque[Delivery] = field(factory=deque[Delivery], init=False)
    _idle: list[anyio.Event] = field(factory=list[anyio.Event], init=False)
    _workers: int = field(default=0, init=False)
    _tasks: anyio.abc.TaskGroup | None = field(default=None, init=False)
    _draining: anyio.Event = field(factory=anyio.Event, init=False)
    _deadline: float = field(default=inf, init=False)
    _settling: list[anyio.Event] = field(factory=list[anyio.Event], init=False)
    _member: Member | None = field(default=None, init=False)
    _handled: int = field(default=0, init=False)
    _retried: int = field(default=0, init=False)
    _dead: int = field(default=0, init=False)
    _pauses: int = field(default=0, init=False)

    async def run(self) -> None:
        """Handle records until drained.

        Raises:
            Unavailable: The log cannot be reached.
            TransportClosed: The group has thrown this member out.
        """
        self._partitions.clear()
        self._ready.clear()
        self._idle.clear()
        self._workers = 0
        async with self.transport.join(self.group, self.topics) as member, anyio.create_task_group() as tasks:
            self._member, self._tasks = member, tasks
            try:
                tasks.start_soon(self._commit_regularly, member)
                tasks.start_soon(self._end_when_draining, member)
                while True:
                    await self._take(member, await member.receive())
            finally:
                self.assigned = False
                self._member = None

    def drain(self, deadline: float) -> None:
        """Take no more records; `run` returns when what is being handled is done.

        Args:
            deadline: When it stops waiting for that, on the event loop's clock in seconds.
        """
        self._deadline = deadline
        self._draining.set()

    def statistics(self) -> ConsumerStatistics:
        """Return what it has in hand and has done."""
        status = self._member.status() if self._member is not None else None
        return ConsumerStatistics(
            partitions=len(self._partitions),
            in_hand=sum(state.in_hand for state in self._partitions.values()),
            handled=self._handled,
            retried=self._retried,
            dead=self._dead,
            pauses=self._pauses,
            refused_commits=0 if status is None else status.refused,
            lag=None if status is None else status.lag,
        )

    # --- the reader --------------------------------------------------------------------------------------------------

    async def _take(self, member: Member, news: Sequence[Record] | Assigned | Revoked) -> None:
        if isinstance(news, Assigned):
            self._partitions = {
                partition: PartitionState(partition, news.generation, self._offer) for partition in news.positions
            }
            self.assigned = True
            if self._draining.is_set():
                member.pause(news.positions)
        elif isinstance(news, Revoked):
            await self._let_go(member)
        elif not self._draining.is_set():
            for record in news:
                self._take_record(member, record)

    def _take_record(self, member: Member, record: Record) -> None:
        state = self._partitions[record.topic, record.partition]
        name = header(record.headers, "ce_type")
        found = self.subscriptions.get((record.topic, name), ()) if name is not None else ()
        state.add(record, [(one, record.key if one.ordered else None) for one in found])
        if state.in_hand >= self.settings.window and not state.paused:
            state.paused = True
            self._pauses += 1
            member.pause([state.partition])

    async def _let_go(self, member: Member) -> None:
        """Let what is being handled finish within a bound, and commit; the next `receive` lets go."""
        self.assigned = False
        states, self._partitions = list(self._partitions.values()), {}
        for state in states:
            state.revoke()
        with anyio.move_on_after(HAND_OVER_S):
            await self._until_settled(states)
        for state in states:
            state.abandon()
        await self._commit(member, states)

    async def _until_settled(self, states: list[PartitionState]) -> None:
        while any(state.handling for state in states):
            settled = anyio.Event()
            self._settling.append(settled)
            await settled.wait()

    async def _end_when_draining(self, member: Member) -> None:
        await self._draining.wait()
        states = list(self._partitions.values())
        member.pause(self._partitions)
        for state in states:
            state.revoke()
        with anyio.CancelScope(deadline=self._deadline, shield=True) as scope:
            await self._until_settled(states)
        if scope.cancelled_caught:
            count = sum(state.handling for state in states)
            _logger.warning("%s: %d messages were not done in time and will come again", self.module, count)
        for state in states:
            state.abandon()
        with anyio.move_on_after(LAST_COMMIT_S, shield=True):
            await self._commit(member, states)
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    def is_idle(self) -> bool:
        """Tell whether there is nothing to do but what waits for its next attempt."""
        busy = self._ready or any(state.handling for state in self._partitions.values())
        return not busy and self.assigned and self.statistics().lag == 0

    # --- the offsets -------------------------------------------------------------------------------------------------

    async def _commit_regularly(self, member: Member) -> None:
        while True:
            await self.environment.clock.sleep(self.settings.commit_interval_s)
            await self._commit(member, [state for state in self._partitions.values() if not state.revoked])

    async def _commit(self, member: Member, states: list[PartitionState]) -> None:
        """Commit the lowest unfinished offset of each partition where it has risen."""
        offsets: dict[Partition, int] = {}
        for state in states:
            watermark = state.watermark()
            if watermark is not None and watermark != state.committed:
                offsets[state.partition] = watermark
        if not offsets:
            return
        try:
            if not await member.commit(states[0].generation, offsets):
                return
        except Unavailable as error:
            _logger.warning("%s: offsets cannot be committed yet: %s", self.module, error)
            return
        for state in states:
            if state.partition in offsets:
                state.committed = offsets[state.partition]

    # --- the workers -------------------------------------------------------------------------------------------------

    def _offer(self, delivery: Delivery) -> None:
        self._ready.append(delivery)
        if self._idle:
            self._idle.pop().set()
        elif self._workers < self.settings.workers and self._tasks is not None:
            self._workers += 1
            self._tasks.start_soon(self._work)

    async def _work(self) -> None:
        while True:
            while self._ready:
                delivery = self._ready.popleft()
                if delivery.state is State.READY:
                    await self._handle(delivery)
            wake = anyio.Event()
            self._idle.append(wake)
            await wake.wait()

    async def _handle(self, delivery: Delivery) -> None:
        state = delivery.owner
        delivery.step(Step.TAKEN)
        state.handling += 1
        try:
            error = await self._attempt(delivery)
            if delivery.state is State.ABANDONED:
                return
            if error is None:
                self._handled += 1
                self._finish(state, delivery, Step.SUCCEEDED)
            elif self._is_permanent(delivery, error):
                await self._give_up(state, delivery, error)
            else:
                self._retry(delivery, error)
        finally:
            state.handling -= 1
            if state.handling == 0:
                while self._settling:
                    self._settling.pop().set()

    def _is_permanent(self, delivery: Delivery, error: BaseException) -> bool:
        """Tell whether there is no further attempt. A declared error is a command's answer, and would be the same the next time."""
        is_answer = isinstance(error, DeclaredError) and type(error) in delivery.subscription.handler.errors
        return (
            is_answer
            or isinstance(error, InvalidMessage)
            or delivery.subscription.retry.is_over(delivery.failures, error)
        )

    async def _attempt(self, delivery: Delivery) -> BaseException | None:
        """Run the handler once; return the error it failed with."""
        record, handler = delivery.record, delivery.subscription.handler
        bus = Bus(
            handler.routes,
            _sender(header(record.headers, "fissile-caller")),
            handler,
            _depth=_number(header(record.headers, "fissile-depth")) + 1,
            _id=header(record.headers, "ce_id") or f"{record.topic}/{record.partition}/{record.offset}",
            _key=(record.key or b"").decode(errors="replace"),
            _attempt=delivery.failures + 1,
        )
        if self.slots.free > 0:
            self.slots.free -= 1
        else:
            await self.slots.wait()
        try:
            message = handler.message.decode(record.value)
            if handler.order_key is None:
                await handler.run(message, bus)
            else:
                async with handler.turns.turn(handler, handler.order_key(message), bus._parent):
                    await handler.run(message, bus)
            handler.handled += 1
        except Exception as error:  # noqa: BLE001 -- whatever a handler raises is a failed attempt
            return self._failed(delivery, only_leaf(error))
        except BaseExceptionGroup as group:
            cancelled, rest = group.split(anyio.get_cancelled_exc_class())
            if cancelled is not None or rest is None:
                raise
            return self._failed(delivery, only_leaf(rest))
        except anyio.get_cancelled_exc_class() as error:
            await anyio.lowlevel.checkpoint_if_cancelled()
            return self._failed(delivery, error)  # somebody else's cancellation, awaited by the handler
        else:
            return None
        finally:
            bus._ended = True
            self.slots.release()

    def _failed(self, delivery: Delivery, error: BaseException) -> BaseException:
        delivery.failures += 1
        delivery.subscription.handler.failed += 1
        return error

    def _retry(self, delivery: Delivery, error: BaseException) -> None:
        pause_s = delivery.subscription.retry.pause_s(delivery.failures, self.environment.random)
        self._retried += 1
        self._log(logging.WARNING, delivery, f"failed; attempt {delivery.failures + 1} in {pause_s:.2g} s", error)
        delivery.step(Step.FAILED)
        assert self._tasks is not None
        self._tasks.start_soon(self._offer_later, delivery, pause_s)

    async def _offer_later(self, delivery: Delivery, pause_s: float) -> None:
        await self.environment.clock.sleep(pause_s)
        if delivery.state is State.WAITING:
            delivery.step(Step.DUE)
            self._offer(delivery)

    async def _give_up(self, state: PartitionState, delivery: Delivery, error: BaseException) -> None:
        """Store the dead letter; while that fails, the message stays in hand: it is done only when it is stored somewhere."""
        delivery.step(Step.GIVEN_UP)
        self._log(logging.ERROR, delivery, f"given up after {delivery.failures} attempts; see the dead letters", error)
        letter = bury(self.dead_letter_topic, self.group, delivery, error)
        pause_s = 0.2
        while True:
            try:
                await self.transport.append([letter])
                break
            except Unavailable as unavailable:
                _logger.warning("%s: a dead letter cannot be stored yet: %s", self.module, unavailable)
                await self.environment.clock.sleep(pause_s)
                pause_s = min(10.0, pause_s * 2)
        if delivery.state is not State.ABANDONED:
            self._dead += 1
            self._finish(state, delivery, Step.BURIED)

    def _finish(self, state: PartitionState, delivery: Delivery, step: Step) -> None:
        delivery.step(step)
        state.finish(delivery)
        if (
            state.paused
            and state.in_hand <= self.settings.window // 2
            and not state.revoked
            and self._member is not None
        ):
            state.paused = False
            self._member.resume([state.partition])

    def _log(self, level: int, delivery: Delivery, what: str, error: BaseException) -> None:
        record = delivery.record
        _logger.log(
            level,
            "%s: %s %s",
            delivery.subscription.name,
            header(record.headers, "ce_type"),
            what,
            exc_info=error,
            extra={
                "fissile_module": self.module,
                "message_id": header(record.headers, "ce_id"),
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "attempt": delivery.failures,
            },
        )


_senders: dict[str | None, Bus] = {}


def _sender(module: str | None) -> Bus:
    """Return what stands for the sender of a message that came through a log: it tells its name and nothing else."""
    sender = _senders.get(module)
    if sender is None:
        sender = _senders[module] = Bus(Routes(module))
    return sender


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() and len(text) < 6 else 0
