"""A process between start and stop: opens, builds, supervises, drains, closes."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import msgspec

from fissile._bounds import Gate
from fissile._build import Builder, LiveModule, arguments_of, open_letter_box, open_resources, topic_specs
from fissile._bus import Bus, Queries, Routes
from fissile._check import Catalog, ModulePlan
from fissile._delivery.consumer import Consumer, ConsumerStatistics
from fissile._delivery.letter_box import LetterBox
from fissile._handler import only_leaf
from fissile._isolation import run_isolated
from fissile._metrics import Metric, Metrics
from fissile._metrics_of_process import of_bounds, of_modules, of_outboxes, of_process, of_remote, of_restarts
from fissile._opening import open_storages
from fissile._process import Check, Lifespan, Process
from fissile._remote import Remote, RemoteStatistics
from fissile._signature import Signature
from fissile._storage import OpenStorage, SagaContext, StorageContext
from fissile._supervisor import Supervisor
from fissile.abc import Transport
from fissile.transports import open_transport

if TYPE_CHECKING:
    from fissile._app import App

_logger = logging.getLogger("fissile.app")

_POLL_S = 0.002


class ModuleStatistics(msgspec.Struct, frozen=True):
    """What a module has done in this process.

    Attributes:
        handled: How many messages succeeded, by the message's name.
        declared: How many ended with a declared error.
        failed: How many attempts failed.
        refused: How many came from who lacks a scope that they require.
        untrusted_identities: How many messages came through the log with an identity that was missing, wrong or no longer valid.
        consumer: What its consumer has in hand and has done, if it has one.
    """

    handled: Mapping[str, int]
    declared: Mapping[str, int]
    failed: Mapping[str, int]
    consumer: ConsumerStatistics | None
    refused: Mapping[str, int]
    untrusted_identities: int


class Running:
    """The state of an application between start and stop."""

    def __init__(
        self, app: App, catalog: Catalog, plans: Sequence[ModulePlan], settings_values: Mapping[str, Mapping[type, Any]]
    ) -> None:
        self._app = app
        self._catalog = catalog
        self._plans = plans
        self._settings_values = settings_values
        self._environment = app.environment
        self._supervisor = Supervisor(app.environment)
        self._modules: list[LiveModule] = []
        self._consumers: dict[str, Consumer] = {}
        self._lifespans: list[Lifespan] = []
        self._start_failures: list[Exception] = []
        self._scope = anyio.CancelScope()
        self._ready = anyio.Event()
        self._drain = anyio.Event()
        self._ended = anyio.Event()
        self._is_ready = False
        self._outside_gates: dict[str, Gate] = {}
        self.metrics = Metrics()
        self.metrics.add(self._measured)
        self._transport: Transport
        self._remote: Remote | None = None
        self.failure: BaseException | None = None
        self.bus: Bus

    # --- what others see ---------------------------------------------------------------------------------------------

    async def wait_ready(self) -> None:
        await self._ready.wait()

    async def wait_ended(self) -> None:
        await self._ended.wait()

    def drain(self) -> None:
        self._drain.set()

    def force(self) -> None:
        self._scope.cancel()

    def announcements(self) -> tuple[str, ...]:
        return tuple(text for lifespan in self._lifespans for text in lifespan.announcements)

    def checks(self) -> tuple[Check, ...]:
        found = [Check("process", None if self._is_ready else "it is starting or draining")]
        found.append(Check("log", self._transport.check()))
        for name, consumer in self._consumers.items():
            problem = self._supervisor.problems.get(f"consumer {name}")
            if consumer.assigned:
                self._supervisor.recovered(f"consumer {name}")
                problem = None
            elif problem is None:
                problem = "it owns no partitions yet"
            found.append(Check(f"consumer {name}", problem))
        for module in self._modules:
            if module.storage is not None:
                found.append(Check(f"database {module.name}", module.storage.check()))
        if self._remote is not None:
            found.append(Check("replies", None if self._remote.is_listening else "they are not being read"))
        for lifespan in self._lifespans:
            problem = self._supervisor.problems.get(f"worker {lifespan.name}")
            found.append(
                Check(f"worker {lifespan.name}", problem if problem or lifespan.is_started else "it has not started")
            )
        return tuple(found)

    def statistics(self) -> dict[str, ModuleStatistics]:
        told: dict[str, ModuleStatistics] = {}
        for module in self._modules:
            handlers = {handler.name: handler for handler in module.handlers.values()}
            consumer = self._consumers.get(module.name)
            if consumer is not None:
                for subscriptions in consumer.subscriptions.values():
                    handlers.update({one.handler.name: one.handler for one in subscriptions})
            told[module.name] = ModuleStatistics(
                handled={name: handler.handled for name, handler in handlers.items()},
                declared={name: handler.declared for name, handler in handlers.items()},
                failed={name: handler.failed for name, handler in handlers.items()},
                consumer=None if consumer is None else consumer.statistics(),
                refused={name: handler.refused for name, handler in handlers.items()},
                untrusted_identities=0 if module.routes.identities is None else module.routes.identities.rejected,
            )
        return told

    def remote_statistics(self) -> RemoteStatistics | None:
        return None if self._remote is None else self._remote.statistics()

    def letter_box(self) -> LetterBox:
        return open_letter_box(self._transport, self._catalog, self._app.settings, self._environment.clock)

    # --- the life ----------------------------------------------------------------------------------------------------

    async def live(self) -> None:
        """Start, wait for the drain, drain, stop. What goes wrong is kept in `failure`."""
        try:
            with self._scope:
                await self._start_and_stop()
        except (Exception, BaseExceptionGroup) as error:
            if isinstance(error, BaseExceptionGroup) and error.split(Exception)[1] is not None:
                raise
            self.failure = only_leaf(error)
            if self._ready.is_set() and not self._drain.is_set():
                _logger.critical("the process ends: %s", self.failure, exc_info=error)
        finally:
            self._is_ready = False
            self._ready.set()
            self._ended.set()

    async def _start_and_stop(self) -> None:
        app = self._app
        self._transport = app._given_transport or open_transport(
            app.settings, self._environment.clock, f"{app.name}.{app.process}"
        )
        async with AsyncExitStack() as stack:
            # Databases first: a process that refuses to start because one lacks something leaves no log behind.
            opened = await open_storages(self._plans, self._storage_context, stack)
            await stack.enter_async_context(self._transport)
            if not self._transport.durable and not app.is_dev:
                _logger.warning("the bus %s keeps nothing across a stop of this process", app.settings.bus)
            await self._transport.ensure(topic_specs(self._catalog, app.settings))
            await self._open_operations(stack)
            for each in opened:
                values = self._settings_values[each.plan.module.name]
                live = await open_resources(each, values, app.overrides, self._environment, self.process(), stack)
                self._modules.append(live)
            self._build()
            async with self._running_tasks() as tasks:
                await self._wait_up()
                self._is_ready = True
                self._ready.set()
                await self._drain.wait()
                self._is_ready = False
                if app.settings.drain_delay_s > 0 and not app.is_dev:
                    # Who sends requests here has to notice first that it should no longer.
                    await self._environment.clock.sleep(app.settings.drain_delay_s)
                await self._drain_tasks()
                tasks.cancel_scope.cancel()
                # From here on resources close; one that does not come to an end is cancelled.
                self._scope.deadline = anyio.current_time() + app.settings.drain_s

    def _storage_context(self, plan: ModulePlan) -> StorageContext:
        app, module = self._app, plan.module
        return StorageContext(
            app.name,
            module.name,
            app.settings,
            self._environment,
            Routes(module.name),
            app.is_dev,
            app.root,
            tuple(module.schedules),
            tuple(module.sagas),
            self._catalog.name_of,
        )

    async def _open_operations(self, stack: AsyncExitStack) -> None:
        """Answer who asks for metrics, from here to the end of the process."""
        settings = self._app.settings
        if not settings.metrics_port:
            return
        from fissile._metrics_server import Operations, open_port, serving  # not needed where there is no such port

        async def collect() -> tuple[Metric, ...]:
            return self.metrics.collect()

        listener = await open_port(settings.metrics_host, settings.metrics_port)
        await stack.enter_async_context(serving(listener, Operations(collect, self.checks)))

    def _build(self) -> None:
        app = self._app
        builder = Builder(
            app.name,
            self._catalog,
            app.settings,
            self._environment,
            self._transport,
            app.middleware,
            is_loopback=app.is_loopback,
            repeats=app.repeats,
        )
        self._remote = builder.remote
        built = [(module, builder.build_handlers(module)) for module in self._modules]
        outside = Routes(None)
        builder.fill_routes(outside, self._modules, self._outside_gates)
        self.bus = Bus(outside)
        for module, deliveries in built:
            builder.fill_routes(module.routes, self._modules, module.gates)
            if module.storage is not None:
                module.routes.keep = module.storage.keep
            consumer = builder.build_consumer(module, deliveries)
            if consumer is not None:
                self._consumers[module.name] = consumer

    @asynccontextmanager
    async def _running_tasks(self) -> AsyncGenerator[anyio.abc.TaskGroup]:
        """Run consumers and workers, each under supervision."""
        async with anyio.create_task_group() as tasks:
            if self._remote is not None:
                tasks.start_soon(self._supervisor.keep, "replies", self._remote.run)
                tasks.start_soon(self._supervisor.keep, "deadlines", self._remote.sweeper.run)
            for name, consumer in self._consumers.items():
                tasks.start_soon(self._supervisor.keep, f"consumer {name}", consumer.run)
            for module in self._modules:
                if module.storage is not None:
                    tasks.start_soon(self._supervisor.keep, f"outbox {module.name}", self._relay_of(module.storage))
                for signature in module.plan.workers:
                    self._start_worker(tasks, module, signature)
                if module.storage is not None and module.plan.sagas:
                    self._start_sagas(tasks, module, module.storage)
            yield tasks

    def _relay_of(self, storage: OpenStorage) -> Callable[[], Coroutine[Any, Any, None]]:
        topics = frozenset(spec.name for spec in topic_specs(self._catalog, self._app.settings))
        committed = None if self._transport.durable else self._committed
        return lambda: storage.relay(self._transport, topics, committed)

    def _committed(self, topic: str, partition: int) -> int | None:
        """Tell up to which offset every module of this process that reads a topic has committed; None if one has not begun."""
        reached: list[int] = []
        for consumer in self._consumers.values():
            if topic in consumer.topics:
                offset = consumer.committed(topic, partition)
                if offset is None:
                    return None
                reached.append(offset)
        return min(reached, default=sys.maxsize)

    def _start_worker(self, tasks: anyio.abc.TaskGroup, module: LiveModule, signature: Signature) -> None:
        name = f"{module.name}.{signature.function.__name__}"
        lifespan = Lifespan(name, lambda: self._supervisor.recovered(f"worker {name}"))
        self._lifespans.append(lifespan)
        tells = Lifespan in signature.parameters.values()
        bus = Bus(module.routes)
        values = {**module.values, Bus: bus, Queries: bus, Lifespan: lifespan}
        arguments = arguments_of(signature, values)

        async def run() -> None:
            if not tells:
                lifespan.started()
            await run_isolated(module.context.copy(), signature.function(**arguments))

        self._keep_worker(tasks, lifespan, run)

    def _start_sagas(self, tasks: anyio.abc.TaskGroup, module: LiveModule, storage: OpenStorage) -> None:
        name = f"{module.name} sagas"
        lifespan = Lifespan(name, lambda: self._supervisor.recovered(f"worker {name}"))
        self._lifespans.append(lifespan)
        functions = {
            plan.declaration.name: partial(plan.signature.function, **arguments_of(plan.signature, module.values))
            for plan in module.plan.sagas
        }
        context = SagaContext(functions, module.context, module.plan.module.contract.errors)
        self._keep_worker(tasks, lifespan, lambda: storage.run_sagas(context, lifespan))

    def _keep_worker(
        self, tasks: anyio.abc.TaskGroup, lifespan: Lifespan, run: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        async def work() -> None:
            try:
                await run()
            except Exception as error:
                if lifespan.is_draining:
                    _logger.exception("worker %s failed while the process drains", lifespan.name)
                    return
                if lifespan.is_started:
                    raise
                self._start_failures.append(error)  # it never came up, so it is the start that fails

        tasks.start_soon(self._supervisor.keep, f"worker {lifespan.name}", work)

    def process(self) -> Process:
        """Return what workers are told of the process."""
        app = self._app
        return Process(
            application=app.name,
            name=app.process,
            placement=app.settings.placement,
            modules=tuple(module.name for module in app.modules),
            contracts=tuple(self._catalog.contracts.values()),
            max_message_bytes=app.settings.max_message_bytes,
            is_dev=app.is_dev,
            checks=self.checks,
            metrics=self.metrics,
        )

    def _measured(self) -> Iterator[Metric]:
        yield from of_process(self.process(), self.checks())
        yield from of_restarts(self._supervisor.restarts)
        yield from of_modules(self.statistics())
        yield from of_bounds(self._modules, self._outside_gates, self._app.settings)
        yield from of_outboxes(self._modules)
        if self._remote is not None:
            yield from of_remote(self._remote.statistics())

    async def _wait_up(self) -> None:
        """Wait until every worker has started and every consumer owns partitions; a worker that cannot start ends the start."""
        while True:
            if self._start_failures:
                raise self._start_failures[0]
            is_listening = self._remote is None or self._remote.is_listening
            if (
                is_listening
                and all(consumer.assigned for consumer in self._consumers.values())
                and all(lifespan.is_started for lifespan in self._lifespans)
            ):
                return
            await anyio.sleep(_POLL_S)

    async def _drain_tasks(self) -> None:
        """End the workers, let what is in the log finish where the log would be gone, then end the consumers; all within `drain_s`."""
        deadline = anyio.current_time() + self._app.settings.drain_s
        with anyio.CancelScope(deadline=deadline) as scope:
            for lifespan in reversed(self._lifespans):
                lifespan.drain()
            while any(name.startswith("worker ") for name in self._supervisor.running):
                await anyio.sleep(_POLL_S)
            if not self._transport.durable:
                while not all(consumer.is_idle() for consumer in self._consumers.values()):
                    await anyio.sleep(_POLL_S)
            for consumer in self._consumers.values():
                consumer.drain(deadline)
            while any(name.startswith("consumer ") for name in self._supervisor.running):
                await anyio.sleep(_POLL_S)
        if scope.cancelled_caught:
            names = ", ".join(sorted(self._supervisor.running)) or "messages in the log"
            _logger.warning("the drain took longer than %g s; given up: %s", self._app.settings.drain_s, names)
