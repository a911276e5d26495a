"""The supervisor of `fissile dev --split`: one child per process of the placement, and a broker where the configured bus is in memory.

As in `_supervise.py`, everything that happens comes through one queue and is answered in one place.
"""

from __future__ import annotations

import secrets
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio
import anyio.abc
import msgspec
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from attrs import define, field, frozen

from fissile._application import Application
from fissile._developers_key import developers_key, path_of_key
from fissile._errors import StartupFailed
from fissile._placement import Placement
from fissile._settings import variable_name
from fissile.cli._broker import Broker
from fissile.cli._children import Changed, Child, Ended, Event, Signalled, Told, how_it_ended
from fissile.cli._context import Context
from fissile.cli._exit import Exit
from fissile.cli._placements import metrics_ports, processes_of
from fissile.cli._serve import Ready
from fissile.cli._signals import StopSignals
from fissile.cli._split_banner import metrics_url, split_banner
from fissile.cli._units import COLORS, Lines, Unit, drain_in_order, units_to_restart
from fissile.cli._watch import Watched, forget_compiled


@frozen
class Retry:
    """A process that has ended is to be started again."""

    unit: Unit
    ends: int


@frozen
class BrokerEnded:
    """The broker has ended."""


@frozen
class Drained:
    """All processes have ended."""


Happening = Event | Retry | BrokerEnded | Drained


