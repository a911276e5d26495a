"""Builds what runs from what was declared: one handler per message, one route per caller and message, one consumer per module.

All choices are made here, once, at start. What is off is absent from the result.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from contextvars import Context
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from fissile._bounds import Gate, Slots, Turns
from fissile._bus import Bus, Caller, Queries, Route, Routes
from fissile._cancellation import cancellation_test, deadline_test
from fissile._check import Catalog, ModulePlan
from fissile._check.contracts import order_key
from fissile._check.identities import requiring
from fissile._clock import Clock, Environment, Ids, milliseconds_of
from fissile._codec import Codec, ErrorCodec, RawCodec
from fissile._contract import Contract, Topic
from fissile._delivery.consumer import Consumer, ConsumerSettings
from fissile._delivery.letter_box import LetterBox
from fissile._delivery.letter_check import LetterCheck
from fissile._delivery.subscription import Subscription
from fissile._envelope import Encoder
from fissile._errors import Unavailable, UnknownMessage
from fissile._handler import Handler, Kind, bind, with_middleware
from fissile._identity import guarded
from fissile._identity_key import key_beside
from fissile._isolation import run_isolated
from fissile._local import chain_beginning, local_route
from fissile._messages import DeclaredError, Query
from fissile._module import Middleware
from fissile._opening import Opened, close_in
from fissile._process import Process
from fissile._remote import Remote, Target, remote_route
from fissile._requests import REPLIES_TOPIC
from fissile._retry import Retry
from fissile._settings import Settings
from fissile._signature import Signature
from fissile._signatures import IN_PROCESS, IdentityReader, Signatures
from fissile._storage import Effects, OpenStorage
from fissile._taps import Taps
from fissile.abc import Start, TopicSpec, Transport

if TYPE_CHECKING:
    from fissile._otel import Spans

REPLY_RETENTION_S = 3600.0
REQUEST_RETENTION_S = 7 * 86_400.0
DEAD_LETTER_RETENTION_S = 86_400.0
"""How long it can be seen that a dead letter is no more; one that is there is kept for ever."""


def requests_topic(module: str) -> str:
    """Return the topic of the commands that are sent to a module."""
    return f"{module}.requests"


def dead_letter_topic(module: str) -> str:
    """Return the topic of what a module has given up."""
    return f"{module}.dead-letters"


def topic_specs(catalog: Catalog, settings: Settings) -> list[TopicSpec]:
    """Return the topics that an application needs."""
    specs = [TopicSpec(REPLIES_TOPIC, settings.reply_partitions, REPLY_RETENTION_S)]
    specs += [TopicSpec(topic.name, settings.partitions, topic.retention_s) for topic in catalog.topics.values()]
    for module in catalog.contracts:
        # What a request has spent in the log is counted: by one clock, and not by those of all callers.
        requests = requests_topic(module)
        specs.append(TopicSpec(requests, settings.partitions, REQUEST_RETENTION_S, is_stamped_by_log=True))
        specs.append(TopicSpec(dead_letter_topic(module), 1, DEAD_LETTER_RETENTION_S, is_compacted=True))
    return specs


def open_letter_box(transport: Transport, catalog: Catalog, settings: Settings, clock: Clock) -> LetterBox:
    """Return the dead letters of an application, behind an open transport."""
    return LetterBox(
        transport,
        {module: dead_letter_topic(module) for module in catalog.contracts},
        {module: requests_topic(module) for module in catalog.contracts},
        LetterCheck(catalog, settings.wire, settings.max_message_bytes).fits,
        signatures_of(catalog, settings, clock, is_shared=transport.shared),
    )


def signatures_of(catalog: Catalog, settings: Settings, clock: Clock, *, is_shared: bool) -> Signatures | None:
    """Return what signs and checks identities; None where they cannot cross the log."""
    is_required = bool(settings.identity_keys or requiring(catalog))
    keys = settings.identity_keys or (() if is_shared else (IN_PROCESS,))
    if not keys and settings.bus.startswith("sqlite:"):  # the gateway may know who asks, whatever contracts require
        from fissile.transports._sqlite_options import path_of  # SQLite is not needed for the other buses

        keys = (key_beside(path_of(settings.bus)),)
    if not keys:
        return None
    return Signatures(keys, clock.now, settings.identity_valid_s, is_required=is_required)


class LiveModule(msgspec.Struct, frozen=True, eq=False):
    """A module with its resources open.

    Attributes:
        plan: What it declares.
        context: What its resources have set, copied for each message.
        values: Its resources and settings, by type.
    """

    plan: ModulePlan
    context: Context
    values: Mapping[Any, Any]
    routes: Routes
    storage: OpenStorage | None = None
    handlers: dict[type, Handler] = msgspec.field(default_factory=dict[type, Handler])
    gates: dict[str, Gate] = msgspec.field(default_factory=dict[str, Gate])
    slots: dict[str, Slots] = msgspec.field(default_factory=dict[str, Slots])

    @property
    def name(self) -> str:
        """The module's name."""
        return self.plan.module.name


