"""Drives one process that is killed and started again, under the load of a client that repeats what it does not know the outcome of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from random import Random
from typing import Literal
from uuid import uuid4

import anyio
import anyio.abc
import attrs
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream
from attrs import define, field

from fissile import App, CallError, Settings
from fissile._errors import TransportClosed
from tests.crashes.history import History, Kind, read_history
from tests.crashes.host import Line, Task
from tests.crashes.judge import Anomaly, Figures, figures, judge
from tests.crashes.modules import Note, Place, SoldOut, entered, ledger_contract, orders_contract
from tests.crashes.notes import read_notes
from tests.crashes.state import Seen, behind, read_state, waiting

ROOT = Path(__file__).parents[2]
SCALE = float(os.environ.get("FISSILE_TEST_SCALE", "1"))
IS_SOAK = os.environ.get("FISSILE_TEST_SOAK", "0") not in ("", "0")
SEED = int(os.environ.get("FISSILE_TEST_SEED", "0"))
PATIENCE_S = 60.0
"""How long a test waits for what has to come."""
EXECUTED, SENT = ("a", "b", "c", "d"), ("m", "n")
"""The keys of commands that are executed, and of those that are sent."""
SETTINGS = Settings(
    partitions=2,
    reply_partitions=2,
    commit_interval_s=0.05,
    drain_s=5.0,
    database_migrate=True,
    database_connections=4,
    kafka_session_s=1.0,
    kafka_heartbeat_s=0.1,
    kafka_revoke_s=1.0,
    sqlite_session_s=2.0,
)


@define(eq=False)
class Site:
    """A process that dies and comes back, and what is known of it.

    Attributes:
        folder: Where files are.
        settings: The settings of all processes.
        random: Decides what is left to chance; from the seed.
        deaths: How often it died, by checkpoint; at random times under `random`.
        seen: What the ledger has published.
        retried: How many dead letters there were.
    """

    folder: Path
    settings: Settings
    random: Random
    host: anyio.abc.Process
    lines: AsyncIterator[Line]
    app: App
    deaths: Counter[str] = field(factory=lambda: Counter[str](), init=False)
    seen: list[Seen] = field(factory=list[Seen], init=False)
    retried: int = field(default=0, init=False)
    history: History = field(init=False)
    _stops: bool = field(default=False, init=False)
    _starts: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.history = History(self.folder / "history.jsonl")

    @property
    def notes(self) -> Path:
        """What the processes have written down."""
        return self.folder / "notes"

    def log(self) -> str:
        """Return the end of what the processes have printed."""
        path = self.folder / "log"
        return path.read_text(errors="replace")[-6000:] if path.exists() else ""

    # --- the process -------------------------------------------------------------------------------------------------

    async def _next(self, what: Literal["started", "ready", "ended"], patience_s: float = PATIENCE_S) -> Line | None:
        with anyio.move_on_after(patience_s):
            line = await anext(self.lines)
            assert line.what == what or line.what == "ended", f"{line} instead of {what}"
            return line
        return None

    async def _start(self, checkpoint: str = "", passage: int = 0, *, is_cured: bool = False) -> int:
        # With a stable name it gets its partitions back at once; now and then it has none, and waits for the session of the dead one to end.
        self._starts += 1
        settings = attrs.evolve(self.settings, kafka_instance="" if self._starts % 10 == 5 else "host")
        task = Task(settings, checkpoint, passage, str(self.notes), is_cured)
        assert self.host.stdin is not None
        await self.host.stdin.send(msgspec.json.encode(task) + b"\n")
        line = await self._next("started")
        assert line is not None, self.log()
        return line.pid

    async def _until_dead(self, what: str, begun: float) -> None:
        """Wait until it has ended, and see that it was killed."""
        while True:
            line = await self._next("ready")
            assert line is not None, f"never reached: {what}\n{self.log()}"
            if line.what == "ready":
                self.history.write("start", value=f"{time.monotonic() - begun:.3f}")
                continue
            assert line.status == -signal.SIGKILL, f"ended with {line.status} instead of at {what}:\n{self.log()}"
            self.history.write("death", value=what)
            self.deaths[what] += 1
            return

    async def kill_at(self, checkpoint: str, passage: int) -> None:
        """Start it, and let it kill itself at a checkpoint. The test fails if it never gets there."""
        begun = time.monotonic()
        before = read_notes(self.notes).count(f"died at {checkpoint}")
        await self._start(checkpoint, passage)
        await self._until_dead(checkpoint, begun)
        assert read_notes(self.notes).count(f"died at {checkpoint}") == before + 1, (
            f"killed by something else\n{self.log()}"
        )

    async def kill_after(self, seconds: float) -> None:
        """Start it, and kill it some time later."""
        begun = time.monotonic()
        pid = await self._start()
        await anyio.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        await self._until_dead("random", begun)

    # --- the load ----------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Send commands until told to stop; each is repeated until its outcome is known."""
        async with anyio.create_task_group() as tasks:
            for key in EXECUTED:
                tasks.start_soon(self._load_key, key, "execute")
            for key in SENT:
                tasks.start_soon(self._load_key, key, "send")

    async def _load_key(self, key: str, kind: Kind) -> None:
        for number in count():
            if self._stops:
                return
            while not await self._try(key, number, kind):
                await anyio.sleep(0.02)
            if self.random.random() < 0.2:
                await self._try(key, number, kind)  # once more, although it is known
            await anyio.sleep(self.random.uniform(0.0, 0.1 if kind == "execute" else 0.3))

    async def _try(self, key: str, number: int, kind: Kind) -> bool:
        """Try a command once; return whether its outcome is known."""
        name = f"{key}/{number}"
        self.history.write("ask", name, key, number, kind)
        value = "gave up waiting"
        # Some callers are impatient, and repeat while the first try may still be on its way.
        with anyio.move_on_after(self.random.choice((0.1, 1.0, 3.0))):
            try:
                if kind == "execute":
                    reply = await self.app.bus.execute(Place(key, number), id=name)
                    self.history.write("reply", name, key, number, kind, reply)
                else:
                    await self.app.bus.send(Note(key, number), id=name)
                    self.history.write("stored", name, key, number, kind)
                return True
            except SoldOut as error:
                self.history.write("declared", name, key, number, kind, error.token)
                return True
            except (CallError, TransportClosed) as error:
                value = f"{type(error).__name__}: {error}"
        self.history.write("unknown", name, key, number, kind, value)
        return False

    async def follow(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Read what the ledger publishes."""
        async with self.app.bus.tap(entered) as tap:
            task_status.started()
            async for tapped in tap:
                self.seen.append(Seen(tapped.id, tapped.event.order_id, tapped.event.key, tapped.event.number))

    # --- the end -----------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Start it once more, cured of what made dead letters, and let it finish what is left; retry the dead letters."""
        await self._start(is_cured=True)
        line = await self._next("ready")
        assert line is not None
        assert line.what == "ready", self.log()
        self._stops = True

    async def settle(self) -> tuple[list[Anomaly], Figures]:
        """Wait until all is done, retry the dead letters, wait again, and judge."""
        noted = read_notes(self.notes).count("tick")
        await self._until_settled()
        letters = await self.app.dead_letters("ledger")
        self.retried = len(await self.app.retry_dead_letters(*letters))
        left, late = await self._until_settled()
        still = [f"{letter.message_id} {letter.reason}" for letter in await self.app.dead_letters("ledger")]
        state = await anyio.to_thread.run_sync(
            lambda: read_state(
                self.settings, noted_ticks=noted, seen=self.seen, letters=still, waiting=left, behind=late
            )
        )
        history = read_history(self.history.path)
        return judge(history, state), figures(history)

    async def _until_settled(self) -> tuple[int, list[str]]:
        """Wait until nothing is to be done; return what is left in the outboxes and of the log, if that does not come."""
        left, late = 0, list[str]()
        with anyio.move_on_after(PATIENCE_S):
            while True:
                late = await anyio.to_thread.run_sync(behind, self.settings)
                left = await anyio.to_thread.run_sync(waiting, self.settings)
                if not left and not late:
                    late = await anyio.to_thread.run_sync(behind, self.settings)
                    if not late:
                        break
                await anyio.sleep(0.1)
        await anyio.sleep(0.2)  # for the tap
        return left, late

    def repeats_seen(self) -> dict[str, int]:
        """Return how many repeats each module's inbox has seen through."""
        return dict(Counter(line.split()[-1] for line in read_notes(self.notes) if line.startswith("repeat in")))


async def _lines(host: anyio.abc.Process) -> AsyncIterator[Line]:
    assert host.stdout is not None
    stream = BufferedByteReceiveStream(host.stdout)
    while True:
        yield msgspec.json.decode(await stream.receive_until(b"\n", 65_536), type=Line)


@asynccontextmanager
async def site(folder: Path, *, database: str, bus: str, backend: Literal["asyncio", "trio"]) -> AsyncGenerator[Site]:
    """Start a client in this process, and what starts the process that dies; it is not started yet.

    Args:
        folder: Where files are.
        database: The setting FISSILE_DATABASE.
        bus: The setting FISSILE_BUS.
        backend: The event loop of the process that dies.
    """
    prefix = f"c{uuid4().hex[:8]}"
    settings = attrs.evolve(
        SETTINGS, database=database, database_prefix=f"{prefix}_", bus=bus, kafka_prefix=f"{prefix}.", backend=backend
    )
    client = App([], contracts=[orders_contract, ledger_contract], settings=settings, process="test")
    with (folder / "log").open("ab") as log:
        host = await anyio.open_process(
            [sys.executable, "-m", "tests.crashes.host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        async with client, anyio.create_task_group() as tasks:  # the client first: it makes the topics
            found = Site(folder, settings, Random(SEED), host, _lines(host), client)
            await tasks.start(found.follow)
            yield found
            found.history.close()
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            with suppress(ProcessLookupError):
                os.killpg(host.pid, signal.SIGKILL)
            await host.wait()
            await host.aclose()
