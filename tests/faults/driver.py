"""Starts processes, each in its own process group, injects faults into them by name, and calls them from the process of the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Literal
from uuid import uuid4

import anyio
import anyio.abc
import attrs
import msgspec
import pytest
from anyio.streams.text import TextReceiveStream
from attrs import define, field

from fissile import App, Bus, Module, Settings
from fissile.testing._placements import import_path
from tests.brokers.processes import freeze
from tests.faults.checker import Report, check
from tests.faults.deliveries import Limits
from tests.faults.history import Effects, History, Lag
from tests.faults.log import look_at_log
from tests.faults.modules import EFFECTS, ledger, reader
from tests.figures import figure

SCALE = float(os.environ.get("FISSILE_TEST_SCALE", "1"))
"""How much is done: 1 for every change, 10 for the full figures."""
IS_FULL = SCALE >= 10
SEED = int(os.environ.get("FISSILE_TEST_SEED", "0"))
SESSION_S = 10.0 if IS_FULL or "FISSILE_TEST_KAFKA" in os.environ else 3.0
RECOVERY_S = SESSION_S + 5.0
"""What 99 of 100 operations that a fault held up may take after it."""
COMMIT_SLACK_S = 0.5
"""How long a commit may take, besides its interval: its round trip, and a busy machine."""
PATIENCE_S = 60.0
"""How long a test waits for what has to come."""
PULSE_S = 0.02
"""How often the driver looks whether the machine is late, in seconds."""
SETTINGS = Settings(
    partitions=4,
    reply_partitions=4,
    commit_interval_s=0.05,
    kafka_session_s=SESSION_S,
    kafka_heartbeat_s=SESSION_S / 10,
    kafka_revoke_s=4.0,
)


def on(*backends: str) -> pytest.MarkDecorator:
    """Run tests on these event loops: for every change on the first of them, at full scale on all."""
    return pytest.mark.parametrize("anyio_backend", backends if IS_FULL else backends[:1])


def scaled(full: int) -> int:
    """Return how many of `full` are done at this scale."""
    return max(1, min(full, round(full * SCALE / 10)))


@define(eq=False)
class Worker:
    """A process that hosts a module."""

    process: anyio.abc.Process

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to its process group."""
        if self.process.returncode is None:
            os.killpg(self.process.pid, number)

    async def leave(self) -> None:
        """Drain it (SIGTERM), and wait until it has ended."""
        self.signal(signal.SIGTERM)
        with anyio.fail_after(PATIENCE_S):
            await self.process.wait()

    async def end(self) -> None:
        """Kill it, whatever state it is in."""
        with anyio.CancelScope(shield=True):
            self.signal(signal.SIGKILL)
            await self.process.wait()
            await self.process.aclose()