@define(eq=False)
class SplitSupervisor:
    """Answers events until the developer stops."""

    context: Context
    placement: str
    settings: dict[str, Any]  # Any: values of settings
    signals: StopSignals
    reload: bool
    units: list[Unit] = field(factory=list[Unit], init=False)
    watched: Watched = field(init=False)
    broker: Broker | None = field(default=None, init=False)
    _drain_s: float = field(default=10.0, init=False)
    _bus: str = field(default="", init=False)
    _metrics_host: str = field(default="", init=False)
    _lines: Lines = field(init=False)
    _tasks: anyio.abc.TaskGroup = field(init=False)
    _send: MemoryObjectSendStream[Happening] = field(init=False)
    _watching: anyio.CancelScope | None = field(default=None, init=False)
    _was_ready: bool = field(default=False, init=False)
    _is_draining: bool = field(default=False, init=False)
    _verdict: Exit | None = field(default=None, init=False)
    _told: set[tuple[str, ...]] = field(factory=set[tuple[str, ...]], init=False)

    async def run(self, application: Application, placement: Placement) -> Exit:
        """Run until the developer stops.

        Args:
            application: The application.
            placement: Its processes.

        Raises:
            CommandFailed: The broker cannot be had.
        """
        send, receive = anyio.create_memory_object_stream[Happening](1000)
        self._send = send
        code = Exit.OK
        async with send, receive, self._bus_for(application), anyio.create_task_group() as self._tasks:
            with self.signals.listening(self._on_signal):
                if self.broker is not None:
                    self._tasks.start_soon(self._watch_broker, self.broker)
                self._adopt(application, placement)
                for unit in self.units:
                    await self._start(unit, self.context.started)
                if self.reload:
                    self._tasks.start_soon(self._watch)
                try:
                    code = await self._answer_all(receive)
                finally:
                    self._kill_all()
            self._tasks.cancel_scope.cancel()
        return code

    async def _answer_all(self, receive: MemoryObjectReceiveStream[Happening]) -> Exit:
        async for event in receive:
            if isinstance(event, Drained):
                if self._verdict is not None:
                    return self._verdict
                return Exit.INTERRUPTED if self.signals.is_forced else Exit.OK
            await self._answer(event)
        raise AssertionError("the queue of events does not end")

    async def _answer(self, event: Happening) -> None:
        if isinstance(event, Signalled):
            if not self._is_draining:
                self.context.output.say("draining; Ctrl-C again stops at once")
                self._drain()
        elif isinstance(event, Told):
            unit = self._unit_of(event.child)
            if unit is not None:
                self._tell(unit, event)
        elif isinstance(event, Ended):
            unit = self._unit_of(event.child)
            if unit is not None:
                self._ended(unit, event)
        elif isinstance(event, BrokerEnded):
            self._broker_ended()
        elif isinstance(event, Retry):
            if event.unit in self.units and event.unit.child is None and event.unit.ends == event.ends:
                await self._start(event.unit, perf_counter())
        elif isinstance(event, Changed) and not self._is_draining:
            await self._reload(event)

    def _unit_of(self, child: Child) -> Unit | None:
        return next((unit for unit in self.units if unit.child is child), None)

    # --- what processes tell -----------------------------------------------------------------------------------------

    def _tell(self, unit: Unit, event: Told) -> None:
        output, report = self.context.output, event.report
        if report.ready is not None:
            unit.became_ready(msgspec.convert(report.ready, Ready), report.files, self.watched.root)
            assert unit.ready is not None
            if self._was_ready:
                parts = [unit.reason, output.style(f"ready in {unit.ready_s:.2f} s", "green")]
                parts += [f"pid {event.child.process.pid}"]
                parts += unit.ready.announcements if unit.ready.announcements != unit.announced else ()
                if unit.metrics_port != unit.shown_metrics_port and unit.metrics_port:
                    parts += [metrics_url(unit, self._metrics_host)]
                output.say(f"{self._lines.prefix(unit)} {' · '.join(parts)}")
            unit.announced, unit.shown_metrics_port = unit.ready.announcements, unit.metrics_port
            if all(each.ready is not None for each in self.units) and not self._is_draining:
                self._told.clear()
                if not self._was_ready:
                    self._was_ready = True
                    watched = self.watched.names() if self.reload else None
                    split_banner(
                        output, self.units, self._bus, watched, self.context.started, metrics_host=self._metrics_host
                    )
        elif report.error is not None:
            event.child.has_failed, event.child.code = True, report.code
            said = (report.error, *report.details)
            if said in self._told:
                output.say(f"{self._lines.prefix(unit)} has the same error")
            else:
                self._told.add(said)
                output.error(f"{unit.name}: {report.error}", *(report.details or _cure(report.code)))
            if report.code == Exit.UNAVAILABLE and not self._was_ready:
                self._verdict = Exit.UNAVAILABLE  # a taken port, or no broker, is not cured by saving a file

    def _ended(self, unit: Unit, event: Ended) -> None:
        unit.became_down()
        if self._is_draining:
            return
        output, child = self.context.output, event.child
        if self._verdict is not None:
            self._drain()
        elif child.has_failed and child.code == Exit.INVALID:
            waiting = f"waiting for a change in {', '.join(self.watched.names())}" if self.reload else "not running"
            output.say(f"{self._lines.prefix(unit)} {waiting}")
        else:
            why = "has ended by that error" if child.has_failed else f"has ended {how_it_ended(event.code)}"
            output.error(f"{unit.name} {why}; it is started again in {unit.pause_s:.1f} s.")
            unit.reason = "started again"
            self._tasks.start_soon(self._retry_later, Retry(unit, unit.ends), unit.pause_s)

    async def _retry_later(self, event: Retry, seconds: float) -> None:
        await anyio.sleep(seconds)
        await self._send.send(event)

    # --- starting and ending -----------------------------------------------------------------------------------------

    async def _start(self, unit: Unit, began: float) -> None:
        if self._is_draining:
            return
        given = dict(self.settings)
        if self.broker is not None:
            # It does not notice that a member has died. The next one of the same name takes its place; one name for all processes
            # does, since a module is in one of them, and may move to another.
            given["FISSILE_KAFKA_INSTANCE"] = "dev"
        if unit.metrics_port:
            given[variable_name("metrics_port")] = unit.metrics_port
        unit.ready = None
        unit.child = await Child.start(given, self.context, began, process_name=unit.name)
        self._tasks.start_soon(self._lines.follow, unit, unit.child, self._send.send)

    def _on_signal(self, count: int) -> None:
        if count > 1:
            self._kill_all()
        self._send.send_nowait(Signalled())

    def _kill_all(self) -> None:
        for unit in self.units:
            if unit.child is not None:
                unit.child.signal(signal.SIGKILL)

    def _drain(self) -> None:
        self._is_draining = True
        self._tasks.start_soon(self._drain_in_order)

    async def _drain_in_order(self) -> None:
        await drain_in_order(self.units, self._drain_s, self.context.output)
        await self._send.send(Drained())

    # --- the broker --------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _bus_for(self, application: Application) -> AsyncGenerator[None]:
        """Start a broker if the processes could not share the bus, and end it after them."""
        self._bus = application.settings.bus
        if application.log_is_shared:
            self._take_key(application)
            yield
            return
        where = next(each.source for each in application.origins if each.variable == "FISSILE_BUS")
        if where != "default":
            self.context.output.warn(
                f"{application.settings.bus} (from {where}) cannot be shared by processes: they get a broker of their own."
            )
        self.broker = await Broker.start()
        self._bus = self.settings["FISSILE_BUS"] = self.broker.url
        try:
            self._take_key(application)
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self.broker.stop()
            with suppress(OSError):
                path_of_key(application.root, self._bus).unlink()  # all that was signed with it is gone

    def _take_key(self, application: Application) -> None:
        """Give the processes a key for the identities of callers where none is set, which other commands find, too.

        Raises:
            StartupFailed: Others could read it.
        """
        if application.settings.identity_keys or not self._bus.startswith("kafka:"):
            return  # one is beside a log in a file
        try:
            key = developers_key(application.root, self._bus)
        except OSError as error:
            self.context.output.warn(
                f"The key of these processes cannot be handed over to other commands: {error}. FISSILE_IDENTITY_KEYS sets one for all."
            )
            key = secrets.token_urlsafe(32)
        self.settings[variable_name("identity_keys")] = key

    async def _watch_broker(self, broker: Broker) -> None:
        await broker.wait_ended()
        await self._send.send(BrokerEnded())

    def _broker_ended(self) -> None:
        assert self.broker is not None
        self.context.output.error(
            "The embedded broker has ended, and what it held is gone.", *self.broker.tail(), "Start again."
        )
        self._verdict = Exit.UNAVAILABLE
        if not self._is_draining:
            self._drain()

    # --- changes -----------------------------------------------------------------------------------------------------

    async def _reload(self, event: Changed) -> None:
        began = perf_counter()
        before = list(self.units)
        shown = self.watched.shown(event.paths)
        chosen = units_to_restart(before, event.paths)
        if self._read_configuration(event.paths):
            chosen = list(self.units)
        output = self.context.output
        names = ", ".join(unit.name for unit in chosen)
        output.say(f"{output.style('reload', 'cyan')} {shown} changed · starting {names} anew")
        self._told.clear()
        async with anyio.create_task_group() as tasks:
            for unit in dict.fromkeys([*chosen, *(unit for unit in before if unit not in self.units)]):
                child, unit.child, unit.ready = unit.child, None, None
                if child is not None:
                    tasks.start_soon(child.stop)
        if self.signals.count:
            return
        forget_compiled(event.paths)
        for unit in chosen:
            unit.reason, unit.ends = f"{shown} changed", 0
            await self._start(unit, began)

    def _read_configuration(self, paths: Iterable[Path]) -> bool:
        """Read the configuration anew if it is what has changed; return whether the processes are others now."""
        if all(path.parent != self.watched.root or path.suffix == ".py" for path in paths):
            return False
        try:
            application = self.context.application(self.settings, is_dev=True)
            placement = processes_of(application, self.placement)
        except StartupFailed:
            return False  # the processes tell it, each of them reads it too
        watched, names = self.watched, [unit.name for unit in self.units]
        self._adopt(application, placement)
        if watched != self.watched and self._watching is not None:
            self._watching.cancel()
        return names != [unit.name for unit in self.units]

    def _adopt(self, application: Application, placement: Placement) -> None:
        self.watched = Watched.of(application, application.root)
        self._drain_s = application.settings.drain_s
        known = {unit.name: unit for unit in self.units}
        self.units = [
            known.get(name) or Unit(name, COLORS[index % len(COLORS)]) for index, name in enumerate(placement)
        ]
        ports = metrics_ports(application, placement)
        for unit in self.units:
            unit.metrics_port = ports[unit.name]
        self._metrics_host = application.settings.metrics_host
        self._lines = Lines(self.context.output, max(len(name) for name in placement))

    async def _watch(self) -> None:
        while True:
            with anyio.CancelScope() as self._watching:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._pass_on, self.watched.configuration_changes())
                    if self.watched.folders:
                        tasks.start_soon(self._pass_on, self.watched.folder_changes())

    async def _pass_on(self, changes: AsyncIterator[set[Path]]) -> None:
        async for paths in changes:
            await self._send.send(Changed(paths))


def _cure(code: int) -> tuple[str, ...]:
    """Return what helps where a process has not said it itself."""
    if code != Exit.UNAVAILABLE:
        return ()
    return ("Is Kafka running there? FISSILE_BUS says where; with memory:// a broker for development is started.",)