async def open_resources(
    opened: Opened,
    settings_values: Mapping[type, Any],
    overrides: Mapping[Any, Any],
    environment: Environment,
    process: Process,
    stack: AsyncExitStack,
) -> LiveModule:
    """Open a module's resources, each after what it needs, in a context of the module's own."""
    plan, context = opened.plan, opened.context
    values: dict[Any, Any] = {
        Clock: environment.clock,
        Ids: environment.ids,
        Random: environment.random,
        Process: process,
        **{cls: settings_values[cls] for cls in plan.settings},
    }
    own = AsyncExitStack()
    stack.push_async_callback(close_in, context, own)
    if opened.storage is not None:
        values.update(opened.storage.values)
    for resource in plan.resources:
        if resource.provides in overrides:
            values[resource.provides] = overrides[resource.provides]
            continue
        arguments = arguments_of(resource.signature, values)
        manager: AbstractAsyncContextManager[Any] = resource.signature.function(**arguments)
        values[resource.provides] = await run_isolated(context, own.enter_async_context(manager))
    return LiveModule(plan, context, values, opened.routes, opened.storage)


def arguments_of(signature: Signature, values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the arguments of a function that are the same for every message."""
    return {name: values[annotation] for name, annotation in signature.parameters.items() if annotation in values}


def _join(module: LiveModule, handler: Handler, name: str, effects: Effects) -> None:
    """Let a handler's effects on its module's database, if there is one, be what it declares."""
    if module.storage is not None:
        handler.call = module.storage.around(handler, name, effects, handler.call)
        handler.call_alone = None


class Deliveries(msgspec.Struct, frozen=True, eq=False):
    """What is done with the records of a module's topics; see `Consumer`."""

    unknown: Subscription
    subscriptions: dict[tuple[str, str], list[Subscription]] = msgspec.field(
        default_factory=dict[tuple[str, str], list[Subscription]]
    )
    requests: dict[str, Subscription] = msgspec.field(default_factory=dict[str, Subscription])


class Builder:
    """Builds handlers, routes and consumers for the modules of one process."""

    def __init__(
        self,
        application: str,
        catalog: Catalog,
        settings: Settings,
        environment: Environment,
        transport: Transport,
        middleware: tuple[Middleware, ...],
        *,
        is_loopback: bool,
        repeats: bool,
    ) -> None:
        self.catalog = catalog
        self.settings = settings
        self.environment = environment
        self.transport = transport
        self.middleware = middleware
        self.signatures = signatures_of(catalog, settings, environment.clock, is_shared=transport.shared)
        self.encoder = Encoder(application, settings.wire, milliseconds_of(environment.clock), self.signatures)
        self.spans = _spans(settings)
        if self.spans is not None:
            self.encoder.carried = self.spans.carried
        self.is_loopback = is_loopback
        self.repeats = repeats
        self.is_cancelled = cancellation_test()
        self.begin = chain_beginning(self.settings.call_timeout_s, deadline_test())
        self.remote: Remote | None = None
        if transport.shared or is_loopback:
            partition = SystemRandom().randrange(settings.reply_partitions)
            self.remote = Remote(transport, self.encoder, partition, environment.ids.new, settings.partitions)
        self._codecs: dict[type, Codec[Any]] = {}
        self._reply_codecs: dict[type, Codec[Any]] = {}
        self._codecs_of_errors: dict[type, dict[type[DeclaredError], ErrorCodec]] = {}
        self._codecs_of_each_error: dict[type[DeclaredError], ErrorCodec] = {}

    def codec(self, message: type) -> Codec[Any]:
        """Return the one codec of a message class."""
        if message not in self._codecs:
            self._codecs[message] = Codec(
                self.catalog.name_of(message), message, self.settings.wire, self.settings.max_message_bytes
            )
        return self._codecs[message]

    # --- handlers ----------------------------------------------------------------------------------------------------

    def build_handlers(self, module: LiveModule) -> Deliveries:
        """Build a module's handlers; return what is done with the records of its topics."""
        commands, queries = Slots(self.settings.commands_running), Slots(self.settings.queries_running)
        module.slots.update(command=commands, query=queries)
        threads = anyio.CapacityLimiter(self.settings.threads)
        turns = Turns()
        deliveries = Deliveries(self._unknown(module, commands))
        subscriptions = deliveries.subscriptions
        for plan in module.plan.handlers:
            message = plan.declaration.message
            is_query = issubclass(message, Query)
            handler = self._handler(
                module,
                plan.signature,
                message,
                "query" if is_query else "command",
                queries if is_query else commands,
                threads,
                turns,
            )
            module.handlers[message] = handler
            name = f"{module.name}.{plan.signature.function.__name__}"
            declared = plan.declaration
            _join(module, handler, handler.name, "none" if is_query else "each" if declared.idempotent else "once")
            scopes: tuple[str, ...] = getattr(message, "required_scopes", ())
            if scopes:
                handler.call, handler.call_alone = guarded(handler.name, scopes, handler.call), None
            self._trace(handler)
            bears_repeats = declared.idempotent or module.storage is not None
            called = Subscription(name, handler, declared.retry, handler.order_key is not None, bears_repeats)
            deliveries.requests[handler.name] = called
            if not is_query:
                subscriptions.setdefault((requests_topic(module.name), handler.name), []).append(called)
        for subscribed in module.plan.subscriptions:
            declaration = subscribed.declaration
            for event in declaration.events:
                handler = self._handler(module, subscribed.signature, event, "event", commands, threads, turns)
                siblings = subscriptions.setdefault((declaration.topic.name, handler.name), [])
                name = f"{module.name}.{subscribed.signature.function.__name__}"
                # A dead letter belongs to a handler by its name, so that two functions of one name need two.
                namesakes = sum(each.name.partition("#")[0] == name for each in siblings)
                name = f"{name}#{namesakes + 1}" if namesakes else name
                _join(module, handler, f"{name} {handler.name}", "each" if declaration.idempotent else "once")
                self._trace(handler)
                siblings.append(Subscription(name, handler, declaration.retry, ordered=True, bears_repeats=True))
        return deliveries

    def _trace(self, handler: Handler) -> None:
        """Have a span made of each run of a handler, where there is a tracer."""
        if self.spans is not None:
            handler.call, handler.call_alone = self.spans.handling(handler, handler.call), None

    def _unknown(self, module: LiveModule, slots: Slots) -> Subscription:
        """Build what takes records that are no message of their topic: it fails at once, so that they become dead letters."""

        async def refuse(_message: Any, _bus: Queries) -> None:
            raise UnknownMessage(
                "The record is no message that its topic carries: its header ce_type names none of them, or it asks for an answer "
                "with headers that cannot be read. Was it written by a newer version, or by hand?"
            )

        handler = Handler(
            name="unknown",
            kind="event",
            module=module.name,
            message_type=bytes,
            message=RawCodec(),
            reply=Codec("the reply", None, self.settings.wire, self.settings.max_message_bytes),
            errors={},
            call=refuse,
            routes=module.routes,
            context=module.context,
            slots=slots,
            turns=Turns(),
        )
        return Subscription(f"{module.name}.unknown", handler, Retry(attempts=1), ordered=False, bears_repeats=False)

    def _handler(
        self,
        module: LiveModule,
        signature: Signature,
        message: type,
        kind: Kind,
        slots: Slots,
        threads: anyio.CapacityLimiter,
        turns: Turns,
    ) -> Handler:
        name = self.catalog.name_of(message)
        per_message = {key: kind_ for key, kind_ in signature.parameters.items() if kind_ in (Bus, Queries, Caller)}
        call = bind(signature.function, arguments_of(signature, module.values), per_message, threads)
        middleware = (*self.middleware, *module.plan.module.middleware)
        return Handler(
            name=name,
            kind=kind,
            module=module.name,
            message_type=message,
            message=self.codec(message),
            reply=self._reply_codec(name, message),
            errors=self._error_codecs(name, message),
            call=with_middleware(name, kind, module.name, middleware, call),
            routes=module.routes,
            context=module.context,
            slots=slots,
            turns=turns,
            order_key=order_key(message),
        )

    # --- routes ------------------------------------------------------------------------------------------------------

    def fill_routes(self, routes: Routes, modules: Sequence[LiveModule], gates: dict[str, Gate]) -> None:
        """Give a caller its way to every message of the application."""
        routes.new_id = self.environment.ids.new
        routes.outlet = self._store
        routes.now = self.environment.clock.now
        taps = Taps(self.transport, self.settings.partitions, self._event_codecs)
        routes.open_tap, routes.open_replay = taps.tap, taps.replay
        if self.signatures is not None:
            routes.can_sign, routes.renew = True, self.signatures.renew
            if routes.caller is not None:
                routes.identities = IdentityReader(routes.caller, self.signatures)
        here = {message: handler for module in modules for message, handler in module.handlers.items()}
        for contract in self.catalog.contracts.values():
            gate = gates.setdefault(contract.name, Gate(self.settings.calls_in_flight))
            for query in contract.queries:
                routes.queries[query] = self._route(contract, query, here.get(query), gate)
            for command in contract.commands:
                routes.commands[command] = self._route(contract, command, here.get(command), gate)
                name = self.catalog.name_of(command)
                topic = requests_topic(contract.name)
                routes.sends[command] = self.encoder.command(topic, name, self.codec(command), order_key(command))
            for event in contract.events:
                topic_ = self.catalog.topic_of[event]
                name = self.catalog.name_of(event)
                routes.events[event] = self.encoder.event(topic_.name, name, self.codec(event), topic_.key)

    def _route(self, contract: Contract, message: type, handler: Handler | None, gate: Gate) -> Route:
        """Build the way to one message: in this process where it is handled here, else through the log."""
        timeout_s, depth_limit = self.settings.call_timeout_s, self.settings.chain_depth
        # Commands of equal key are serial among all processes that host the module, which only the log can see to.
        is_shared_out = self.transport.shared and order_key(message) is not None
        if handler is not None and not self.is_loopback and not is_shared_out:
            return local_route(
                handler,
                gate,
                begin=self.begin,
                depth_limit=depth_limit,
                is_cancelled=self.is_cancelled,
            )
        name = self.catalog.name_of(message)
        if self.remote is None:
            return _absent(contract.name, name)
        target = Target(
            name=name,
            module=contract.name,
            topic=requests_topic(contract.name),
            message=self.codec(message),
            reply=self._reply_codec(name, message),
            errors={error.__name__: codec for error, codec in self._error_codecs(name, message).items()},
            order_key=order_key(message),
        )
        route = remote_route(target, self.remote, gate, default_timeout_s=timeout_s, depth_limit=depth_limit)
        return route if self.spans is None else self.spans.calling(name, target.topic, route)

    def _reply_codec(self, name: str, message: type) -> Codec[Any]:
        """Return the one codec of a message's reply, which every caller's way to it shares."""
        if message not in self._reply_codecs:
            reply = self.catalog.replies.get(message)
            limit = self.settings.max_message_bytes
            self._reply_codecs[message] = Codec(f"the reply of {name}", reply, self.settings.wire, limit)
        return self._reply_codecs[message]

    def _error_codecs(self, name: str, message: type) -> dict[type[DeclaredError], ErrorCodec]:
        """Return the one codec of each error that a message declares."""
        if message not in self._codecs_of_errors:
            errors: tuple[type[DeclaredError], ...] = getattr(message, "declared_errors", ())
            self._codecs_of_errors[message] = {
                error: self._error_codec(error).under(f"{error.__name__} of {name}") for error in errors
            }
        return self._codecs_of_errors[message]

    def _error_codec(self, error: type[DeclaredError]) -> ErrorCodec:
        if error not in self._codecs_of_each_error:
            wire, limit = self.settings.wire, self.settings.max_message_bytes
            self._codecs_of_each_error[error] = ErrorCodec(error.__name__, error, wire, limit)
        return self._codecs_of_each_error[error]

    def _event_codecs(self, topic: Topic[Any]) -> dict[str, Codec[Any]]:
        return {self.catalog.name_of(event): self.codec(event) for event in topic.events}

    async def _store(self, records: Sequence[Any]) -> None:
        await self.transport.append(records)

    # --- consumers ---------------------------------------------------------------------------------------------------

    def build_consumer(self, module: LiveModule, deliveries: Deliveries) -> Consumer | None:
        """Build what reads a module's topics; None where it has none."""
        contract = module.plan.module.contract
        topics: dict[str, Start] = {}
        known: dict[str, frozenset[str]] = {}
        for declaration in module.plan.module.subscriptions:
            topic = declaration.topic
            topics[topic.name] = declaration.start
            known[topic.name] = frozenset(self.catalog.name_of(event) for event in topic.events)
        if not topics and not contract.commands and not contract.queries:
            return None
        # Where there is nothing to ask for there are retries of dead letters at least.
        requests = requests_topic(module.name)
        topics[requests] = "earliest"
        known[requests] = frozenset(deliveries.requests)
        return Consumer(
            module=module.name,
            group=module.name,
            topics=topics,
            subscriptions=deliveries.subscriptions,
            requests=deliveries.requests,
            known=known,
            unknown=deliveries.unknown,
            dead_letter_topic=dead_letter_topic(module.name),
            requests_topic=requests_topic(module.name),
            transport=self.transport,
            environment=self.environment,
            settings=ConsumerSettings(
                window=self.settings.window,
                repeats=self.repeats,
                workers=self.settings.commands_running + self.settings.queries_running,
                commit_interval_s=self.settings.commit_interval_s,
                reply_partitions=self.settings.reply_partitions,
            ),
        )


def _spans(settings: Settings) -> Spans | None:
    """Return what makes spans; None where the application has configured no tracer, and then nothing is imported."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from fissile._otel import Spans, tracer_in_use

    tracer = tracer_in_use()
    if tracer is None:
        return None
    scheme = settings.bus.partition(":")[0]
    return Spans(tracer, scheme if scheme == "kafka" else f"fissile_{scheme}")


def _absent(module: str, name: str) -> Callable[[Queries, Any, str | None], Coroutine[Any, Any, Any]]:
    async def call(_bus: Queries, _message: Any, _message_id: str | None) -> Any:
        raise Unavailable(
            f"{name} was not called: no process that can be reached hosts the module {module!r}. It did not happen."
        )

    return call
