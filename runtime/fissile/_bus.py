"""What code calls: `ask(query)`, `execute(command)`, `send(command)`, `publish(event)`.

A bus belongs to one handled message, or to code outside of all modules (then it starts a chain with every call). It is made for each
message, hundreds of thousands of times a second, and is therefore a `msgspec.Struct`, which is twice as fast to make as a slotted class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from fissile._errors import CallRefused, UnknownMessage
from fissile._identity import Identity, acting, identity_of, require
from fissile._messages import Command, Event, Query

if TYPE_CHECKING:
    from fissile._contract import Topic
    from fissile._delivery.lifecycle import Delivery
    from fissile._handler import Handler
    from fissile._replay import Replay
    from fissile._requests import Link
    from fissile._signatures import IdentityReader
    from fissile._tap import Position, Tap
    from fissile._trace import Trace
    from fissile.abc import Outgoing

R = TypeVar("R")
E = TypeVar("E", bound=Event)

Route = Callable[["Queries", Any, str | None], Coroutine[Any, Any, Any]]
"""Takes the caller's bus, the message and its id (None: make one) to the reply. One is built per caller and message at start."""


class Routes:
    """Where the messages of one caller go.

    Attributes:
        caller: The module that calls, or None for code outside of all modules.
        commands: The way of each command that is waited for.
        queries: The way of each query.
        sends: Encodes a command that nobody waits for.
        events: Encodes an event for its topic.
        outlet: Stores encoded messages; set when the transport is open.
        keep: Stores what is to be sent later, in the caller's database; None where it has none.
        now: The time of day.
        renew: Lets the identity of a record be valid when it is sent at a time.
        can_sign: Whether an identity can go with what is sent.
        identities: Reads the identities of what comes through a log; None where there are none.
    """

    def __init__(self, caller: str | None) -> None:
        self.caller = caller
        self.can_sign = False
        self.identities: IdentityReader | None = None
        # Plain dictionaries: looking something up in a subclass takes 0.05 µs more.
        self.commands: dict[type, Route] = {}
        self.queries: dict[type, Route] = {}
        self.sends: dict[type, Callable[[Queries, Any, str | None], Outgoing]] = _Table("command")
        self.events: dict[type, Callable[[Queries, Any], Outgoing]] = _Table("event")
        self.outlet: Callable[[list[Outgoing]], Coroutine[Any, Any, None]] = _closed
        self.keep: Callable[[list[Outgoing | Scheduled]], Coroutine[Any, Any, None]] | None = None
        self.now: Callable[[], datetime]
        self.renew: Callable[[Outgoing, datetime], Outgoing] | None = None
        self.new_id: Callable[[], str] = str
        self.open_tap: Callable[..., AbstractAsyncContextManager[Tap[Any]]]
        self.open_replay: Callable[..., AbstractAsyncContextManager[Replay[Any]]]


class Scheduled(msgspec.Struct, frozen=True):
    """A record that is to be sent later.

    Attributes:
        record: The record.
        due_ms: When, in milliseconds since 1970.
    """

    record: Outgoing
    due_ms: int


def schedule(record: Outgoing, time: datetime, renew: Callable[[Outgoing, datetime], Outgoing] | None) -> Scheduled:
    """Say when a record is to be sent.

    Args:
        record: The record.
        time: When.
        renew: Lets its identity be valid then; None where it has none.

    Raises:
        CallRefused: The time has no time zone.
    """
    if time.tzinfo is None:
        name = record.headers_by_name()["ce_type"].decode()
        raise CallRefused(
            f"{name} was not scheduled: the time {time} has no time zone. Write datetime.now(UTC) or the like."
        )
    return Scheduled(record if renew is None else renew(record, time), int(time.timestamp() * 1000))


