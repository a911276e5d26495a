"""The callee's side of every message: bind the parameters, run the handler in isolation, name the outcome.

One `Handler` is built per handled message when the process starts. What is off is absent: without middleware there is no middleware in
the way, a handler without a bus gets none made for its parameters.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any, Literal, cast

import anyio
import anyio.to_thread
import msgspec
from anyio.lowlevel import checkpoint_if_cancelled
from attrs import define, field

from fissile._bounds import Slots, Turns
from fissile._bus import Bus, Caller, Queries, Routes
from fissile._codec import Codec, ErrorCodec
from fissile._errors import HandlerFailed, IdReused, InvalidMessage, MessageTooLarge, Postponed
from fissile._identity import NotAllowed, identity_of
from fissile._isolation import current_bus, drive
from fissile._messages import DeclaredError
from fissile._module import Handling, Middleware
from fissile._trace import trace_fields, trace_of

Kind = Literal["command", "query", "event"]

_logger = logging.getLogger("fissile.handler")


@define(eq=False)
class Handler:
    """One handler of one message, ready to run.

    Attributes:
        name: The message's name, such as `orders.place-order`.
        kind: What the message is.
        module: The module that handles it.
        message_type: The message's class.
        message: Its codec.
        reply: The codec of the reply.
        errors: The codecs of the declared errors, by class.
        call: Makes the coroutine that handles a message; to be run in a context of its own.
        call_alone: The same for a handler that takes no bus, without the call in between; None for one that does.
        routes: Where the messages go that the handler sends.
        context: What the resources of the module have set, copied for each message.
        slots: The bound of handlers running, which commands and queries of a module have apart.
        turns: Whose turn it is, for commands with a key.
        order_key: Gives the key of a command, or None if it has none.
        handled: How many messages it has handled.
        declared: How many ended with a declared error.
        failed: How many attempts failed.
        refused: How many messages came from who lacks a scope.
        bus_type: Whether its bus can do more than ask.
    """

    name: str
    kind: Kind
    module: str
    message_type: type
    message: Codec[Any]
    reply: Codec[Any]
    errors: dict[type[DeclaredError], ErrorCodec]
    call: Callable[[Any, Queries], Coroutine[Any, Any, Any]]
    routes: Routes
    context: Context
    slots: Slots
    turns: Turns
    order_key: Callable[[Any], str] | None = None
    handled: int = 0
    declared: int = 0
    failed: int = 0
    refused: int = 0
    bus_type: type[Queries] = field(init=False)
    call_alone: Callable[[Any], Coroutine[Any, Any, Any]] | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.bus_type = Queries if self.kind == "query" else Bus
        self.call_alone = self.call.function if isinstance(self.call, WithoutBus) else None

    async def run(self, message: Any, bus: Queries, *, has_slot: bool) -> bytes:
        """Handle a message on the given bus, and store what the handler published.

        Args:
            message: The message.
            bus: Its bus, which has ended after that.
            has_slot: Whether one of `slots` was taken for it, to be given back here.

        Returns:
            The reply, encoded. It is also decoded once: a handler whose reply its caller could not read has failed, and publishes nothing.

        Raises:
            Exception: Whatever the handler raises.
        """
        try:
            # As `run_isolated` has it, without a coroutine in between.
            run = self.context.copy().run
            run(current_bus.set, bus)
            handling = self.call(message, bus) if self.call_alone is None else self.call_alone(message)
            try:
                yielded = run(handling.send, None)
            except StopIteration as stop:
                reply = stop.value
            else:
                reply = await drive(run, handling, yielded)
            data = b"" if reply is None and self.kind == "event" else self.cross(reply)  # nobody waits for an event's
            if bus._outgoing:
                await self.flush(bus)
            self.handled += 1
            return data
        finally:
            bus._ended = True
            if has_slot:
                self.slots.release()

    def cross(self, reply: Any) -> bytes:
        """Return the bytes of a reply, having decoded them once; what is wrong with it is raised as it is.

        Raises:
            InvalidMessage: The reply holds a number that cannot be sent, or is too large.
            Exception: What msgspec raises for a value of another type than the reply's.
        """
        codec = self.reply
        if codec.check is not None and (problem := codec.check(reply)) is not None:
            raise InvalidMessage(codec.name, problem)
        data = codec.encode_value(reply)
        if len(data) > codec.limit_bytes:
            raise MessageTooLarge(codec.name, len(data), codec.limit_bytes)
        codec.decode_value(data)
        return data

    async def flush(self, bus: Queries) -> None:
        """Store what a handler that has succeeded had published. A cancellation that comes now comes too late."""
        records, bus._outgoing = bus._outgoing, None
        with anyio.CancelScope(shield=True):
            await self.routes.outlet(records or [])

    async def failure(self, error: BaseException, bus: Queries) -> Exception | None:
        """Name the outcome of a handler that raised.

        Returns:
            What the caller gets: the declared error, rebuilt from its bytes, or `HandlerFailed`. None if the error is a
            cancellation, which goes on.
        """
        cancelled_class = anyio.get_cancelled_exc_class()
        if isinstance(error, (KeyboardInterrupt, GeneratorExit)):
            return None
        try:
            await checkpoint_if_cancelled()
        except cancelled_class:
            if not isinstance(error, cancelled_class):
                self._log(error, bus, "raised while its caller was being cancelled; the cancellation goes on")
            raise
        if isinstance(error, cancelled_class) and not _is_stray(error):
            return None
        leaf = only_leaf(error)
        if isinstance(leaf, NotAllowed):
            self.refused += 1
            return leaf.error
        if isinstance(leaf, IdReused):
            self.failed += 1
            return InvalidMessage(leaf.message_name, leaf.reason, "was not handled")
        codec = self.errors.get(type(leaf)) if isinstance(leaf, DeclaredError) else None
        if codec is not None and isinstance(leaf, DeclaredError):
            try:
                rebuilt = codec.decode(codec.encode(leaf))
            except InvalidMessage as invalid:
                error = invalid
            else:
                self.declared += 1
                return rebuilt
        self.failed += 1
        self._log(error, bus, "failed")
        root = only_leaf(error)
        return HandlerFailed(self.name, bus._message_id(), type(root).__name__, _text(root))

    def _log(self, error: BaseException, bus: Queries, what: str) -> None:
        _logger.error(
            "%s %s",
            self.name,
            what,
            exc_info=error,
            extra={
                "fissile_module": self.module,
                "message_id": bus._message_id(),
                "attempt": bus._attempt,
                **trace_fields(trace_of(bus)),
            },
        )


def only_leaf(error: BaseException) -> BaseException:
    """Return the one error inside a group of one, however deep; the error itself otherwise."""
    while isinstance(error, BaseExceptionGroup):
        inner = cast("list[BaseException]", list(error.exceptions))
        if len(inner) > 1:
            break
        error = inner[0]
    return cast("BaseException", error)  # type: ignore[redundant-cast]  # likewise


def _is_stray(error: BaseException) -> bool:
    """Tell whether this is the cancellation of something else that was awaited, and not of the task; asyncio knows such."""
    import asyncio

    if not isinstance(error, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


def _text(error: BaseException) -> str:
    """Return the text of an error as the caller gets it; the log of the module has all of it."""
    try:
        if isinstance(error, Postponed):
            return error.told_outside()
        text = str(error)
        # The lines that follow hold the statement with its parameters, the row, and a link to SQLAlchemy's documentation.
        is_of_a_statement = any(cls.__module__.startswith(("sqlalchemy.", "psycopg.")) for cls in type(error).__mro__)
        return text.partition("\n")[0] if is_of_a_statement else text
    except Exception:  # noqa: BLE001 -- a broken __str__ must not hide the failure
        return "(its text cannot be made)"


# --- parameters ------------------------------------------------------------------------------------------------------


def bind(
    function: Callable[..., Any],
    constants: dict[str, Any],
    per_message: dict[str, type],
    limiter: anyio.CapacityLimiter,
) -> Callable[[Any, Queries], Coroutine[Any, Any, Any]]:
    """Make one callable of (message, bus) from a handler.

    Args:
        function: The handler, async or sync.
        constants: The values of the parameters that are the same for every message.
        per_message: The names of the parameters that are made per message, with their types: `Bus`, `Queries` or `Caller`.
        limiter: The bound of worker threads, for a sync handler.
    """
    target = partial(function, **constants) if constants else function
    if not inspect.iscoroutinefunction(inspect.unwrap(function)):
        return _threaded(target, "".join(per_message), limiter)
    if not per_message:
        return WithoutBus(target)
    if len(per_message) == 1:
        ((name, kind),) = per_message.items()
        if kind is Caller:
            return lambda message, bus: target(message, **{name: Caller.of(bus)})
        if next(iter(list(inspect.signature(function).parameters)[1:]), None) == name:
            return target
        return lambda message, bus: target(message, **{name: bus})
    return lambda message, bus: target(
        message, **{name: Caller.of(bus) if kind is Caller else bus for name, kind in per_message.items()}
    )


class WithoutBus(msgspec.Struct, frozen=True, eq=False):
    """Makes the coroutine of a handler that takes only the message. The local call takes the function out, which saves a call.

    Attributes:
        function: The handler, with what is the same for every message.
    """

    function: Callable[[Any], Coroutine[Any, Any, Any]]

    def __call__(self, message: Any, _bus: Queries) -> Coroutine[Any, Any, Any]:
        """Pass over the bus."""
        return self.function(message)


def _threaded(
    target: Callable[..., Any], caller_name: str, limiter: anyio.CapacityLimiter
) -> Callable[[Any, Queries], Coroutine[Any, Any, Any]]:
    async def call(message: Any, bus: Queries) -> Any:
        arguments = {caller_name: Caller.of(bus)} if caller_name else {}
        return await anyio.to_thread.run_sync(partial(target, message, **arguments), limiter=limiter)

    return call


def with_middleware(
    handler_name: str,
    kind: Kind,
    module: str,
    middleware: tuple[Middleware, ...],
    call: Callable[[Any, Queries], Coroutine[Any, Any, Any]],
) -> Callable[[Any, Queries], Coroutine[Any, Any, Any]]:
    """Wrap a handler's callable in the middleware, the first one outermost."""
    if not middleware:
        return call

    async def call_all(message: Any, bus: Queries) -> Any:
        # The chain up to here, which `Caller.of` would tell as well, is nothing that a middleware is told.
        caller = None if bus._parent is None else bus._parent._routes.caller
        handling = Handling(
            message, handler_name, kind, module, bus._message_id(), caller, bus._attempt, identity_of(bus)
        )
        call_next: Callable[[], Awaitable[Any]] = partial(call, message, bus)
        for inner in reversed(middleware[1:]):
            call_next = partial(inner, handling, call_next)
        return await middleware[0](handling, call_next)

    return call_all
