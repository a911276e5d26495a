"""One process of an application: start → ready → drain → stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import anyio
import anyio.abc

from fissile._bus import Bus
from fissile._clock import Environment
from fissile._contract import Contract
from fissile._delivery.dead_letters import DeadLetter
from fissile._errors import CallRefused, Fault, StartupFailed
from fissile._metrics import Metric
from fissile._module import Middleware, Module
from fissile._process import Check, Process
from fissile._settings import Origin, Settings, Sources, load
from fissile.abc import Transport

if (
    TYPE_CHECKING
):  # what only a process needs that runs is imported when it starts: whoever declares a module waits for none of it
    from pathlib import Path

    from fissile._check import Catalog, ModulePlan
    from fissile._remote import RemoteStatistics
    from fissile._running import ModuleStatistics, Running


class App:
    """One process of an application, hosting some of its modules.

    `async with App([module]) as app:` starts it and, at the end of the block, drains and stops it; `app.bus` calls its modules from
    outside of all of them. `run()` does the same until a signal comes.

    Args:
        modules: The modules to host.
        contracts: The contracts of modules that are hosted elsewhere. Those of hosted ones may stand among them: the order of all is the order
            in which documents and messages name modules, whichever of them a process hosts.
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
        root: The folder that relative paths in the settings start from; the current one unless told.
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
        root: Path | None = None,
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
        self.root = root
        self._given_transport = transport
        self._running: Running | None = None
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
        from fissile._check import check_contracts, check_module
        from fissile._check.identities import identity_faults

        faults: list[Fault] = []
        given_places = {id(contract) for contract in self.contracts}
        hosted = [module.contract for module in self.modules if id(module.contract) not in given_places]
        catalog = check_contracts([*hosted, *self.contracts], faults)
        plans = [check_module(module, catalog, faults) for module in self.modules]
        given = self._given_transport
        is_shared = not self.settings.bus.startswith(("memory:", "sqlite:")) if given is None else given.shared
        # Who hosts nothing only asks: without a key it is nobody to those who do.
        faults.extend(identity_faults(catalog, self.settings, is_shared=is_shared and bool(self.modules)))
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
        from fissile._running import Running

        catalog, plans, values, faults = self._check()
        if faults:
            raise StartupFailed(tuple(faults))
        running = self._running = Running(self, catalog, plans, values)
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

    def description(self) -> Process:
        """Return what the workers of this process are told of it: its contracts, its modules, its checks, its metrics."""
        return self._live().process()

    def metrics(self) -> tuple[Metric, ...]:
        """Return what the process measures, read now; docs/operations.md lists it."""
        return self._live().metrics.collect()

    def statistics(self) -> dict[str, ModuleStatistics]:
        """Return what each module has done in this process."""
        return self._live().statistics()

    def remote_statistics(self) -> RemoteStatistics | None:
        """Return what the calls of this process to others have come to; None where all modules are in this one."""
        return self._live().remote_statistics()

    async def dead_letters(self, module: str | None = None) -> tuple[DeadLetter, ...]:
        """Return what was given up and is still kept, the oldest first, whatever its state.

        Args:
            module: Only what this module has given up.

        Raises:
            Unavailable: The log cannot be read.
        """
        return await self._live().letter_box().read(module)

    async def retry_dead_letters(self, *letters: DeadLetter) -> tuple[DeadLetter, ...]:
        """Send messages that were given up to the handlers that gave them up, in the order in which they stood in their topics.

        It returns when they are on their way. A message that is handled takes its letter with it; one that fails again is `dead` again,
        with its attempts added. Each keeps its id and its key, and gives up its place in the order: later messages of its key may have been
        handled since, or be handled at the same time.

        Args:
            letters: The letters, as `dead_letters` returned them.

        Returns:
            The letters as they stand now.

        Raises:
            CallRefused: The message of one was too large to be kept. None was sent.
            Unavailable: The log cannot be reached.
            DeadlineExceeded: The log did not answer; some may have been sent.
        """
        return await self._live().letter_box().retry(letters)

    async def archive_dead_letters(self, *letters: DeadLetter) -> tuple[DeadLetter, ...]:
        """Put messages that were given up aside: they are kept.

        Args:
            letters: The letters, as `dead_letters` returned them.

        Returns:
            The letters as they stand now.

        Raises:
            Unavailable: The log cannot be reached.
        """
        return await self._live().letter_box().archive(letters)

    async def edit_dead_letter(self, letter: DeadLetter, body: bytes) -> DeadLetter:
        """Give a message that was given up another body. That makes it another message, with an id of its own; it is not sent yet.

        Args:
            letter: The letter, as `dead_letters` returned it.
            body: The new body, in the format of the application's messages.

        Returns:
            The letter as it stands now.

        Raises:
            InvalidMessage: The body does not fit the message's contract; the reason begins with the field.
            UnknownMessage: No contract has the message.
            CallRefused: The letter is being retried.
        """
        return await self._live().letter_box().edit(letter, body)

    def _live(self) -> Running:
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
