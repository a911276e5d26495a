"""The placements that are compared, each with an observer: a process of its own that hosts no module, and goes on when the others crash."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal

import anyio
import anyio.abc
import attrs
from attrs import define, field, frozen

from fissile import App, Bus, Module, PositionLost, Settings
from fissile.testing import placed
from fissile.transports.memory import MemoryLog, MemoryTransport
from tests.placements.modules import COMMANDS_RUNNING, Followed, Happened, back, followed, front
from tests.placements.workload import CALLS_IN_FLIGHT, MAX_MESSAGE_BYTES

InProcess = Literal["local", "loopback", "repeats"]
"""One process: its calls stay in it, or go through the log, or go through the log and are all repeated."""

SETTINGS = Settings(
    partitions=4,
    reply_partitions=4,
    commit_interval_s=0.02,
    chain_depth=8,
    commands_running=COMMANDS_RUNNING,
    calls_in_flight=CALLS_IN_FLIGHT,
    max_message_bytes=MAX_MESSAGE_BYTES,
)
MODULES: Sequence[Module] = (front, back)
EARLY_KEY = "early"


@frozen(eq=False)
class Side:
    """One placement of the modules, running.

    Attributes:
        bus: Calls the modules from outside.
        observer: A process that hosts none of them.
        crash: Ends the processes that host them, without a drain, and starts them again.
        commit_interval_s: How often they commit offsets, in seconds.
        early: What the subscriber has made of the events that were there before it first started.
    """

    get_bus: Callable[[], Bus]
    observer: App
    crash: Callable[[], Awaitable[None]]
    commit_interval_s: float
    early: list[str] = field(factory=list[str])

    @property
    def bus(self) -> Bus:
        """The bus of the process that lives now."""
        return self.get_bus()


@asynccontextmanager
async def in_process(
    placement: InProcess, settings: Settings = SETTINGS, patience_s: float = 20.0
) -> AsyncGenerator[Side]:
    """Run the modules in one process, over a log in memory that outlives it.

    Args:
        placement: Which way its calls go.
        settings: The settings.
        patience_s: How long to wait for what has to come, in seconds.
    """
    clock = App(()).environment.clock
    log = MemoryLog(clock, settings.memory_retention_bytes, 2 * settings.max_message_bytes)

    def make() -> App:
        is_loopback = placement != "local"
        return App(
            MODULES,
            settings=settings,
            transport=MemoryTransport(log),
            is_loopback=is_loopback,
            repeats=placement == "repeats",
        )

    observer = App((), contracts=[one.contract for one in MODULES], settings=settings, transport=MemoryTransport(log))
    async with observer, anyio.create_task_group() as tasks:
        position = await _publish_early(observer.bus)
        host = _Host(make, tasks)
        await host.start()
        side = Side(lambda: host.app.bus, observer, host.crash, settings.commit_interval_s)
        await _read_early(side, position, patience_s)
        yield side
        await host.stop()


@define(eq=False)
class _Host:
    """A process that can crash: an application in a task of its own."""

    make: Callable[[], App]
    tasks: anyio.abc.TaskGroup
    app: App = field(init=False)
    _scope: anyio.CancelScope = field(init=False)
    _stop: anyio.Event = field(init=False)
    _ended: anyio.Event = field(init=False)

    async def start(self) -> None:
        await self.tasks.start(self._live)

    async def _live(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        self._stop, self._ended = anyio.Event(), anyio.Event()
        try:
            with anyio.CancelScope() as self._scope:
                async with self.make() as self.app:
                    task_status.started()
                    await self._stop.wait()
        finally:
            self._ended.set()

    async def crash(self) -> None:
        self._scope.cancel()
        await self._ended.wait()
        await self.start()

    async def stop(self) -> None:
        self._stop.set()
        await self._ended.wait()


@asynccontextmanager
async def split(broker: str, settings: Settings = SETTINGS, *, replicas: int = 2) -> AsyncGenerator[Side]:
    """Run each module in processes of its own, over a broker.

    Args:
        broker: The bus, such as `kafka://localhost:29092`.
        settings: The settings.
        replicas: How many processes host each module.
    """
    contracts = [one.contract for one in MODULES]
    async with App(
        (), contracts=contracts, settings=attrs.evolve(settings, bus=broker), process="observer"
    ) as observer:
        position = await _publish_early(observer.bus)
        async with placed("split", MODULES, broker=broker, settings=settings, replicas=replicas) as bus:
            side = Side(lambda: bus, observer, _cannot_crash, settings.commit_interval_s)
            await _read_early(side, position, 20.0)
            yield side


async def _cannot_crash() -> None:
    raise AssertionError("the processes of a split crash in tests/faults")


async def _publish_early(bus: Bus) -> str:
    """Publish what is there before the subscriber first starts; return the position of a tap of what it will make of it."""
    async with bus.tap(followed) as tap:
        for what in ("one", "two"):
            await bus.publish(Happened(EARLY_KEY, what))
        return tap.position


async def _read_early(side: Side, position: str, patience_s: float) -> None:
    with anyio.move_on_after(patience_s), suppress(PositionLost):
        async with side.observer.bus.tap(followed, after=position, key=EARLY_KEY) as tap:
            async for tapped in tap:
                event: Followed = tapped.event
                if event.what not in side.early:  # it may come again
                    side.early.append(event.what)
                if event.what == "two":
                    return
