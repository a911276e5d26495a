"""A module: handlers, subscriptions, resources and workers behind one contract.

A `Module` is a declaration. Creating one reads nothing, opens nothing and starts nothing; the decorators return the function they
were given, so that a handler stays a plain function that a test can call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, cast, overload

import msgspec
from attrs import field, frozen

from fissile._contract import Contract, Topic
from fissile._identity import Identity
from fissile._messages import Command, CommandClass, Event, QueryClass
from fissile._retry import Retry
from fissile._storage import Schedule, Storage

if TYPE_CHECKING:
    from fissile.database._saga import Saga

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
    retry: Retry = Retry()


class SubscriptionDeclaration(msgspec.Struct, frozen=True):
    """A function that handles events of one topic."""

    topic: Topic[Any]
    events: tuple[type[Event], ...]
    function: Callable[..., Any]
    retry: Retry
    start: Start
    idempotent: bool = False


class SagaDeclaration(msgspec.Struct, frozen=True):
    """A function that is a saga.

    Attributes:
        name: The saga's name.
        function: Takes what starts it, the `Saga`, and resources.
        starts: The classes of the messages that start it: one command, or events of one topic.
        id: Gives its id; None: the id of the command.
        awaits: The topics that it waits for.
        retry: When a step that failed is tried again.
    """

    name: str
    function: Callable[..., Any]
    starts: tuple[type, ...]
    id: Callable[[Any], str] | None
    awaits: tuple[Topic[Any], ...]
    retry: Retry


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
        identity: For whom it was sent; None where a module, or code outside of all modules, acts for itself.
    """

    message: Any  # Any: whatever message is being handled
    name: str
    kind: Literal["command", "query", "event"]
    module: str
    message_id: str
    caller: str | None
    attempt: int
    identity: Identity | None = None


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


class SagaRegistrar(Generic[M]):
    """Takes the function of a saga; the type checkers compare its first parameter with what starts it."""

    def __init__(self, register: Callable[[Callable[..., Any]], None]) -> None:
        self._register = register

    def __call__(
        self, function: Callable[Concatenate[M, Saga, P], Coroutine[Any, Any, None]]
    ) -> Callable[Concatenate[M, Saga, P], Coroutine[Any, Any, None]]:
        """Register the function and return it unchanged."""
        self._register(function)
        return function


SAGA_RETRY = Retry(attempts=10, first_s=0.2, longest_s=60.0)
"""A saga has nobody who waits for it, and undoing what it did is dear: its steps are tried for about two minutes."""