class _Table(dict[type, Any]):
    """A dictionary whose misses explain themselves, at no cost for a hit."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def __missing__(self, message: type) -> Any:
        raise _unknown(message, self.kind)


def _unknown(message: type, kind: str) -> UnknownMessage:
    name = f"{message.__module__}.{message.__qualname__}"
    verbs = {Command: "execute() or send()", Query: "ask()", Event: "publish()"}
    for base, verb in verbs.items():
        if issubclass(message, base) and base.__name__.lower() != kind:
            return UnknownMessage(f"{name} is {_a(base.__name__.lower())}; use {verb}.")
    if kind == "event":
        return UnknownMessage(f"No topic of the application carries {name}. Name it in a Topic of its contract.")
    return UnknownMessage(
        f"No module of the application handles {name}. Is its module listed in [tool.fissile] modules, and is it {_a(kind)}?"
    )


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


async def _closed(records: list[Outgoing]) -> None:
    raise CallRefused(f"{len(records)} messages were not stored: the application is not running.")


class Queries(msgspec.Struct, eq=False, weakref=True):
    """A bus that can only ask, which is what the handler of a query gets."""

    _routes: Routes
    _parent: Queries | None = None
    _handler: Handler | None = None
    _deadline: float = math.inf
    _depth: int = 0
    _index: int = 0
    _id: str | None = None
    _key: str | None = None
    _attempt: int = 1
    _children: int = 0
    _outgoing: list[Any] | None = None
    _ended: bool = False
    _remote_chain: tuple[Link, ...] = ()
    _delivery: Delivery | None = None
    _identity: Identity | None = None
    _trace: Trace | None = None

    def ask(self, query: Query[R]) -> Coroutine[Any, Any, R]:
        """Ask the one module that answers a query, and wait for its reply.

        Args:
            query: The query.

        Raises:
            DeclaredError: One of the errors that the query names in `raises`.
            HandlerFailed: The handler ended with anything else.
            InvalidMessage: The query does not fit its contract, or is too large.
            Overloaded: Too many calls of this caller to that module are in flight.
            Unavailable: It could not be sent.
            DeadlineExceeded: No reply came in time.
        """
        try:
            route = self._routes.queries[type(query)]
        except KeyError:
            raise _unknown(type(query), "query") from None
        return route(self, query, None)

    def acting_as(self, identity: Identity | None) -> Self:
        """Return a bus whose calls are made for somebody; what their handlers do about them is as well.

        In a handler it is needed only to act for somebody else than the message's own caller: `acting_as(None)` acts for the module itself,
        for what the caller need not be allowed to do. Everything else goes with the identity of the message by itself.

        Args:
            identity: For whom; None for the module itself.

        Raises:
            CallRefused: The bus is shared with other processes, and there is no key to sign an identity with (`FISSILE_IDENTITY_KEYS`).
        """
        routes = self._routes
        held = acting(identity, can_sign=routes.can_sign, who=routes.caller or "code outside of all modules")
        if self._handler is None:
            return type(self)(routes, self._parent, _remote_chain=self._remote_chain, _identity=held)
        from fissile._acting import of_handler  # which derives from this class

        return of_handler(self, held)

    def __repr__(self) -> str:
        if self._handler is None:
            return f"<{type(self).__name__} of {self._routes.caller or 'no module'}>"
        return f"<{type(self).__name__} of {self._handler.name} {self._message_id()}>"

    def _message_id(self) -> str:
        """Return the id of the message being handled; a child's id follows from its parent's, so that a repeat repeats it."""
        if self._id is None:
            parent = self._parent
            if parent is None or parent._handler is None:
                self._id = self._routes.new_id()
            else:
                self._id = f"{parent._message_id()}.{self._index}"
        return self._id

    def _next_child_id(self) -> str:
        self._children += 1
        return self._routes.new_id() if self._handler is None else f"{self._message_id()}.{self._children}"

    def _keep(self, record: Outgoing | Scheduled) -> bool:
        """Keep a record until the handler has succeeded; return False where there is no handler and it is to be stored now."""
        if self._handler is None:
            return False
        if self._ended:
            outgoing = record.record if isinstance(record, Scheduled) else record
            raise CallRefused(
                f"{outgoing.headers_by_name()['ce_type'].decode()} was published on the bus of {self._handler.name}, whose handler has ended. "
                "Publish before it ends, or use the bus of a worker."
            )
        if self._outgoing is None:
            self._outgoing = []
        self._outgoing.append(record)
        return True


class Bus(Queries):
    """What a command's handler, a subscriber, a worker, or code outside of all modules calls."""

    def execute(self, command: Command[R], *, id: str | None = None) -> Coroutine[Any, Any, R]:  # noqa: A002
        """Have the one module that handles a command do it, and wait for its reply.

        The runtime never retries: the caller gets the outcome and decides.

        Args:
            command: The command.
            id: Its id, where the caller repeats a command; a new one is made otherwise.

        Raises:
            DeclaredError: One of the errors that the command names in `raises`.
            HandlerFailed: The handler ended with anything else.
            InvalidMessage: The command does not fit its contract, or is too large. It did not happen.
            Overloaded: Too many calls of this caller to that module are in flight. It did not happen.
            Unavailable: It could not be sent. It did not happen.
            CallRefused: A transaction is open here, or the chain of calls is too deep. It did not happen.
            DeadlineExceeded: No reply came in time. It may have happened.
        """
        try:
            route = self._routes.commands[type(command)]
        except KeyError:
            raise _unknown(type(command), "command") from None
        return route(self, command, id)

    async def send(self, command: Command[Any], *, id: str | None = None) -> None:  # noqa: A002
        """Have a command done without waiting for it; it is retried and dead-lettered like an event.

        In a handler it is sent when the handler succeeds; elsewhere it is stored when this returns.

        Args:
            command: The command.
            id: Its id, where the caller repeats a command; a new one is made otherwise.

        Raises:
            InvalidMessage: The command does not fit its contract, or is too large.
            Unavailable: It could not be stored.
        """
        record = self._routes.sends[type(command)](self, command, id)
        if not self._keep(record):
            await self._routes.outlet([record])

    async def send_at(self, time: datetime, command: Command[Any], *, id: str | None = None) -> None:  # noqa: A002
        """Have a command sent at a time; until then it is kept in the database of the module that sends it.

        In a handler it is kept when the handler succeeds; elsewhere it is kept when this returns.

        Args:
            time: When, with a time zone. What is past is sent at once.
            command: The command.
            id: Its id, where the caller repeats a command; a new one is made otherwise.

        Raises:
            CallRefused: The caller is no module with a database.
            InvalidMessage: The command does not fit its contract, or is too large.
        """
        await self._schedule(self._routes.sends[type(command)](self, command, id), time)

    async def send_after(self, delay_s: float, command: Command[Any], *, id: str | None = None) -> None:  # noqa: A002
        """Have a command sent after a delay in seconds; otherwise like `send_at`."""
        await self.send_at(self._routes.now() + timedelta(seconds=delay_s), command, id=id)

    async def publish_at(self, time: datetime, event: Event) -> None:
        """Publish an event at a time; until then it is kept in the database of the module that publishes it. See `send_at`."""
        await self._schedule(self._routes.events[type(event)](self, event), time)

    async def publish_after(self, delay_s: float, event: Event) -> None:
        """Publish an event after a delay in seconds; otherwise like `publish_at`."""
        await self.publish_at(self._routes.now() + timedelta(seconds=delay_s), event)

    async def _schedule(self, record: Outgoing, time: datetime) -> None:
        keep = self._routes.keep
        name = record.headers_by_name()["ce_type"].decode()
        if keep is None:
            who = (
                f"the module {self._routes.caller!r} has no database"
                if self._routes.caller
                else "it is sent from outside of all modules"
            )
            raise CallRefused(
                f"{name} was not scheduled: {who}, and there is nowhere to keep it until then. "
                "Declare one, Module(contract, database=Schema(metadata)), or send a command to a module that has one."
            )
        scheduled = schedule(record, time, self._routes.renew)
        if not self._keep(scheduled):
            await keep([scheduled])

    async def publish(self, event: Event) -> None:
        """Publish an event to its topic.

        In a handler it is sent when the handler succeeds, and not at all when it fails; elsewhere it is stored when this returns.
        It never runs a subscriber and never raises a subscriber's error.

        Args:
            event: The event.

        Raises:
            InvalidMessage: The event does not fit its contract, or is too large.
            Unavailable: It could not be stored.
        """
        record = self._routes.events[type(event)](self, event)
        if not self._keep(record):
            await self._routes.outlet([record])

    async def publish_now(self, event: Event) -> None:
        """Publish an event without waiting for the handler to succeed: for progress, not for facts.

        Args:
            event: The event.

        Raises:
            InvalidMessage: The event does not fit its contract, or is too large.
            Unavailable: It could not be stored.
        """
        await self._routes.outlet([self._routes.events[type(event)](self, event)])

    def tap(
        self, topic: Topic[E], *, after: Position | None = None, key: str | None = None
    ) -> AbstractAsyncContextManager[Tap[E]]:
        """Read a topic without a consumer group: in every process, from a position, committing nothing.

        Args:
            topic: The topic.
            after: Read what comes after this position, as a former tap told it; from now on unless told.
            key: Only events of this key.

        Raises:
            Forbidden: The topic requires a scope that is missing.
            PositionLost: The log no longer has what comes after the position.
        """
        self._require_scopes_of(topic)
        return self._routes.open_tap(topic, after=after, key=key)

    def replay(
        self, topic: Topic[E], *, after: Position | None = None, key: str | None = None
    ) -> AbstractAsyncContextManager[Replay[E]]:
        """Read what a topic keeps, from the earliest event to the last one that is there when the block begins; then it ends.

        Like a tap it reads without a consumer group, and commits nothing. A tap opened `after` its position goes on without a gap.

        Args:
            topic: The topic.
            after: Read only what comes after this position, as a former tap or replay told it.
            key: Only events of this key.

        Raises:
            Forbidden: The topic requires a scope that is missing.
            PositionLost: The log no longer has what comes after the position.
            Unavailable: The log cannot be reached.
        """
        self._require_scopes_of(topic)
        return self._routes.open_replay(topic, after=after, key=key)

    def _require_scopes_of(self, topic: Topic[Any]) -> None:
        if topic.required_scopes:
            require(identity_of(self), topic.required_scopes, f"{topic.name} is not read")


