"""What `@module.saga` declares besides the saga: the handler that starts it, and the subscribers that collect what it waits for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Union

from fissile._bus import Caller
from fissile._contract import Topic
from fissile._messages import Command, reply_type
from fissile._module import HandlerDeclaration, Module, SagaDeclaration, Start, SubscriptionDeclaration
from fissile._retry import Retry
from fissile.database._sagas import Sagas


def declare(module: Module, declaration: SagaDeclaration, topic: Topic[Any] | None, begin: Start) -> None:
    """Add a saga to a module.

    Args:
        module: The module.
        declaration: The saga.
        topic: The topic whose events start it; None if a command does.
        begin: Where the module begins to read topics.
    """
    collected = {each.name for other in module.sagas for each in other.awaits}
    module.sagas.append(declaration)
    starter = _starter(declaration)
    if topic is None:
        (command,) = declaration.starts
        module.handlers.append(HandlerDeclaration(command, starter, idempotent=False))
    else:
        module.subscriptions.append(SubscriptionDeclaration(topic, declaration.starts, starter, Retry(), begin))
    for awaited in declaration.awaits:
        if awaited.name not in collected:
            collected.add(awaited.name)
            collector = _collector(awaited, declaration)
            module.subscriptions.append(SubscriptionDeclaration(awaited, awaited.events, collector, Retry(), begin))


def _starter(declaration: SagaDeclaration) -> Callable[..., Any]:
    returns_id = False
    first: Any = declaration.starts[0]
    if issubclass(first, Command):
        try:
            returns_id = reply_type(first) is str  # pyright: ignore[reportUnknownArgumentType] -- of any reply
        except TypeError:
            returns_id = False  # the check of contracts says what is wrong

    async def start(message: Any, sagas: Sagas, caller: Caller) -> Any:
        saga_id = await sagas._start(declaration, message, caller.message_id)
        return saga_id if returns_id else None

    return _named(start, declaration, declaration.name, declaration.starts, str if returns_id else None)


def _collector(topic: Topic[Any], declaration: SagaDeclaration) -> Callable[..., Any]:
    async def collect(message: Any, sagas: Sagas, caller: Caller) -> None:
        await sagas._collect(topic, message, caller.message_id)

    return _named(collect, declaration, "saga_events", topic.events, None)


def _named(
    function: Callable[..., Any], declaration: SagaDeclaration, name: str, messages: tuple[type, ...], returns: Any
) -> Callable[..., Any]:
    """Give a function what the check and the wiring read of it; its place is that of the saga."""
    message: Any = Union[messages]  # noqa: UP007 -- of a tuple that is known at run time only
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    function.__annotations__ = {"message": message, "sagas": Sagas, "caller": Caller, "return": returns}
    function.__name__ = name
    function.__qualname__ = name if name != declaration.name else declaration.function.__qualname__
    function.__wrapped__ = declaration.function  # type: ignore[attr-defined]
    return function
