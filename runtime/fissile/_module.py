"""A module: handlers, subscriptions, resources and workers behind one contract.

A `Module` is a declaration. Creating one reads nothing, opens nothing and starts nothing; the decorators return the function they
were given, so that a handler stays a plain function that a test can call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

import msgspec
from attrs import field, frozen

from fissile._contract import Contract, Topic
from fissile._messages import CommandClass, Event, QueryClass
from fissile._retry import Retry

M = TypeVar("M")
R = TypeVar("R")
E = TypeVar("E", bound=Event)
P = ParamSpec("P")
ResourceFactory = TypeVar("ResourceFactory", bound=Callable[..., AbstractAsyncContextManager[Any]])
WorkerFunction = TypeVar("WorkerFunction", bound=Callable[..., Coroutine[Any, Any, None]])

Start = Literal["earliest", "latest"]


class HandlerDeclaration(msgspec.Struct, frozen=True):
    """A function that handles one command or query."""

    message: type
    function: Callable[..., Any]
    idempotent: bool


class SubscriptionDeclaration(msgspec.Struct, frozen=True):
    """A function that handles events of one topic."""

    topic: Topic[Any]
    events: tuple[type[Event], ...]
    function: Callable[..., Any]
    retry: Retry
    start: Start


class Handling(msgspec.Struct, frozen=True):
    """What a middleware is told of the message in hand.

    Attributes:
        message: The message.
        name: Its name on the wire, such as `orders.place-order`.
        kind: `command`, `query` or `event`.
        module: The module that handles it.
        message_id: Its id.
        caller: The module that sent it, or None if it comes from outside of all modules.
        attempt: 1 for the first delivery.
    """

    message: Any  # Any: whatever message is being handled
    name: str
    kind: Literal["command", "query", "event"]
    module: str
    message_id: str
    caller: str | None
    attempt: int


Middleware = Callable[[Handling, Callable[[], Awaitable[Any]]], Awaitable[Any]]
"""One async function around every message: `async def timed(handling, call_next): ...; return await call_next()`.

What it returns is the reply (None for an event). It runs on the side of the handler, in the handler's context.
"""


class Registrar(Generic[M, R]):
    """Takes the handler of one message; the type checkers compare its message and reply with those of the contract."""

    def __init__(self, register: Callable[[Callable[..., Any]], None]) -> None:
        self._register = register

    @overload
    def __call__(
        self, handler: Callable[Concatenate[M, P], Coroutine[Any, Any, R]]
    ) -> Callable[Concatenate[M, P], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, handler: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]: ...
    def __call__(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """Register the handler and return it unchanged."""
        self._register(handler)
        return handler


@frozen(eq=False)
class Module:
    """Handlers, subscriptions, resources and workers behind one contract.

    Args:
        contract: What the module lets others import.
        middleware: Functions around every message that this module handles, outermost first, inside those of the application.
    """

    contract: Contract
    middleware: tuple[Middleware, ...] = ()
    handlers: list[HandlerDeclaration] = field(factory=list[HandlerDeclaration], init=False, repr=False)
    subscriptions: list[SubscriptionDeclaration] = field(factory=list[SubscriptionDeclaration], init=False, repr=False)
    resources: list[Callable[..., AbstractAsyncContextManager[Any]]] = field(
        factory=list[Callable[..., AbstractAsyncContextManager[Any]]], init=False, repr=False
    )
    workers: list[Callable[..., Coroutine[Any, Any, None]]] = field(
        factory=list[Callable[..., Coroutine[Any, Any, None]]], init=False, repr=False
    )

    @property
    def name(self) -> str:
        """The name of the module, which is that of its contract."""
        return self.contract.name

    def command(self, message: CommandClass[M, R], *, idempotent: bool = False) -> Registrar[M, R]:
        """Declare the handler of a command.

        Args:
            message: The command's class.
            idempotent: That handling the same command twice has the effect of handling it once. A command may be delivered
                again after a crash, so its handler has to say how it bears a repeat.
        """
        return Registrar(
            lambda handler: self.handlers.append(HandlerDeclaration(_as_class(message), handler, idempotent))
        )

    def query(self, message: QueryClass[M, R]) -> Registrar[M, R]:
        """Declare the handler of a query. It may ask other modules and has no effects.

        Args:
            message: The query's class.
        """
        return Registrar(
            lambda handler: self.handlers.append(HandlerDeclaration(_as_class(message), handler, idempotent=True))
        )

    @overload
    def subscribe(self, topic: Topic[E], *, retry: Retry = ..., start: Start = ...) -> Registrar[E, None]: ...
    @overload
    def subscribe(
        self, topic: Topic[Any], event: type[E], *, retry: Retry = ..., start: Start = ...
    ) -> Registrar[E, None]: ...
    def subscribe(
        self,
        topic: Topic[Any],
        event: type[Any] | None = None,
        *,
        retry: Retry = Retry(),  # noqa: B008 -- frozen
        start: Start = "earliest",
    ) -> Registrar[Any, None]:
        """Declare a handler of events.

        Args:
            topic: The topic, which may be another module's.
            event: The one event class to handle, where the topic carries several; all of them unless told.
            retry: When a failed event is tried again before it goes to the dead letters.
            start: Where the module begins to read when it subscribes for the first time.
        """
        events = topic.events if event is None else (event,)
        return Registrar(
            lambda handler: self.subscriptions.append(SubscriptionDeclaration(topic, events, handler, retry, start))
        )

    def resource(self, factory: ResourceFactory) -> ResourceFactory:
        """Declare a resource: an async context manager, entered when the process starts and left when it has drained.

        The type that it yields is what handlers, workers and other resources of the module name in their parameters. Its own
        parameters are settings (subclasses of `ModuleSettings`), other resources of the module, and `Clock`.
        """
        self.resources.append(factory)
        return factory

    def worker(self, function: WorkerFunction) -> WorkerFunction:
        """Declare a worker: a function that runs as long as the process does, under supervision.

        It starts when the resources of all modules are open, is restarted with backoff when it fails, and takes a `Bus`, a
        `Lifespan`, the `Process`, resources and settings as parameters. It returns soon after `lifespan.draining()` does.
        """
        self.workers.append(function)
        return function


def _as_class(message: Any) -> type:
    # The protocols CommandClass and QueryClass describe classes for the type checkers; at run time it is simply the class.
    if not isinstance(message, type):
        raise TypeError(f"expected the class of a message, got {message!r}; write @module.command(PlaceOrder)")
    return message
