"""One attempt after the other: runs the handler of a delivery, and decides what its outcome means.

A request has a caller who waits and decides, so it is tried once and answered. An event, or a command that nobody waits for, is tried again with
backoff, and at last becomes a dead letter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, cast

import anyio
import anyio.abc
import anyio.lowlevel
from attrs import define, field

from fissile._bounds import holds_slot
from fissile._bus import Queries
from fissile._clock import Environment
from fissile._delivery.answers import answer, answer_failure, answer_invalid, answer_reply, bus_of, headers_of_answer
from fissile._delivery.dead_letters import DeadLetter, bury, shorten, tombstone, write
from fissile._delivery.held_keys import HeldKeys, KeyParked
from fissile._delivery.lifecycle import Delivery, State, Step
from fissile._delivery.partition import PartitionState
from fissile._delivery.workers import Workers
from fissile._envelope import CONTENT_TYPE, header
from fissile._errors import (
    CallError,
    DeadlineExceeded,
    Forbidden,
    InvalidMessage,
    MessageTooLarge,
    Overloaded,
    PartitionLost,
    Postponed,
    TransportClosed,
    Unavailable,
    UnknownMessage,
)
from fissile._handler import Handler, only_leaf
from fissile._identity import NotAllowed
from fissile._messages import DeclaredError
from fissile._parking import loop_time
from fissile._requests import INVALID, Request
from fissile._retry import Retry
from fissile._trace import trace_id_in
from fissile.abc import Outgoing, Stored, Transport

_logger = logging.getLogger("fissile.delivery")

_UNAVAILABLE = Retry(longest_s=10.0)


@define(eq=False)
class Attempts:
    """Handles the deliveries of one module.

    Args:
        module: The module's name.
        group: Its consumer group.
        dead_letter_topic: Where given-up messages go.
        worker_limit: How many are handled at a time.
        repeats: Whether each delivery that bears it is handled twice; for tests.
        on_finished: Told of each delivery that is done.
        held: What is known of parked keys, where a handler parks.
    """

    module: str
    group: str
    dead_letter_topic: str
    transport: Transport
    environment: Environment
    worker_limit: int
    repeats: bool
    on_finished: Callable[[Delivery], None]
    held: HeldKeys | None = None
    handled: int = field(default=0, init=False)
    retried: int = field(default=0, init=False)
    dead: int = field(default=0, init=False)
    expired: int = field(default=0, init=False)
    cancelled: int = field(default=0, init=False)
    settling: list[anyio.Event] = field(factory=list[anyio.Event], init=False)
    tasks: anyio.abc.TaskGroup | None = field(default=None, init=False)
    workers: Workers = field(init=False)
    time: Callable[[], float] = field(factory=loop_time, init=False)

    def __attrs_post_init__(self) -> None:
        self.workers = Workers(self.worker_limit, self.handle)

    def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Begin anew, in this task group."""
        self.tasks = tasks
        self.workers.start(tasks)
        tasks.start_soon(self.workers.sweeper.run)

    async def until_settled(self, states: list[PartitionState]) -> None:
        """Wait until nothing of some partitions is being handled."""
        while any(state.handling for state in states):
            settled = anyio.Event()
            self.settling.append(settled)
            await settled.wait()

    def handle(self, delivery: Delivery) -> Coroutine[Any, Any, None]:  # Any: its other two types, which nobody uses
        """Return what handles a delivery in a worker, whatever it is: an event, a command that nobody waits for, a request."""
        # No coroutine around these, and few in them: one in another takes as long as a small message to decode.
        return self._serve(delivery) if delivery.request is not None else self._deliver(delivery)

    def _begins(self, delivery: Delivery) -> bool:
        """Take a delivery; return False where that is all, because nobody waits for it any longer."""
        delivery.step(Step.TAKEN)
        delivery.owner.handling += 1
        if not delivery.is_given_up and delivery.deadline > self.time():
            return True
        self.expired += 1
        self._finish(delivery, Step.SUCCEEDED)
        self._settle(delivery.owner)
        return False

    def _stopped(self, delivery: Delivery) -> None:
        """Learn that the handler of a delivery was cancelled: because nobody waits for it any longer, or with its worker."""
        if delivery.is_given_up and delivery.state is State.HANDLING:
            self.cancelled += 1
            self._finish(delivery, Step.SUCCEEDED)

    def _settle(self, state: PartitionState) -> None:
        state.handling -= 1
        if state.handling == 0:
            while self.settling:
                self.settling.pop().set()

    # A request: its caller waits, and decides what a failure means. So it is tried once.

    async def _serve(self, delivery: Delivery) -> None:
        if not self._begins(delivery):
            return
        request, handler = delivery.request, delivery.subscription.handler
        assert request is not None, delivery
        settles_later = False
        try:
            if self.repeats and delivery.subscription.bears_repeats:
                await self._rehearse(delivery)
            bus = bus_of(delivery)
            answer: Outgoing | None
            try:
                message = handler.message.read(delivery.record.value, delivery.headers.get(CONTENT_TYPE))
            except InvalidMessage as error:
                answer = answer_invalid(request, error)
            else:
                try:
                    reply = await self._run(delivery, message, bus)
                except BaseException as error:  # noqa: BLE001 -- what goes on is raised in there
                    answer = await self._answer_to(delivery, request, bus, error)
                else:
                    answer = answer_reply(request, reply, headers_of_answer(delivery, bus))
            if answer is None:
                self._finish(delivery, Step.SUCCEEDED)
            else:
                settles_later = self._send_answer(delivery, answer)
        except anyio.get_cancelled_exc_class():
            self._stopped(delivery)
            raise
        finally:
            if not settles_later:
                self._settle(delivery.owner)

    async def _answer_to(
        self, delivery: Delivery, request: Request, bus: Queries, error: BaseException
    ) -> Outgoing | None:
        """Return the answer of a request whose handler raised, or None where another process gives it; raise a cancellation on."""
        if isinstance(error, PartitionLost):
            self._log(logging.WARNING, delivery, "is handled by another process", error)
            return None
        failure = await delivery.subscription.handler.failure(error, bus)
        if failure is None:
            raise error
        if isinstance(failure, InvalidMessage):
            return answer_invalid(request, failure)
        return answer_failure(request, delivery, failure, bus)

    def _send_answer(self, delivery: Delivery, reply: Outgoing) -> bool:
        """Store a reply; the request is done when it is stored, or when it turns out that it cannot be.

        Returns:
            Whether the delivery is settled later.
        """
        state = delivery.owner

        def stored(result: Stored | CallError) -> None:
            if isinstance(result, CallError):
                self._log(logging.WARNING, delivery, "was handled, and its reply could not be sent", result)
            if delivery.state is State.HANDLING:
                self.handled += 1
                self._finish(delivery, Step.SUCCEEDED)
            self._settle(state)

        try:
            self.transport.append_nowait([reply], stored)
        except (CallError, TransportClosed) as error:
            self._log(logging.WARNING, delivery, "was handled, and its reply could not be sent", error)
            if delivery.state is State.HANDLING:
                self._finish(delivery, Step.SUCCEEDED)
            return False
        return True

    def refuse(self, request: Request, reason: str) -> None:
        """Tell a caller at once that its message is known to nobody here; it decides, as with any answer."""
        with suppress(CallError, TransportClosed):
            self.transport.append_nowait([answer(request, INVALID, reason.encode())], lambda _: None)

    # An event, or a command that nobody waits for: it is tried again, and given up to the dead letters.

    async def _deliver(self, delivery: Delivery) -> None:
        delivery.step(Step.TAKEN)
        delivery.owner.handling += 1
        handler = delivery.subscription.handler
        try:
            error = None
            if self.held is not None or delivery.is_orphan:
                error = await self._refusal(delivery)
            if error is None:
                if self.repeats and delivery.subscription.bears_repeats:
                    await self._rehearse(delivery)
                bus = bus_of(delivery)
                try:
                    message = handler.message.read(delivery.record.value, delivery.headers.get(CONTENT_TYPE))
                    await self._run(delivery, message, bus)
                except NotAllowed as refused:
                    handler.refused += 1
                    error = self._failed(delivery, refused.error)
                except BaseException as failure:  # noqa: BLE001 -- whatever a handler raises is a failed attempt
                    error = self._failed(delivery, await _failure_in(failure))
            if error is None and delivery.retried is None and delivery.state is State.HANDLING:
                self.handled += 1
                self._finish(delivery, Step.SUCCEEDED)
            elif delivery.state is not State.ABANDONED:
                await self._conclude(delivery, error)
        except anyio.get_cancelled_exc_class():
            self._stopped(delivery)
            raise
        finally:
            self._settle(delivery.owner)

    async def _conclude(self, delivery: Delivery, error: BaseException | None) -> None:
        """Do what follows from the outcome of an attempt that did not just succeed."""
        if error is None:
            if delivery.retried is not None and not await self._resolve(delivery, delivery.retried.id):
                return
            self.handled += 1
            self._finish(delivery, Step.SUCCEEDED)
        elif self._is_permanent(delivery, error):
            await self._bury(delivery, error)
        else:
            self._retry(delivery, error)

    async def _refusal(self, delivery: Delivery) -> BaseException | None:
        """Return why the handler is not even tried, if it is not."""
        if delivery.is_orphan:
            return _gone(delivery)
        subscription = delivery.subscription
        if self.held is None or not subscription.retry.parks or not subscription.ordered or delivery.failures:
            return None
        return await self.held.parked_behind(delivery)

    async def _rehearse(self, delivery: Delivery) -> None:
        """Handle a delivery as if the process had died right after: all effects, the same ids, and nobody to hear of the outcome."""
        try:
            codec = delivery.subscription.handler.message
            message = codec.read(delivery.record.value, delivery.headers.get(CONTENT_TYPE))
            await self._run(delivery, message, bus_of(delivery))
        except BaseException as error:  # noqa: BLE001 -- likewise
            await _failure_in(error)

    def _run(self, delivery: Delivery, message: Any, bus: Queries) -> Coroutine[Any, Any, bytes]:
        """Return what runs the handler within its bounds, to be awaited at once; it raises whatever the handler raises."""
        handler = delivery.subscription.handler
        slots = handler.slots
        if handler.order_key is not None:
            return self._run_in_turn(handler, str(handler.order_key(message)), message, bus)
        if slots.free > 0:
            slots.free -= 1
            return handler.run(message, bus, has_slot=True)
        return self._run_in_slot(handler, message, bus)

    async def _run_in_turn(self, handler: Handler, key: str, message: Any, bus: Queries) -> bytes:
        try:
            # First the turn, then the slot, as a local call has it: the other way round the two could wait for each other.
            async with handler.turns.turn(handler, key, bus._parent):
                return await self._run_in_slot(handler, message, bus)
        finally:
            bus._ended = True

    async def _run_in_slot(self, handler: Handler, message: Any, bus: Queries) -> bytes:
        slots = handler.slots
        has_slot = True
        if slots.free > 0:
            slots.free -= 1
        elif holds_slot(bus._parent, handler.module):
            has_slot = False
        else:
            try:
                await slots.wait()
            except BaseException:
                bus._ended = True
                raise
        return await handler.run(message, bus, has_slot=has_slot)

    def _is_permanent(self, delivery: Delivery, error: BaseException) -> bool:
        """Tell whether there is no further attempt. A declared error is a command's answer, and would be the same the next time."""
        if isinstance(error, Postponed):
            return False
        is_answer = isinstance(error, DeclaredError) and type(error) in delivery.subscription.handler.errors
        return (
            is_answer
            or delivery.is_orphan
            or isinstance(error, (InvalidMessage, KeyParked, Forbidden))  # who asks does not change
            or delivery.subscription.retry.is_over(delivery.failures, error)
        )

    def _failed(self, delivery: Delivery, error: BaseException) -> BaseException:
        if isinstance(error, Postponed):
            delivery.postponed += 1
            return error
        delivery.failures += 1
        delivery.postponed = 0
        if delivery.failures == 1:
            delivery.first_failed = self.environment.clock.now()
        delivery.subscription.handler.failed += 1
        return error

    def _retry(self, delivery: Delivery, error: BaseException) -> None:
        if delivery.postponed:
            pause_s = _UNAVAILABLE.pause_s(delivery.postponed, self.environment.random)
            what = "cannot be handled now; tried again"
        else:
            pause_s = delivery.subscription.retry.pause_s(delivery.failures, self.environment.random)
            what = f"failed; attempt {delivery.failures + 1}"
        self.retried += 1
        self._log(logging.WARNING, delivery, f"{what} in {pause_s:.2g} s", error)
        delivery.step(Step.FAILED)
        assert self.tasks is not None
        self.tasks.start_soon(self._offer_later, delivery, pause_s)

    async def _offer_later(self, delivery: Delivery, pause_s: float) -> None:
        await self.environment.clock.sleep(pause_s)
        if delivery.state is State.WAITING:
            delivery.step(Step.DUE)
            self.workers.offer(delivery)

    async def _bury(self, delivery: Delivery, error: BaseException) -> None:
        """Store the dead letter; while that fails, the message stays in hand: it is done only when it is stored somewhere."""
        delivery.step(Step.GIVEN_UP)
        letter = bury(self.module, self.group, delivery, error, self.environment.clock.now())
        if isinstance(error, KeyParked):
            _logger.warning("%s: %s is %s", letter.handler, letter.name, error)
        else:
            what = f"given up after {letter.attempts} attempts; see the dead letter {letter.id}"
            self._log(logging.ERROR, delivery, what, error)
        for smaller in (letter, *shorten(letter)):
            try:
                await self._store_letter(letter.id, smaller)
                break
            except MessageTooLarge:
                if not smaller.is_complete:
                    raise
        if delivery.retried is not None and delivery.retried.id != letter.id:
            await self._store_letter(delivery.retried.id, None)
        if delivery.state is State.BURYING:
            self.dead += 1
            self._finish(delivery, Step.BURIED)

    async def _resolve(self, delivery: Delivery, letter_id: str) -> bool:
        """Forget the dead letter of a retry that succeeded; False if it was abandoned meanwhile, and comes again."""
        await self._store_letter(letter_id, None)
        return delivery.state is State.HANDLING

    async def _store_letter(self, letter_id: str, letter: DeadLetter | None) -> None:
        """Store a dead letter, or that it is no more, however long that takes: before that its message is not done.

        Raises:
            MessageTooLarge: It is larger than a record may be.
        """
        topic = self.dead_letter_topic
        record = tombstone(topic, letter_id) if letter is None else write(topic, letter)
        failures = 0
        while True:
            try:
                ((_, offset),) = await self.transport.append([record])
            except (Unavailable, DeadlineExceeded, Overloaded) as unavailable:
                failures += 1
                _logger.warning("%s: a dead letter cannot be stored yet: %s", self.module, unavailable)
                await self.environment.clock.sleep(_UNAVAILABLE.pause_s(failures, self.environment.random))
            else:
                if self.held is not None:
                    self.held.note(letter_id, letter, offset)
                return

    def _finish(self, delivery: Delivery, step: Step) -> None:
        delivery.step(step)
        state = delivery.owner
        state.finish(delivery)
        self.on_finished(delivery)

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
                "trace_id": trace_id_in(delivery.headers),
            },
        )


def _gone(delivery: Delivery) -> UnknownMessage:
    """Return why a retry cannot be delivered: its handler is no more."""
    return UnknownMessage(
        f"There is no handler {delivery.subscription.name} for {header(delivery.record.headers, 'ce_type')} any more. Was it renamed "
        "or taken out? Bring it back and retry the dead letter, or archive it."
    )


async def _failure_in(error: BaseException) -> BaseException:
    """Return what a handler failed with; raise it on if it is the cancellation of the worker, or the end of the process.

    Whatever else a handler raises is a failed attempt: SystemExit too, and the cancellation of something that it awaited.
    """
    cancelled_class = anyio.get_cancelled_exc_class()
    if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
        raise error
    if isinstance(error, cancelled_class):
        await anyio.lowlevel.checkpoint_if_cancelled()
    elif isinstance(error, BaseExceptionGroup):
        cancelled, rest = cast("BaseExceptionGroup[BaseException]", error).split(cancelled_class)
        if cancelled is not None or rest is None:
            raise error
        return only_leaf(rest)
    return only_leaf(error)
