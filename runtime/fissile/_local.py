"""The local call: the remote call with the network left out, and nothing else.

The message and its reply cross the boundary as bytes, the handler runs in a context of its own, bounds hold, errors are named as they would
be from afar. What it does without, because each costs as much as all of that: a task, a scope, a timer or a clock per call.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from math import inf
from types import coroutine
from typing import Any, cast

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from fissile._bounds import Gate, holds_slot
from fissile._bus import Queries, Route
from fissile._codec import ENCODE_ERRORS
from fissile._errors import CallRefused, DeadlineExceeded, InvalidMessage, MessageTooLarge, Overloaded
from fissile._forbidden_calls import forbidden_in as _forbidden_in
from fissile._forbidden_calls import no_calls as _no_calls
from fissile._handler import Handler
from fissile._isolation import current_bus, drive
from fissile._trace import chain_begins

Call = Callable[..., Coroutine[Any, Any, Any]]
"""Takes the caller's bus, the message, its id, the deadline of the chain and the key to the reply."""

Begin = Callable[[Call, Handler, Queries, Any, "str | None"], Coroutine[Any, Any, Any]]
"""Begins a chain with a call: takes the call, its handler, the caller's bus, the message and its id."""

CALLS_BETWEEN_TURNS = 128
"""After so many calls in a row the event loop gets a turn. A local call suspends nobody, so that a handler which only calls would starve
every other task, and its own deadline would never come."""

_ENDED: Any = object()


def local_route(
    handler: Handler,
    gate: Gate,
    *,
    begin: Begin,
    depth_limit: int,
    is_cancelled: Callable[[], bool],
) -> Route:
    """Build the way from one caller to one handler in the same process.

    Args:
        handler: The handler.
        gate: The bound of calls that the caller has in flight to the handler's module.
        begin: Begins a chain; see `chain_beginning`.
        depth_limit: How many calls may be nested.
        is_cancelled: Tells whether the code that runs may be in a cancelled scope; see `_cancellation.py`.
    """
    message_codec, reply_codec, slots = handler.message, handler.reply, handler.slots
    check, encode, decode = message_codec.check, message_codec.encode_value, message_codec.decode_value
    reply_check, encode_reply, decode_reply = reply_codec.check, reply_codec.encode_value, reply_codec.decode_value
    limit, reply_limit = message_codec.limit_bytes, reply_codec.limit_bytes
    set_current, handle = current_bus.set, handler.call
    handle_alone: Callable[..., Any] = handler.call_alone or handler.call
    calls_before_turn = CALLS_BETWEEN_TURNS
    returned: Any = None  # by the handler; `call` takes it before anything else can run

    # A generator that ends without a value makes `next` return its default, whereas a coroutine can only end by raising, which costs
    # 0.15 µs more. And in here the bus is set without entering the context once more for it.
    @coroutine
    def steps_with_bus(received: Any, bus: Queries) -> Generator[Any, Any, None]:
        nonlocal returned
        set_current(bus)
        returned = yield from handle(received, bus)  # pyright: ignore[reportUnknownVariableType]

    @coroutine
    def steps_alone(received: Any, bus: Queries) -> Generator[Any, Any, None]:
        nonlocal returned
        set_current(bus)
        returned = yield from handle_alone(received)  # pyright: ignore[reportUnknownVariableType]

    # Any: for the type checkers, what @coroutine makes is no generator.
    start = cast("Callable[[Any, Queries], Any]", steps_alone if handler.call_alone else steps_with_bus)

    # Below, what is rare is read from `handler`: each name of the enclosing function is copied into the frame at every call, and a frame
    # of more than 512 bytes costs another 0.05 µs, because the interpreter's own allocator does not take it.
    async def call(
        bus: Queries, message: Any, message_id: str | None, deadline: float | None = None, key: str | None = None
    ) -> Any:
        nonlocal calls_before_turn, returned
        if deadline is None:
            deadline = bus._deadline
            if deadline == inf:
                return await begin(call, handler, bus, message, message_id)
        if bus._depth >= depth_limit or bus._ended or (_forbidden_in and _no_calls.get() is not None):
            raise refusal(handler.name, depth_limit, bus)
        # Bytes: what the handler gets is what a handler in another process would get.
        if check is not None and (problem := check(message)) is not None:
            raise InvalidMessage(handler.name, problem)
        try:
            data = encode(message)
            if len(data) > limit:
                raise MessageTooLarge(handler.name, len(data), limit)
            message = decode(data)
        except ENCODE_ERRORS as error:
            raise _invalid(handler.name, error) from None
        # Bounds.
        if gate.in_flight >= gate.limit:
            raise overloaded(handler.name, gate)
        gate.in_flight += 1
        has_slot = False
        try:
            calls_before_turn -= 1
            if not calls_before_turn:
                calls_before_turn = CALLS_BETWEEN_TURNS
                await checkpoint()
            elif is_cancelled():
                await checkpoint_if_cancelled()
            if slots.free > 0:
                slots.free -= 1
                has_slot = True
            elif not holds_slot(bus, handler.module):
                await slots.wait()
                has_slot = True
            # Isolation.
            bus._children = index = bus._children + 1
            child = handler.bus_type(handler.routes, bus, handler, deadline, bus._depth + 1, index, message_id, key)
            context = handler.context.copy()
            steps = start(message, child)
            try:
                if (reply := context.run(next, steps, _ENDED)) is not _ENDED:
                    await drive(context.run, steps, reply)
                reply, returned = returned, None
                # The reply crosses before anything is published: a handler whose reply cannot be sent has failed.
                if reply_check is not None and (problem := reply_check(reply)) is not None:
                    raise InvalidMessage(handler.reply.name, problem)
                data = encode_reply(reply)
                if len(data) > reply_limit:
                    raise MessageTooLarge(handler.reply.name, len(data), reply_limit)
                reply = decode_reply(data)
                if child._outgoing:
                    await handler.flush(child)
                handler.handled += 1
                return reply
            except BaseException as error:
                failure = await handler.failure(error, child)
                if failure is None:
                    raise
            finally:
                child._ended = True
        finally:
            gate.in_flight -= 1
            if has_slot:
                if slots.line:
                    slots.release()
                else:
                    slots.free += 1
        # Raised out here, so that the handler's own error is neither its cause nor its context.
        raise failure

    return call if handler.order_key is None else _in_turn(call, handler, gate, begin)


