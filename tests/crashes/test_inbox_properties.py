"""Whatever is asked under whatever id, at the same time, again, given up, or after a restart: each id has one effect and one outcome."""

from __future__ import annotations

import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from attrs import define, field, frozen
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select

from fissile import (
    App,
    Caller,
    Command,
    Contract,
    DeclaredError,
    Event,
    HandlerFailed,
    InvalidMessage,
    Module,
    Query,
    Settings,
    Topic,
)
from fissile.database import Database, Schema
from tests.crashes.driver import IS_SOAK, SCALE
from tests.runtime.helpers import until

T = TypeVar("T")

Behaviour = Literal["reply", "refuse", "refuse early", "fail", "fail early"]
Pause = Literal["before", "inside", "after"]

EXAMPLES = round(50 * SCALE) if IS_SOAK else 12
STEPS = 30

metadata = MetaData()
acts = Table(
    "acts",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("message_id", String(50), nullable=False),
    Column("token", String(50), nullable=False),
)


@frozen
class Refused(DeclaredError):
    token: str


@frozen
class Act(Command[str], raises=(Refused,)):
    name: str


@frozen
class Acted(Event):
    token: str


@frozen
class Acts(Query[tuple[tuple[str, str], ...]]):
    """All rows: id and token."""


acted = Topic("till.acted", Acted, key=lambda event: event.token)
contract = Contract("till", messages=[Refused, Act, Acted, Acts], topics=[acted])


@frozen
class Run:
    """One run of the handler."""

    message_id: str
    name: str
    behaviour: Behaviour
    token: str


@frozen
class Outcome:
    """What a caller was told."""

    what: Literal["reply", "refused", "failed", "invalid", "given up"]
    token: str = ""


@define(eq=False)
class Script:
    """What the handler does, run by run, and what it did."""

    behaviours: deque[Behaviour] = field(factory=lambda: deque[Behaviour]())
    pause: Pause | None = None
    reached: Callable[[], None] = field(default=lambda: None)
    runs: list[Run] = field(factory=list[Run])
    seen: set[str] = field(factory=set[str])
    next_token: Callable[[], int] = field(factory=lambda: count().__next__)

    async def wait_at(self, place: Pause) -> None:
        """Wait for ever where the script says so."""
        if self.pause == place:
            self.pause = None
            self.reached()
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()


def make(script: Script) -> Module:
    """The module, which does what the script says."""
    module = Module(contract, database=Schema(metadata, migrations=None))

    @module.command(Act)
    async def act(command: Act, database: Database, caller: Caller) -> str:
        behaviour = script.behaviours.popleft() if script.behaviours else "reply"
        token = f"{command.name} {script.next_token()}"
        script.runs.append(Run(caller.message_id, command.name, behaviour, token))
        await script.wait_at("before")
        if behaviour == "refuse early":
            raise Refused(token)
        if behaviour == "fail early":
            raise RuntimeError("before all")
        async with database.transaction() as tx:
            await tx.execute(insert(acts).values(message_id=caller.message_id, token=token))
            tx.publish(Acted(token))
            await script.wait_at("inside")
        await script.wait_at("after")
        if behaviour == "refuse":
            raise Refused(token)
        if behaviour == "fail":
            raise RuntimeError("after all")
        return token

    @module.query(Acts)
    async def all_acts(query: Acts, database: Database) -> tuple[tuple[str, str], ...]:
        found = await database.read(select(acts.c.message_id, acts.c.token).order_by(acts.c.seq))
        return tuple((name, token) for name, token in found)

    @module.subscribe(acted)
    async def on_acted(event: Acted) -> None:
        script.seen.add(event.token)

    return module


ids = st.sampled_from(["one", "two", "three"])
names = st.sampled_from(["a", "b"])
behaviours = st.sampled_from(["reply", "reply", "refuse", "refuse early", "fail", "fail early"])


