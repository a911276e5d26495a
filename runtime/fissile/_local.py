"""The local call: the remote call with the network left out, and nothing else.

The message and its reply cross the boundary as bytes, the handler runs in a context of its own, bounds hold, errors are named as they would
be from afar. What it does without, because each costs as much as all of that: a task, a scope, a timer or a clock per call.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from math import inf
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from fissile._bounds import Gate, holds_slot
from fissile._bus import Queries, Route
from fissile._codec import ENCODE_ERRORS
from fissile._errors import CallRefused, DeadlineExceeded, InvalidMessage, MessageTooLarge, Overloaded
from fissile._handler import Handler
from fissile._isolation import current_bus, drive

Call = Callable[..., Coroutine[Any, Any, Any]]
"""Takes the caller's bus, the message, its id, the deadline of the chain and the key to the reply."""

CALLS_BETWEEN_TURNS = 128
"""After so many calls in a row the event loop gets a turn. A local call suspends nobody, so that a handler which only calls would starve
every other task, and its own deadline would never come."""

_no_calls: contextvars.ContextVar[str | None] = contextvars.ContextVar("fissile.no_calls", default=None)


@contextmanager
def forbid_calls(reason: str) -> Generator[None]:
    """Refuse calls to modules within the block: for resources that hold a transaction open.

    In one process a call inside a transaction would see its effects and could deadlock with it; in two processes it would do neither. So it
    is refused in every placement.

    Args:
        reason: What is going on, such as `a transaction of orders is open`.
    """
    token = _no_calls.set(reason)
    try:
        yield
    finally:
        _no_calls.reset(token)


def local_route(
    handler: Handler,
    gate: Gate,
    *,
    default_timeout_s: float,
    depth_limit: int,
    checkpoint_if_cancelled: Callable[[], Coroutine[Any, Any, None]],
) -> Route:
    """Build the way from one caller to one handler in the same process.

    Args:
        handler: The handler.
        gate: The bound of calls that the caller has in flight to the handler's module.
        default_timeout_s: The deadline of a chain whose caller has none, in seconds.
        depth_limit: How many calls may be nested.
        checkpoint_if_cancelled: The event loop's own.
    """
    name, limit = handler.name, handler.message.limit_bytes
    check, encode, decode = handler.message.check, handler.message.encode_value, handler.message.decode_value
    reply_check, reply_codec = handler.reply.check, handler.reply
    encode_reply, decode_reply, reply_limit = (
        reply_codec.encode_value,
        reply_codec.decode_value,
        reply_codec.limit_bytes,
    )
    slots, routes, call_handler, bus_type = handler.slots, handler.routes, handler.call, handler.bus_type
    copy_context, set_current, forbidden = handler.context.copy, current_bus.set, _no_calls.get
    calls_in_a_row = 0

    async def call(bus: Queries, message: Any, message_id: str | None, deadline: float, key: str | None = None) -> Any:
        nonlocal calls_in_a_row
        depth = bus._depth + 1
        if depth > depth_limit or bus._ended or forbidden() is not None:
            raise refusal(name, depth_limit, bus)
        # Bytes: what the handler gets is what a handler in another process would get.
        if check is not None and (problem := check(message)) is not None:
            raise InvalidMessage(name, problem)
        try:
            data = encode(message)
            if len(data) > limit:
                raise MessageTooLarge(name, len(data), limit)
            received = decode(data)
        except ENCODE_ERRORS as error:
            raise _invalid(name, error) from None
        # Bounds.
        if gate.in_flight >= gate.limit:
            raise overloaded(name, gate)
        gate.in_flight += 1
        bus._children = index = bus._children + 1
        has_slot = False
        try:
            calls_in_a_row += 1
            if calls_in_a_row < CALLS_BETWEEN_TURNS:
                await checkpoint_if_cancelled()
            else:
                calls_in_a_row = 0
                await checkpoint()
            if slots.free > 0:
                slots.free -= 1
                has_slot = True
            elif not holds_slot(bus, handler.module):
                await slots.wait()
                has_slot = True
            # Isolation.
            child = bus_type(routes, bus, handler, deadline, depth, index, message_id, key)
            context = copy_context()
            run = context.run
            run(set_current, child)
            try:
                coroutine = call_handler(received, child)
                try:
                    yielded = run(coroutine.send, None)
                except StopIteration as stop:
                    reply = stop.value
                else:
                    reply = await drive(run, coroutine, yielded)
                # The reply crosses before anything is published: a handler whose reply cannot be sent has failed.
                if reply_check is not None and (problem := reply_check(reply)) is not None:
                    raise InvalidMessage(reply_codec.name, problem)
                data = encode_reply(reply)
                if len(data) > reply_limit:
                    raise MessageTooLarge(reply_codec.name, len(data), reply_limit)
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
                slots.release()
        # Raised out here, so that the handler's own error is neither its cause nor its context.
        raise failure

    whole = call if handler.order_key is None else _in_turn(call, handler)

    def route(bus: Queries, message: Any, message_id: str | None) -> Coroutine[Any, Any, Any]:
        deadline = bus._deadline
        if deadline != inf:
            return whole(bus, message, message_id, deadline)
        return _start_chain(whole, handler, default_timeout_s, bus, message, message_id)

    return route


async def _start_chain(
    call: Call, handler: Handler, timeout_s: float, bus: Queries, message: Any, message_id: str | None
) -> Any:
    """Begin a chain: under the deadline of the enclosing scope, or under one of its own where there is none."""
    deadline = anyio.current_effective_deadline()
    if deadline != inf:
        return await call(bus, message, message_id, deadline)
    deadline = anyio.current_time() + timeout_s
    with anyio.CancelScope(deadline=deadline):
        return await call(bus, message, message_id, deadline)
    raise DeadlineExceeded(
        f"{handler.name} did not answer within {timeout_s:g} s (setting FISSILE_CALL_TIMEOUT_S, or a scope such as anyio.fail_after). "
        "It may have happened."
    )


def _in_turn(call: Call, handler: Handler) -> Call:
    order_key = handler.order_key
    assert order_key is not None

    async def call_in_turn(bus: Queries, message: Any, message_id: str | None, deadline: float) -> Any:
        key = _key_of(handler, order_key, message)
        async with handler.turns.turn(handler, key, bus):
            return await call(bus, message, message_id, deadline, key)

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