def chain_beginning(timeout_s: float, scope_deadline: Callable[[], float]) -> Begin:
    """Return what begins a chain: under the deadline of the enclosing scope, or under one of its own where there is none.

    Args:
        timeout_s: The deadline of a chain whose caller has none, in seconds.
        scope_deadline: Tells the deadline of the code that runs; see `_cancellation.py`.
    """

    async def begin(call: Call, handler: Handler, bus: Queries, message: Any, message_id: str | None) -> Any:
        bus = chain_begins(bus)
        deadline = scope_deadline()
        if deadline != inf:
            return await call(bus, message, message_id, deadline)
        deadline = anyio.current_time() + timeout_s
        with anyio.CancelScope(deadline=deadline):
            return await call(bus, message, message_id, deadline)
        raise deadline_exceeded(handler.name, timeout_s)

    return begin


def deadline_exceeded(name: str, timeout_s: float) -> DeadlineExceeded:
    """Say that a chain has ended at the default deadline."""
    return DeadlineExceeded(
        f"{name} did not answer within {timeout_s:g} s (setting FISSILE_CALL_TIMEOUT_S, or a scope such as anyio.fail_after). "
        "It may have happened."
    )


def _in_turn(call: Call, handler: Handler, gate: Gate, begin: Begin) -> Route:
    order_key = handler.order_key
    assert order_key is not None

    async def call_in_turn(bus: Queries, message: Any, message_id: str | None, deadline: float | None = None) -> Any:
        if deadline is None:
            deadline = bus._deadline
            if deadline == inf:
                return await begin(call_in_turn, handler, bus, message, message_id)
        key = _key_of(handler, order_key, message)
        # Who waits for his turn is in flight already; `call` counts him from there on, without a checkpoint in between.
        if gate.in_flight >= gate.limit:
            raise overloaded(handler.name, gate)
        gate.in_flight += 1
        is_waiting = True
        try:
            async with handler.turns.turn(handler, key, bus):
                gate.in_flight -= 1
                is_waiting = False
                return await call(bus, message, message_id, deadline, key)
        finally:
            if is_waiting:
                gate.in_flight -= 1

    return call_in_turn


def _key_of(handler: Handler, order_key: Callable[[Any], str], message: Any) -> str:
    try:
        return str(order_key(message))
    except Exception as error:  # noqa: BLE001 -- the developer's function may raise anything
        raise InvalidMessage(handler.name, f"its key cannot be made ({type(error).__name__}: {error})") from None


def _invalid(name: str, error: Exception) -> InvalidMessage:
    if isinstance(error, InvalidMessage):
        return error
    text = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return InvalidMessage(name, text[:1].lower() + text[1:])


def is_refused(bus: Queries, depth_limit: int) -> bool:
    """Tell whether no call may be made here."""
    return bus._depth >= depth_limit or bus._ended or _no_calls.get() is not None


def refusal(name: str, depth_limit: int, bus: Queries) -> CallRefused:
    """Say why no call may be made here."""
    if bus._ended:
        return CallRefused(
            f"{name} was not called: {bus!r} belongs to a handler that has ended, and so have its deadline and its chain. "
            "Call before it ends, or use the bus of a worker."
        )
    reason = _no_calls.get()
    if reason is not None:
        return CallRefused(
            f"{name} was not called: {reason}. Call it before or after; or, where it must be one with the transaction, through the outbox."
        )
    return CallRefused(
        f"{name} was not called: the chain is already {depth_limit} calls deep (setting FISSILE_CHAIN_DEPTH); "
        "do modules call each other in a circle?"
    )


def overloaded(name: str, gate: Gate) -> Overloaded:
    """Refuse a call because too many are in flight, and count it."""
    gate.refused += 1
    return Overloaded(
        f"{name} was not called: this caller already has {gate.in_flight} calls in flight to its module "
        "(setting FISSILE_CALLS_IN_FLIGHT). It did not happen; try again later."
    )
