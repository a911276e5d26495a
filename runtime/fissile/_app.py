"""One process of an application: start → ready → drain → stop."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.abc
import msgspec

from fissile._build import Builder, LiveModule, arguments_of, dead_letter_topic, open_resources, topic_specs
from fissile._bus import Bus, Queries, Routes
from fissile._check import Catalog, ModulePlan, check_contracts, check_module
from fissile._clock import Environment
from fissile._contract import Contract
from fissile._delivery.consumer import Consumer, ConsumerStatistics
from fissile._delivery.dead_letters import DeadLetter, read
from fissile._errors import CallRefused, Fault, StartupFailed
from fissile._handler import only_leaf
from fissile._isolation import run_isolated
from fissile._module import Middleware, Module
from fissile._process import Check, Lifespan, Process
from fissile._remote import Remote
from fissile._settings import Origin, Settings, Sources, load
from fissile._signature import Signature
from fissile._supervisor import Supervisor
from fissile.abc import Transport
from fissile.transports import open_transport

_logger = logging.getLogger("fissile.app")

_POLL_S = 0.002


class ModuleStatistics(msgspec.Struct, frozen=True):
    """What a module has done in this process.

    Attributes:
        handled: How many messages succeeded, by the message's name.
        declared: How many ended with a declared error.
        failed: How many attempts failed.
        consumer: What its consumer has in hand and has done, if it has one.
    """

    handled: Mapping[str, int]
    declared: Mapping[str, int]
    failed: Mapping[str, int]
    consumer: ConsumerStatistics | None


class App:
    """One process of an application, hosting some of its modules.

    `async with App([module]) as app:` starts it and, at the end of the block, drains and stops it; `app.bus` calls its modules from
    outside of all of them. `run()` does the same until a signal comes.

    Args:
        modules: The modules to host.
        contracts: The contracts of modules that are hosted elsewhere.
        settings: The runtime's settings; the defaults unless told.
        sources: Where the modules' settings come from; nowhere unless told.
        name: The application's name.
        process: This process's name in its placement.
        middleware: Functions around every message, outermost first.
        overrides: Resources and settings to use instead of the modules' own, by type; for tests.
        transport: The transport to use instead of the one that the settings name.
        environment: Where time, ids and randomness come from.
        is_dev: Whether it runs for a developer.
        is_loopback: Whether calls go through the log even to modules that are hosted here; for tests.
        repeats: Whether what comes through the log is handled twice, where the module says that it bears that; for tests.
    """

    def __init__(
        self,
        modules: Iterable[Module],
        *,
        contracts: Iterable[Contract] = (),
        settings: Settings | None = None,
        sources: Sources | None = None,
        name: str = "app",
        process: str = "monolith",
        middleware: Iterable[Middleware] = (),
        overrides: Mapping[Any, Any] | None = None,  # Any: the keys are types, the values what they are replaced by
        transport: Transport | None = None,
        environment: Environment | None = None,
        is_dev: bool = False,
        is_loopback: bool = False,
        repeats: bool = False,
    ) -> None:
        self.modules = tuple(modules)
        self.contracts = tuple(contracts)
        self.settings = settings or Settings()
        self.sources = sources or Sources()
        self.name = name
        self.process = process
        self.middleware = tuple(middleware)
        self.overrides = dict(overrides or {})
        self.environment = environment or Environment()
        self.is_dev = is_dev
        self.is_loopback = is_loopback
        self.repeats = repeats
        self._given_transport = transport
        self._running: _Running | None = None
        self._tasks: anyio.abc.TaskGroup | None = None

    # --- before it runs ----------------------------------------------------------------------------------------------

    def check(self) -> tuple[Fault, ...]:
        """Return everything that keeps the application from starting, without starting anything."""
        return tuple(self._check()[3])

    def settings_in_use(self) -> tuple[Origin, ...]:
        """Return the modules' settings with the origin of each.

        Raises:
            StartupFailed: The application has faults.
        """
        _, plans, _, faults = self._check()
        if faults:
            raise StartupFailed(tuple(faults))
        origins: list[Origin] = []
        for plan in plans:
            for cls in plan.settings:
                if cls not in self.overrides:
                    origins.extend(load(cls, self.sources, plan.module.name)[1])
        return tuple(origins)

    def _check(self) -> tuple[Catalog, list[ModulePlan], dict[str, dict[type, Any]], list[Fault]]:
        faults: list[Fault] = []
        catalog = check_contracts([*(module.contract for module in self.modules), *self.contracts], faults)
        plans = [check_module(module, catalog, faults) for module in self.modules]
        values: dict[str, dict[type, Any]] = {}
        for plan in plans:
            own = values.setdefault(plan.module.name, {})
            for cls in plan.settings:
                if cls in self.overrides:
                    own[cls] = self.overrides[cls]
                    continue
                try:
                    own[cls], _ = load(cls, self.sources, plan.module.name)
                except StartupFailed as failed:
                    faults.extend(failed.faults)
        return catalog, plans, values, faults

    # --- running -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start, and return when the process is ready.

        Raises:
            StartupFailed: There are faults; all of them are named.
        """
        catalog, plans, values, faults = self._check()
        if faults:
            raise StartupFailed(tuple(faults))
        running = self._running = _Running(self, catalog, plans, values)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        try:
            self._tasks.start_soon(running.live)
            await running.wait_ready()
            if running.failure is not None:
                raise running.failure
        except BaseException as error:
            running.force()
            self._running = None
            await _leave(self._tasks, error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Drain and stop, within `drain_s`."""
        running, tasks = self._running, self._tasks
        assert running is not None
        assert tasks is not None
        running.drain()
        try:
            await running.wait_ended()
        except BaseException:
            running.force()
            raise
        finally:
            self._running = None
            swallowed = await _leave(tasks, error)
        if running.failure is not None and error is None:
            raise running.failure
        return swallowed

    async def run(
        self,
        *,
        on_ready: Callable[[tuple[str, ...]], None] | None = None,
        stop: anyio.Event | None = None,
        force: anyio.Event | None = None,
    ) -> None:
        """Start, and drain and stop when told.

        Args:
            on_ready: Called when the process is ready, with what a person should be told.
            stop: When set, the process drains and stops.
            force: When set, it stops at once.
        """
        stop, force = stop or anyio.Event(), force or anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def stop_at_once() -> None:
                await force.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(stop_at_once)
            async with self:
                assert self._running is not None
                if on_ready is not None:
                    on_ready(self._running.announcements())
                async with anyio.create_task_group() as waiting:

                    async def until(wait: Callable[[], Any]) -> None:
                        await wait()
                        waiting.cancel_scope.cancel()

                    waiting.start_soon(until, stop.wait)
                    waiting.start_soon(until, self._running.wait_ended)
            tasks.cancel_scope.cancel()

    @property
    def bus(self) -> Bus:
        """The bus of code outside of all modules.

        Raises:
            CallRefused: The application is not running.
        """
        return self._live().bus

    def checks(self) -> tuple[Check, ...]:
        """Return what has to be well for the process to be ready, and whether it is."""
        return self._live().checks()

    def statistics(self) -> dict[str, ModuleStatistics]:
        """Return what each module has done in this process."""
        return self._live().statistics()

    async def dead_letters(self, module: str | None = None) -> tuple[DeadLetter, ...]:
        """Return what was given up and is still kept, the oldest first.

        Args:
            module: Only what this module has given up.
        """
        return await self._live().dead_letters(module)

    def _live(self) -> _Running:
        if self._running is None:
            raise CallRefused("The application is not running; use it inside `async with App(...)`.")
        return self._running

    def __repr__(self) -> str:
        state = "running" if self._running is not None else "not running"
        return f"<App {self.name} {self.process}: {', '.join(module.name for module in self.modules)}; {state}>"


async def _leave(tasks: anyio.abc.TaskGroup, error: BaseException | None) -> bool | None:
    """Leave a task group with the error of its block, which goes on as it is: a task group would wrap it into a group of one."""
    if error is None or isinstance(error, Exception):
        await tasks.__aexit__(None, None, None)
        return False  # Trio's says True where it was told of no error, and that would swallow this one
    return await tasks.__aexit__(type(error), error, error.__traceback__)


class _Running:
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
            )
        return told

    async def dead_letters(self, module: str | None) -> tuple[DeadLetter, ...]:
        letters: list[DeadLetter] = []
        for name in self._catalog.contracts if module is None else (module,):
            async with self._transport.read([(dead_letter_topic(name), 0)], "earliest") as reader:
                ((_, begin),) = reader.begins.items()
                ((_, end),) = reader.ends.items()
                while begin < end:
                    records = await reader.receive()
                    letters.extend(read(name, record) for record in records)
                    begin = records[-1].offset + 1
        return tuple(letters)

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
        self._transport = app._given_transport or open_transport(app.settings, self._environment.clock)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._transport)
            if not self._transport.durable and not app.is_dev:
                _logger.warning("the bus %s keeps nothing across a stop of this process", app.settings.bus)
            await self._transport.ensure(topic_specs(self._catalog, app.settings))
            for plan in self._plans:
                values = self._settings_values[plan.module.name]
                live = await open_resources(plan, values, app.overrides, self._environment, self._process(), stack)
                self._modules.append(live)
            self._build()
            async with self._running_tasks() as tasks:
                await self._wait_up()
                self._is_ready = True
                self._ready.set()
                await self._drain.wait()
                self._is_ready = False
                await self._drain_tasks()
                tasks.cancel_scope.cancel()
                # From here on resources close; one that does not come to an end is cancelled.
                self._scope.deadline = anyio.current_time() + app.settings.drain_s

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
        builder.fill_routes(outside, self._modules, {})
        self.bus = Bus(outside)
        for module, deliveries in built:
            builder.fill_routes(module.routes, self._modules, module.gates)
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
                for signature in module.plan.workers:
                    self._start_worker(tasks, module, signature)
            yield tasks

    def _start_worker(self, tasks: anyio.abc.TaskGroup, module: LiveModule, signature: Signature) -> None:
        name = f"{module.name}.{signature.function.__name__}"
        lifespan = Lifespan(name, lambda: self._supervisor.recovered(f"worker {name}"))
        self._lifespans.append(lifespan)
        tells = Lifespan in signature.parameters.values()
        bus = Bus(module.routes)
        values = {**module.values, Bus: bus, Queries: bus, Lifespan: lifespan}
        arguments = arguments_of(signature, values)

        async def work() -> None:
            if not tells:
                lifespan.started()
            try:
                await run_isolated(module.context.copy(), signature.function(**arguments))
            except Exception as error:
                if lifespan.is_draining:
                    _logger.exception("worker %s failed while the process drains", name)
                    return
                if lifespan.is_started:
                    raise
                self._start_failures.append(error)  # it never came up, so it is the start that fails

        tasks.start_soon(self._supervisor.keep, f"worker {lifespan.name}", work)

    def _process(self) -> Process:
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
        )

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