class InboxMachine(RuleBasedStateMachine):
    """The model: per id, the content and the first outcome; and the rows that these have left."""

    backend: ClassVar[str] = "asyncio"
    is_loopback: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")  # where it is, a flush to the disk costs nothing
        self.folder = Path(tempfile.mkdtemp(prefix="fissile-inbox-", dir=memory if memory.is_dir() else None))
        self.script = Script()
        self.outcomes: dict[str, tuple[str, Outcome]] = {}
        self.tokens: list[str] = []
        self.running = ExitStack()
        self.portal = self.running.enter_context(anyio.from_thread.start_blocking_portal(self.backend))
        try:
            self._start()
        except BaseException:
            self.running.close()
            raise

    def _start(self) -> None:
        settings = Settings(
            database=f"sqlite:///{self.folder}",
            database_migrate=True,
            partitions=2,
            commit_interval_s=0.01,
            drain_s=5.0,
        )
        self.app = App([make(self.script)], settings=settings, is_loopback=self.is_loopback)
        self.living = self.running.enter_context(ExitStack())
        self.living.enter_context(self.portal.wrap_async_context_manager(self.app))

    def _do(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        found: T = self.portal.call(function, *arguments)
        return found

    async def _act(self, message_id: str, name: str) -> Outcome:
        try:
            return Outcome("reply", await self.app.bus.execute(Act(name), id=message_id))
        except Refused as error:
            return Outcome("refused", error.token)
        except HandlerFailed:
            return Outcome("failed")
        except InvalidMessage:
            return Outcome("invalid")

    # --- rules -------------------------------------------------------------------------------------------------------

    @rule(message_id=ids, name=names, behaviour=behaviours)
    def execute(self, message_id: str, name: str, behaviour: Behaviour) -> None:
        """One caller."""
        self._begin([behaviour])
        self._compare(message_id, [(name, self._do(self._act, message_id, name))])

    @rule(message_id=ids, wanted=st.lists(names, min_size=2, max_size=4), script=st.lists(behaviours, max_size=4))
    def execute_at_the_same_time(self, message_id: str, wanted: list[str], script: list[Behaviour]) -> None:
        """Several callers with one id, of the same content or not."""
        self._begin(script)
        found: list[tuple[str, Outcome]] = []

        async def all_of_them() -> None:
            async with anyio.create_task_group() as tasks:

                async def one(name: str) -> None:
                    found.append((name, await self._act(message_id, name)))

                for name in wanted:
                    tasks.start_soon(one, name)

        self._do(all_of_them)
        self._compare(message_id, found)

    @rule(message_id=ids, name=names, pause=st.sampled_from(["before", "inside", "after"]), waits=st.booleans())
    def give_up_in_the_middle(self, message_id: str, name: str, pause: Pause, waits: bool) -> None:
        """A caller is cancelled while the handler is at a certain place; a second one may wait with the same id."""
        if message_id in self.outcomes:
            return
        self._begin(["reply"])
        self.script.pause = pause
        found: list[tuple[str, Outcome]] = []

        async def give_up() -> None:
            async with anyio.create_task_group() as tasks:

                async def second() -> None:
                    found.append((name, await self._act(message_id, name)))

                scope, reached = anyio.CancelScope(), anyio.Event()
                self.script.reached = reached.set

                async def cancel() -> None:  # not in the context of the handler, which may not call
                    await reached.wait()
                    if waits:
                        tasks.start_soon(second)
                        await anyio.sleep(0.002)
                    scope.cancel()

                tasks.start_soon(cancel)
                with scope:
                    found.append((name, await self._act(message_id, name)))
                assert scope.cancelled_caught

        self._do(give_up)
        assert len(found) == int(waits)
        self._compare(message_id, found, is_given_up=True)

    @rule(message_id=ids, name=names, milliseconds=st.integers(0, 8))
    def give_up_at_any_time(self, message_id: str, name: str, milliseconds: int) -> None:
        """A caller waits for a few milliseconds only, and asks again: that tells what has happened."""
        self._begin([])

        async def hurry() -> Outcome:
            with anyio.move_on_after(milliseconds / 1000):
                first = await self._act(message_id, name)
                assert first == await self._act(message_id, name)
            return await self._act(message_id, name)

        self._compare(message_id, [(name, self._do(hurry))], is_given_up=True)

    @rule()
    def restart(self) -> None:
        """Another application on the same database."""
        self.living.close()
        self._start()

    # --- the model ---------------------------------------------------------------------------------------------------

    def _begin(self, script: list[Behaviour]) -> None:
        self.script.behaviours = deque(script)
        self.script.runs.clear()

    def _compare(self, message_id: str, found: list[tuple[str, Outcome]], *, is_given_up: bool = False) -> None:
        """Compare what callers were told with what the model says, and bring the model up to date."""
        runs = list(self.script.runs)
        known = self.outcomes.get(message_id)
        if known is not None:
            assert not runs, f"handled again: {runs}"
        failures = [run for run in runs if run.behaviour.startswith("fail")]
        answers = [run for run in runs if not run.behaviour.startswith("fail")]
        assert is_given_up or len(answers) <= 1, f"handled more than once: {runs}"
        assert [outcome.what for _, outcome in found].count("failed") == len(failures)
        for name, outcome in found:
            if outcome.what in ("reply", "refused") and known is None:
                (run,) = [run for run in answers if run.token == outcome.token]
                assert (outcome.what == "refused") is run.behaviour.startswith("refuse")
                known = self.outcomes[message_id] = (name, outcome)
                if outcome.what == "reply":
                    self.tokens.append(outcome.token)
        for name, outcome in found:
            if outcome.what != "failed":
                assert known is not None
                assert outcome == (known[1] if name == known[0] else Outcome("invalid"))

    @invariant()
    def every_id_has_the_effects_of_its_first_outcome(self) -> None:
        wanted = {
            (message_id, outcome.token) for message_id, (_, outcome) in self.outcomes.items() if outcome.what == "reply"
        }
        found = self._do(self.app.bus.ask, Acts())
        assert len(found) == len(wanted)
        assert set(found) == wanted

    def teardown(self) -> None:
        """What was published is what has happened."""
        try:
            self._do(until, lambda: self.script.seen >= set(self.tokens), "all events have come")
            assert self.script.seen == set(self.tokens)
        finally:
            self.running.close()
            shutil.rmtree(self.folder)


class TrioMachine(InboxMachine):
    backend = "trio"


class LoopbackMachine(InboxMachine):
    """Through a log, as between processes."""

    is_loopback = True


@pytest.mark.timeout(3600 if IS_SOAK else 120)
@pytest.mark.parametrize("machine", [InboxMachine, TrioMachine, LoopbackMachine])
def test_each_id_has_one_effect_and_one_outcome(machine: type[InboxMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=hypothesis_settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=not IS_SOAK,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