@define(eq=False)
class Site:
    """Some processes, a broker, and what is known of them.

    Attributes:
        folder: Where history, end state and logs are.
        settings: The settings of all processes.
        random: Decides where and when; from the seed.
        modules: The modules that any of the processes may host.
        history: What the driver saw.
        effects: What was handled.
        workers: The processes that live, or have been killed by a fault.
    """

    folder: Path
    settings: Settings
    random: Random
    modules: Sequence[Module]
    history: History = field(init=False)
    effects: Effects = field(init=False)
    workers: list[Worker] = field(factory=list[Worker], init=False)
    app: App = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.history = History(self.folder / "history.jsonl")
        self.effects = Effects(self.folder / "effects.jsonl")

    @property
    def living(self) -> list[Worker]:
        """The processes that have not ended."""
        return [worker for worker in self.workers if worker.process.returncode is None]

    @property
    def bus(self) -> Bus:
        """The bus of the test's process."""
        return self.app.bus

    async def start(self, module: Module, *, bus: str | None = None) -> Worker:
        """Start a process that hosts a module, and wait until it is ready.

        Args:
            module: The module.
            bus: Its broker, if it is not that of the others.
        """
        settings = self.settings if bus is None else attrs.evolve(self.settings, bus=bus)
        others = [import_path(other) for other in self.modules if other is not module]
        task = {"host": import_path(module), "others": others, "settings": settings, "path": sys.path}
        environment = {**os.environ, EFFECTS: str(self.effects.path)}
        with (self.folder / "log").open("ab") as log:
            process = await anyio.open_process(
                [sys.executable, "-m", "fissile.testing._host"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        worker = Worker(process)
        self.workers.append(worker)
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.send(msgspec.json.encode(task))
        await process.stdin.aclose()
        with anyio.fail_after(PATIENCE_S):
            async for text in TextReceiveStream(process.stdout):
                if "ready" in text:
                    return worker
        raise RuntimeError(f"a process has ended with {await process.wait()} before it was ready: {self.log()}")

    def log(self) -> str:
        """Return the end of what the processes have printed."""
        path = self.folder / "log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def kill(self, worker: Worker) -> None:
        """Kill a process at once (SIGKILL)."""
        self.history.fault("kill")
        worker.signal(signal.SIGKILL)

    def freeze(self, worker: Worker) -> None:
        """Stop a process (SIGSTOP), until `go_on`. The others take over: recovery counts from here."""
        self.history.fault("freeze")
        freeze(worker.process.pid)

    def go_on(self, worker: Worker) -> None:
        """Let a process go on (SIGCONT)."""
        self.history.fault("freeze", "felt")
        worker.signal(signal.SIGCONT)

    async def more(self, count: int) -> None:
        """Wait until so many more operations have ended well, and others are under way."""
        reached = len(self.history.acknowledged) + count
        await until(lambda: len(self.history.acknowledged) >= reached, f"{count} more operations end well")
        await until(lambda: self.history.running, "one is under way")

    async def settle(self) -> None:
        """Wait until all that was acknowledged was handled, and note what is stored and committed then.

        What is missing is for the checker to tell.
        """
        with anyio.move_on_after(PATIENCE_S):
            while not self.history.acknowledged <= self.effects.look():
                await anyio.sleep(0.02)
        before = -1
        while before != self.effects.count:  # and for repeats, until there are no more
            before = self.effects.count
            await anyio.sleep(0.5)
            self.effects.look()
        lines = await look_at_log(self.settings)
        assert lines or not self.history.acknowledged, "nothing was found in the log"
        for line in lines:
            self.history.write(line)

    def report(self, title: str) -> Report:
        """Check what is written down, and note the figures."""
        # A message is stored, or not, within the deadline of an append, and what waits for a place in its partition within another.
        deadline_s = max(self.settings.call_timeout_s, 2 * self.settings.kafka_append_s)
        limits = Limits(deadline_s, commit_s=self.settings.commit_interval_s + COMMIT_SLACK_S, settle_s=RECOVERY_S)
        found = check(self.history.path, self.effects.path, limits)
        figure(f"{title} [seed {SEED}, scale {SCALE:g}]: {found}")
        return found


@asynccontextmanager
async def site(
    folder: Path,
    broker: str,
    backend: object,
    *processes: Module,
    settings: Settings = SETTINGS,
    modules: Sequence[Module] = (ledger, reader),
    bus: str | None = None,
) -> AsyncGenerator[Site]:
    """Start processes on a broker, and a caller in this process; kill them all at the end.

    Args:
        folder: Where history, end state and logs go.
        broker: The broker, as host:port.
        backend: The event loop of the processes.
        processes: The module of each process.
        settings: The settings of all.
        modules: The modules that any of the processes may host.
        bus: The broker of the caller, if it is not that of the others.
    """
    name: Literal["asyncio", "trio"] = "trio" if backend == "trio" else "asyncio"
    settings = attrs.evolve(settings, bus=f"kafka://{broker}", backend=name, kafka_prefix=f"f{uuid4().hex[:8]}.")
    found = Site(folder, settings, Random(SEED), modules)
    try:
        # The caller first: it makes the topics, so that processes do not make them at the same time.
        found.app = caller(found, "test", bus=bus)
        async with anyio.create_task_group() as watching:
            watching.start_soon(_watch_machine, found.history)
            async with found.app:
                async with anyio.create_task_group() as starting:
                    for module in processes:
                        starting.start_soon(found.start, module)
                yield found
            watching.cancel_scope.cancel()
    finally:
        for worker in found.workers:
            await worker.end()
        found.history.close()


def caller(site: Site, process: str, *, bus: str | None = None) -> App:
    """Make one that hosts no module and calls them all."""
    settings = site.settings if bus is None else attrs.evolve(site.settings, bus=bus)
    return App([], contracts=[module.contract for module in site.modules], settings=settings, process=process)


async def _watch_machine(history: History) -> None:
    """Write down when this process goes on later than it was to."""
    while True:
        due = time.monotonic() + PULSE_S
        await anyio.sleep(PULSE_S)
        late_s = time.monotonic() - due
        if late_s > PULSE_S / 10:
            history.write(Lag(due + late_s, late_s))


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition that nothing announces."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > give_up:
            raise AssertionError(f"Waited in vain until {what}")
        await anyio.sleep(0.005)