@frozen(eq=False)
class Module:
    """Handlers, subscriptions, resources and workers behind one contract.

    Args:
        contract: What the module lets others import.
        middleware: Functions around every message that this module handles, outermost first, inside those of the application.
        database: The module's tables, `fissile.database.Schema(metadata)`, if it has any.
    """

    contract: Contract
    middleware: tuple[Middleware, ...] = ()
    database: Storage | None = None
    handlers: list[HandlerDeclaration] = field(factory=list[HandlerDeclaration], init=False, repr=False)
    subscriptions: list[SubscriptionDeclaration] = field(factory=list[SubscriptionDeclaration], init=False, repr=False)
    resources: list[Callable[..., AbstractAsyncContextManager[Any]]] = field(
        factory=list[Callable[..., AbstractAsyncContextManager[Any]]], init=False, repr=False
    )
    workers: list[Callable[..., Coroutine[Any, Any, None]]] = field(
        factory=list[Callable[..., Coroutine[Any, Any, None]]], init=False, repr=False
    )

    schedules: list[Schedule] = field(factory=list[Schedule], init=False, repr=False)
    sagas: list[SagaDeclaration] = field(factory=list[SagaDeclaration], init=False, repr=False)

    @property
    def name(self) -> str:
        """The name of the module, which is that of its contract."""
        return self.contract.name

    def command(
        self,
        message: CommandClass[M, R],
        *,
        idempotent: bool = False,
        retry: Retry = Retry(),  # noqa: B008 -- frozen
    ) -> Registrar[M, R]:
        """Declare the handler of a command.

        Args:
            message: The command's class.
            idempotent: That handling the same command twice has the effect of handling it once. A command may be delivered
                again after a crash, so its handler has to say how it bears a repeat. Where the module has a database there is no need to:
                there the effects of each command commit with a record of it, and a repeat gets the first outcome.
            retry: When a command that nobody waits for is tried again before it goes to the dead letters. Where somebody waits it
                never is: the caller gets the outcome and decides.
        """
        return Registrar(
            lambda handler: self.handlers.append(HandlerDeclaration(_as_class(message), handler, idempotent, retry))
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
    def subscribe(
        self, topic: Topic[E], *, retry: Retry = ..., start: Start = ..., idempotent: bool = ...
    ) -> Registrar[E, None]: ...
    @overload
    def subscribe(
        self, topic: Topic[Any], event: type[E], *, retry: Retry = ..., start: Start = ..., idempotent: bool = ...
    ) -> Registrar[E, None]: ...
    def subscribe(
        self,
        topic: Topic[Any],
        event: type[Any] | None = None,
        *,
        retry: Retry = Retry(),  # noqa: B008 -- frozen
        start: Start = "earliest",
        idempotent: bool = False,
    ) -> Registrar[Any, None]:
        """Declare a handler of events.

        Args:
            topic: The topic, which may be another module's.
            event: The one event class to handle, where the topic carries several; all of them unless told.
            retry: When a failed event is tried again before it goes to the dead letters.
            start: Where the module begins to read when it subscribes for the first time.
            idempotent: That handling the same event twice has the effect of handling it once. An event may be delivered again; where the
                module has a database its effects commit with a record of it, unless this says that there is no need.
        """
        events = topic.events if event is None else (event,)
        return Registrar(
            lambda handler: self.subscriptions.append(
                SubscriptionDeclaration(topic, events, handler, retry, start, idempotent)
            )
        )

    @overload
    def saga(
        self,
        start: Topic[E],
        *,
        id: Callable[[E], str],
        awaits: Sequence[Topic[Any]] = ...,
        name: str | None = ...,
        retry: Retry = ...,
        begin: Start = ...,
    ) -> SagaRegistrar[E]: ...
    @overload
    def saga(
        self,
        start: Topic[Any],
        event: type[E],
        *,
        id: Callable[[E], str],
        awaits: Sequence[Topic[Any]] = ...,
        name: str | None = ...,
        retry: Retry = ...,
        begin: Start = ...,
    ) -> SagaRegistrar[E]: ...
    @overload
    def saga(
        self,
        start: CommandClass[M, None],
        *,
        id: Callable[[M], str] | None = ...,
        awaits: Sequence[Topic[Any]] = ...,
        name: str | None = ...,
        retry: Retry = ...,
        begin: Start = ...,
    ) -> SagaRegistrar[M]: ...
    @overload
    def saga(
        self,
        start: CommandClass[M, str],
        *,
        id: Callable[[M], str] | None = ...,
        awaits: Sequence[Topic[Any]] = ...,
        name: str | None = ...,
        retry: Retry = ...,
        begin: Start = ...,
    ) -> SagaRegistrar[M]: ...
    def saga(
        self,
        start: Any,
        event: type[Any] | None = None,
        *,
        id: Callable[[Any], str] | None = None,  # noqa: A002
        awaits: Sequence[Topic[Any]] = (),
        name: str | None = None,
        retry: Retry = SAGA_RETRY,
        begin: Start = "earliest",
    ) -> SagaRegistrar[Any]:
        """Declare a saga: a long-running process, written as one function whose steps are done once, whatever restarts in between.

        It is started once per id, by an event of a topic or by a command of this module. The command's handler is made here: it replies when
        the saga has begun, with nothing or, for a `Command[str]`, with the saga's id. The module needs a database, which keeps the history.

        Args:
            start: The topic whose events start it, or the class of the command that does.
            event: The one event class that starts it, where the topic carries several.
            id: Gives the saga's id from what starts it. A command's own id unless told.
            awaits: The topics that the function waits for.
            name: The name that its histories are kept under; that of the function unless told.
            retry: When a step that failed with an error nobody has declared is tried again; after the last attempt the function gets the error.
            begin: Where the module begins to read the topics when it subscribes to them for the first time.
        """
        topic = cast("Topic[Any]", start) if isinstance(start, Topic) else None  # type: ignore[redundant-cast]  # not for pyright
        starts: tuple[type, ...] = (_as_class(start),) if topic is None else topic.events if event is None else (event,)

        def register(function: Callable[..., Any]) -> None:
            from fissile.database._saga_starts import declare  # whoever has a saga has imported the database

            called = function.__name__ if name is None else name
            declare(self, SagaDeclaration(called, function, starts, id, tuple(awaits), retry), topic, begin)

        return SagaRegistrar(register)

    def schedule(self, name: str, expression: str, command: Command[Any], *, time_zone: str = "UTC") -> None:
        """Send a command of this module again and again, once across its replicas. The module needs a database, which keeps what is due.

        Ticks that were missed while no process ran are made up for once.

        Args:
            name: The schedule's name, unique in its module.
            expression: When: five fields as cron has them, such as `0 3 * * *`; six begin with the second.
            command: The command, the same each time.
            time_zone: Where the clock hangs that the expression speaks of, such as `Europe/Berlin`.
        """
        self.schedules.append(Schedule(name, expression, command, time_zone))

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