class Caller(msgspec.Struct, frozen=True):
    """Who asks, and in which chain. A handler names it in its parameters.

    Attributes:
        module: The module that sent the message, or None if it comes from outside of all modules.
        message_id: The id of the message being handled.
        attempt: 1 for the first delivery; more when an event, or a command that nobody waits for, is tried again.
        chain: The names of the messages up the chain, the first one first.
        deadline: When the chain ends, on the event loop's clock in seconds (`anyio.current_time`); infinite where nobody waits.
        identity: For whom it was sent; None where a module, or code outside of all modules, acts for itself.
    """

    module: str | None
    message_id: str
    attempt: int
    chain: tuple[str, ...]
    deadline: float
    identity: Identity | None = None

    @classmethod
    def of(cls, bus: Queries) -> Caller:
        """Tell the caller of the message that a bus belongs to."""
        chain: list[str] = []
        ancestor = bus._parent
        while ancestor is not None:
            if ancestor._handler is not None:
                chain.append(ancestor._handler.name)
            chain.extend(link.name for link in reversed(ancestor._remote_chain))
            ancestor = ancestor._parent
        module = bus._parent._routes.caller if bus._parent is not None else None
        return cls(module, bus._message_id(), bus._attempt, tuple(reversed(chain)), bus._deadline, identity_of(bus))
