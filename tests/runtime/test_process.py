"""Rules 16 and 17: the life of a process, its supervisor, its resources; clock, ids and randomness that a test owns."""

import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random
from typing import Any

import anyio
import pytest
from attrs import field, frozen

from fissile import (
    App,
    Bus,
    Caller,
    CallRefused,
    Clock,
    Command,
    Contract,
    Environment,
    Event,
    HandlerFailed,
    Handling,
    Ids,
    Lifespan,
    Module,
    ModuleSettings,
    Process,
    Query,
    Topic,
    Unavailable,
    setting,
)
from fissile.testing import ManualClock
from tests.runtime.helpers import NEVER_S, app_of, client_of, log_of, quick, settle, until


@frozen
class Act(Command[str]):
    pass


@frozen
class Look(Query[str]):
    pass


@frozen
class Happened(Event):
    pass


happened = Topic("base.happened", Happened, key=lambda event: "")
WITHIN_S = 1000.0


def base(act_: Callable[[], str] = lambda: "done") -> Module:
    module = Module(Contract("base", messages=[Act, Happened], topics=[happened]))

    @module.command(Act, idempotent=True)
    async def act(command: Act) -> str:
        return act_()

    return module


def problems(app: App) -> dict[str, str]:
    return {check.name: check.problem for check in app.checks() if check.problem is not None}


# --- the life of a process -------------------------------------------------------------------------------------------


async def test_a_process_is_ready_inside_of_its_block_and_its_bus_is_gone_after_it() -> None:
    app = app_of(base())
    with pytest.raises(CallRefused, match="not running"):
        _ = app.bus
    async with app:
        assert problems(app) == {}
        assert await app.bus.execute(Act()) == "done"
    with pytest.raises(CallRefused, match="not running"):
        _ = app.bus


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(ValueError, match="mine"):
        async with app_of(base()):
            raise ValueError("mine")


async def test_a_failure_at_start_comes_out_as_it_is() -> None:
    module = base()

    @module.resource
    @asynccontextmanager
    async def store() -> AsyncGenerator[Store]:
        raise ValueError("no store")
        yield Store("", [])

    with pytest.raises(ValueError, match="no store"):
        async with app_of(module):
            raise AssertionError


async def test_a_process_can_be_started_again() -> None:
    app = app_of(base())
    for _ in range(2):
        async with app:
            assert await app.bus.execute(Act()) == "done"


async def test_two_applications_live_side_by_side_in_one_process() -> None:
    async with app_of(base(lambda: "one")) as one, app_of(base(lambda: "two")) as two:
        assert [await app.bus.execute(Act()) for app in (one, two)] == ["one", "two"]


async def test_run_starts_tells_that_it_is_ready_and_stops_when_told() -> None:
    stop, told = anyio.Event(), []
    app = app_of(base())

    def ready(announcements: tuple[str, ...]) -> None:
        told.append(announcements)
        stop.set()

    with anyio.fail_after(5):
        await app.run(on_ready=ready, stop=stop)
    assert told == [()]


async def test_run_stops_at_once_when_forced() -> None:
    force, begun = anyio.Event(), anyio.Event()
    module = base()

    @module.worker
    async def stubborn(lifespan: Lifespan) -> None:
        lifespan.started()
        begun.set()
        await anyio.sleep_forever()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: app_of(module, settings=quick(drain_s=WITHIN_S)).run(force=force))
            await begun.wait()
            force.set()


# --- resources -------------------------------------------------------------------------------------------------------


@frozen
class Store:
    name: str
    life: list[str] = field(eq=False)


@frozen
class Cache:
    store: Store


@frozen
class Tuning(ModuleSettings):
    size: int = setting(3, "How large.")


def with_resources(life: list[str], fail: str = "") -> Module:
    module = Module(Contract("base", messages=[Act]))

    @module.resource
    @asynccontextmanager
    async def cache(store: Store, tuning: Tuning) -> AsyncGenerator[Cache]:
        life.append(f"cache of {tuning.size} opens")
        if fail == "cache":
            raise ValueError("no cache")
        yield Cache(store)
        life.append("cache closes")

    @module.resource
    @asynccontextmanager
    async def store() -> AsyncGenerator[Store]:
        life.append("store opens")
        yield Store("real", life)
        life.append("store closes")

    @module.command(Act, idempotent=True)
    async def act(command: Act, cache: Cache, tuning: Tuning) -> str:
        life.append("act")
        return f"{cache.store.name} {tuning.size}"

    return module


async def test_a_resource_opens_after_what_it_needs_and_closes_before_it() -> None:
    life: list[str] = []
    async with app_of(with_resources(life)) as app:
        assert await app.bus.execute(Act()) == "real 3"
    assert life == ["store opens", "cache of 3 opens", "act", "cache closes", "store closes"]


async def test_a_failure_at_start_closes_what_was_opened() -> None:
    life: list[str] = []
    module = with_resources(life, fail="cache")
    with pytest.raises(ValueError, match="no cache"):
        async with app_of(module):
            raise AssertionError
    assert life[:2] == ["store opens", "cache of 3 opens"]
    assert len(life) == 2 or life[2:] == ["store closes"]


async def test_a_failure_at_start_closes_the_resources_of_other_modules_too() -> None:
    closed: list[str] = []
    first, second = Module(Contract("first", messages=[])), Module(Contract("second", messages=[]))

    @first.resource
    @asynccontextmanager
    async def store() -> AsyncGenerator[Store]:
        try:
            yield Store("first", [])
        finally:
            closed.append("first")

    @second.resource
    @asynccontextmanager
    async def fails() -> AsyncGenerator[Cache]:
        raise ValueError("no")
        yield Cache(Store("", []))

    with pytest.raises(ValueError, match="no"):
        async with app_of(first, second):
            raise AssertionError
    assert closed == ["first"]


async def test_a_resource_and_settings_can_be_replaced_for_a_test() -> None:
    life: list[str] = []
    overrides = {Store: Store("fake", life), Tuning: Tuning(7)}
    async with app_of(with_resources(life), overrides=overrides) as app:
        assert await app.bus.execute(Act()) == "fake 7"
    assert "store opens" not in life


async def test_a_resource_is_opened_once_for_all_handlers_of_its_module() -> None:
    life: list[str] = []
    async with app_of(with_resources(life)) as app:
        await app.bus.execute(Act())
        await app.bus.execute(Act())
    assert life.count("store opens") == 1


async def test_each_module_has_resources_of_its_own() -> None:
    module_names = ("first", "second")
    opened: list[Store] = []
    modules = [Module(Contract(name, messages=[])) for name in module_names]

    for module in modules:

        @module.resource
        @asynccontextmanager
        async def store() -> AsyncGenerator[Store]:
            opened.append(Store("one of two", []))
            yield opened[-1]

    async with app_of(*modules):
        assert len(opened) == 2


async def test_a_task_group_of_a_resource_lives_as_long_as_the_resource() -> None:
    beats = 0
    module = base()

    @module.resource
    @asynccontextmanager
    async def heart() -> AsyncGenerator[Cache]:
        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await anyio.sleep(0.001)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(beat)
            yield Cache(Store("", []))
            tasks.cancel_scope.cancel()

    async with app_of(module):
        await until(lambda: beats > 3)
    ended = beats
    await settle()
    assert beats == ended


# --- middleware and sync handlers ------------------------------------------------------------------------------------


async def test_middleware_runs_around_every_message_in_order_that_of_the_application_outside() -> None:
    order: list[str] = []

    def layer(name: str) -> Any:
        async def around(handling: Handling, call_next: Callable[[], Any]) -> Any:
            order.append(f"{name} in {handling.kind}")
            try:
                return await call_next()
            finally:
                order.append(f"{name} out")

        return around

    module = Module(
        Contract("base", messages=[Act, Happened], topics=[happened]), middleware=(layer("m1"), layer("m2"))
    )

    @module.command(Act, idempotent=True)
    async def act(command: Act) -> str:
        order.append("handler")
        return "done"

    @module.subscribe(happened)
    async def on_happened(event: Happened) -> None:
        order.append("subscriber")

    async with app_of(module, middleware=[layer("a1"), layer("a2")]) as app:
        assert await app.bus.execute(Act()) == "done"
        around = [f"{name} in command" for name in ("a1", "a2", "m1", "m2")]
        outs = [f"{name} out" for name in ("m2", "m1", "a2", "a1")]
        assert order == [*around, "handler", *outs]
        order.clear()
        await app.bus.publish(Happened())
        await until(lambda: order and order[-1] == "a1 out")
    assert order == [each.replace("command", "event") for each in around] + ["subscriber", *outs]


async def test_a_middleware_may_replace_the_reply_and_turn_an_error_into_another() -> None:
    async def replace(handling: Handling, call_next: Callable[[], Any]) -> Any:
        try:
            return f"<{await call_next()}>"
        except ValueError as error:
            raise KeyError(str(error)) from error

    def fail() -> str:
        raise ValueError("v")

    async with app_of(base(), middleware=[replace]) as app:
        assert await app.bus.execute(Act()) == "<done>"
    async with app_of(base(fail), middleware=[replace]) as app:
        with pytest.raises(HandlerFailed, match="KeyError"):
            await app.bus.execute(Act())


async def test_a_sync_handler_runs_in_a_thread_and_does_not_block_the_event_loop() -> None:
    door, inside = threading.Event(), threading.Event()
    module = Module(Contract("base", messages=[Act, Look]))

    @module.command(Act, idempotent=True)
    def act(command: Act, caller: Caller) -> str:
        inside.set()
        door.wait(10)
        return f"{threading.current_thread() is threading.main_thread()} {bool(caller.message_id)}"

    @module.query(Look)
    async def look(query: Look) -> str:
        return "meanwhile"

    async with app_of(module) as app, anyio.create_task_group() as tasks:
        replies: list[str] = []

        async def call() -> None:
            replies.append(await app.bus.execute(Act()))

        tasks.start_soon(call)
        await until(inside.is_set)
        assert await app.bus.ask(Look()) == "meanwhile"
        door.set()
    assert replies == ["False True"]


async def test_sync_handlers_have_a_limit_of_threads_of_their_own() -> None:
    door = threading.Event()
    lock = threading.Lock()
    running = peak = 0
    module = Module(Contract("base", messages=[Act]))

    @module.command(Act, idempotent=True)
    def act(command: Act) -> str:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        door.wait(10)
        with lock:
            running -= 1
        return ""

    async with app_of(module, settings=quick(threads=2)) as app, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(app.bus.execute, Act())
        await until(lambda: running == 2)
        await settle()
        door.set()
    assert peak == 2


# --- supervision -----------------------------------------------------------------------------------------------------


async def test_a_worker_that_fails_is_reported_and_started_again_and_readiness_says_so() -> None:
    clock, starts = ManualClock(), 0
    fail = anyio.Event()
    module = base()

    @module.worker
    async def pump(lifespan: Lifespan) -> None:
        nonlocal starts
        starts += 1
        lifespan.started()
        if starts == 1:
            await fail.wait()
            raise ValueError("burst")
        await lifespan.draining()

    async with app_of(module, clock=clock) as app:
        assert problems(app) == {}
        fail.set()
        await clock.wait_sleeping(at_most_s=WITHIN_S)
        assert problems(app) == {"worker base.pump": "ValueError: burst"}
        clock.advance(WITHIN_S)
        await until(lambda: starts == 2)
        await until(lambda: problems(app) == {}, "readiness says that it is well again")


async def test_a_worker_without_a_lifespan_is_well_again_when_it_runs_again() -> None:
    clock, starts = ManualClock(), 0
    fail = anyio.Event()
    module = base()

    @module.worker
    async def pump() -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            await fail.wait()
            raise ValueError("burst")
        await anyio.sleep_forever()

    async with app_of(module, clock=clock, settings=quick(drain_s=0.05)) as app:
        fail.set()
        await clock.wait_sleeping(at_most_s=WITHIN_S)
        assert problems(app) == {"worker base.pump": "ValueError: burst"}
        clock.advance(WITHIN_S)
        await until(lambda: problems(app) == {}, "readiness says that it is well again")


async def test_a_worker_that_fails_again_and_again_is_started_with_growing_pauses() -> None:
    clock = ManualClock()
    module = base()
    run = False

    @module.worker
    async def pump() -> None:
        while not run:
            await anyio.sleep(0.001)
        raise ValueError("burst")

    async with app_of(module, clock=clock, settings=quick(drain_s=0.05)):
        run = True
        pauses: list[float] = []
        for _ in range(5):
            pauses.append(await clock.wait_sleeping(at_most_s=WITHIN_S))
            clock.advance(pauses[-1])
    assert pauses[-1] > 4 * pauses[0]


async def test_what_cannot_be_reached_is_tried_again_soon_however_long_it_was_away_and_told_seldom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    module = base()
    is_away = False

    @module.worker
    async def pump() -> None:
        while not is_away:
            await anyio.sleep(0.001)
        raise Unavailable("The broker is away.")

    async with app_of(module, clock=clock, settings=quick(drain_s=0.05)) as app:
        is_away = True
        pauses: list[float] = []
        while sum(pauses) < 3600.0:
            pauses.append(await clock.wait_sleeping(at_most_s=WITHIN_S))
            clock.advance(pauses[-1])
        assert problems(app) == {"worker base.pump": "Unavailable: The broker is away."}
    assert max(pauses) < 3.0
    told = [record for record in caplog.records if record.name == "fissile.supervisor"]
    assert 0 < len(told) <= 3600 / 30 + 1
    assert not any(record.exc_info for record in told)


async def test_a_worker_that_cannot_start_ends_the_start() -> None:
    module = base()

    @module.worker
    async def pump(lifespan: Lifespan) -> None:
        raise ValueError("the port is taken")

    with pytest.raises(ValueError, match="the port is taken"):
        async with app_of(module):
            raise AssertionError


async def test_a_process_is_ready_when_all_of_its_workers_are() -> None:
    door, stop = anyio.Event(), anyio.Event()
    ready: list[tuple[str, ...]] = []
    module = base()

    @module.worker
    async def pump(lifespan: Lifespan) -> None:
        await door.wait()
        lifespan.started("http://localhost")
        await lifespan.draining()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: app_of(module).run(on_ready=ready.append, stop=stop))
        await settle()
        assert ready == []
        door.set()
        await until(lambda: ready == [("http://localhost",)])
        stop.set()


async def test_a_consumer_whose_log_fails_is_started_again_and_nothing_is_lost() -> None:
    from fissile.transports.memory import MemoryTransport

    clock, log, seen = ManualClock(), log_of(), []
    broken = True

    class Fragile(MemoryTransport):
        @asynccontextmanager
        async def join(self, *args: Any, **more: Any) -> AsyncGenerator[Any]:
            async with super().join(*args, **more) as member:
                receive = member.receive

                async def failing() -> Any:
                    news = await receive()
                    if broken and isinstance(news, list):
                        raise Unavailable("the log is gone")
                    return news

                member.receive = failing  # type: ignore[method-assign]
                yield member

    module = base()

    @module.subscribe(happened)
    async def on_happened(event: Happened) -> None:
        seen.append(event)

    async with app_of(module, clock=clock, transport=Fragile(log)) as app:
        await app.bus.publish(Happened())
        await clock.wait_sleeping(at_most_s=WITHIN_S)
        assert problems(app) == {"consumer base": "Unavailable: the log is gone"}
        assert seen == []
        broken = False
        clock.advance(WITHIN_S)
        await until(lambda: len(seen) == 1)
        assert problems(app) == {}


async def test_a_drain_tells_the_workers_and_waits_for_them() -> None:
    life: list[str] = []
    module = base()

    @module.worker
    async def pump(lifespan: Lifespan, bus: Bus) -> None:
        lifespan.started()
        await lifespan.draining()
        life.append(await bus.execute(Act()))
        life.append("pump ends")

    async with app_of(module):
        life.append("block ends")
    assert life == ["block ends", "done", "pump ends"]


async def test_a_drain_gives_up_a_worker_that_does_not_end() -> None:
    module = base()

    @module.worker
    async def stubborn(lifespan: Lifespan) -> None:
        lifespan.started()
        await anyio.sleep_forever()

    with anyio.fail_after(5):
        async with app_of(module, settings=quick(drain_s=0.05)):
            pass


async def test_a_worker_is_told_of_its_process() -> None:
    told: list[Process] = []
    module = base()

    @module.worker
    async def pump(process: Process) -> None:
        told.append(process)

    async with app_of(module, name="shop", process="core", is_dev=True):
        await until(lambda: told)
    assert (told[0].application, told[0].name, told[0].modules, told[0].is_dev) == ("shop", "core", ("base",), True)


async def test_readiness_does_not_depend_on_another_process() -> None:
    async with App([base()], contracts=[Contract("far", messages=[Look])]) as app:
        assert problems(app) == {}


# --- clock, ids and randomness ---------------------------------------------------------------------------------------


async def test_ids_and_times_are_those_of_the_environment() -> None:
    clock = ManualClock(datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC))
    module, log = base(), log_of(clock)
    environment = Environment(clock=clock, ids=Ids("mine"), random=Random(7))
    async with (
        app_of(module, environment=environment, transport=client_of(log)) as app,
        client_of(log).read([("base.happened", n) for n in range(4)], "latest") as reader,
    ):
        await app.bus.publish(Happened())
        (record,) = await reader.receive()
    headers = dict(record.headers)
    assert headers["ce_id"].startswith(b"mine-")
    assert headers["ce_time"] == b"2030-01-02T03:04:05.000Z"
    assert record.timestamp_ms == int(clock.now().timestamp() * 1000)


async def test_a_module_gets_clock_ids_and_randomness_as_parameters() -> None:
    clock, random, ids = ManualClock(), Random(7), Ids("mine")
    got: list[Any] = []
    module = Module(Contract("base", messages=[Act]))

    @module.command(Act, idempotent=True)
    async def act(command: Act, clock: Clock, ids: Ids, random: Random) -> str:
        got.extend((clock, ids, random))
        return ""

    async with app_of(module, environment=Environment(clock=clock, ids=ids, random=random)) as app:
        await app.bus.execute(Act())
    assert got == [clock, ids, random]


async def test_with_the_same_environment_the_same_happens() -> None:
    async def story() -> list[float]:
        from fissile import Retry

        clock = ManualClock()
        module = base()

        @module.subscribe(happened, retry=Retry(attempts=4))
        async def on_happened(event: Happened) -> None:
            raise ValueError

        async with app_of(module, clock=clock) as app:
            await app.bus.publish(Happened())
            pauses: list[float] = []
            for _ in range(3):
                pauses.append(await clock.wait_sleeping(at_most_s=WITHIN_S))
                clock.advance(pauses[-1])
            await until(lambda: app.statistics()["base"].consumer.dead == 1)  # type: ignore[union-attr]
        return pauses

    first, second = await story(), await story()
    assert first == second
    assert len(set(first)) == 3


def test_ids_of_two_processes_differ() -> None:
    one, two = Ids(), Ids()
    assert len({one.new(), one.new(), two.new(), two.new()}) == 4


# --- the clock of tests ----------------------------------------------------------------------------------------------


async def test_a_manual_clock_stands_still_until_it_is_moved() -> None:
    clock, woken = ManualClock(), []

    async def sleeper(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async with anyio.create_task_group() as tasks:
        for seconds in (3.0, 1.0, 2.0):
            tasks.start_soon(sleeper, seconds)
        assert await clock.wait_sleeping(at_most_s=5, count=3) == 1.0
        clock.advance(2.5)
        await until(lambda: sorted(woken) == [1.0, 2.0])
        assert clock.sleeping == (0.5,)
        clock.advance(0.5)
    assert sorted(woken) == [1.0, 2.0, 3.0]
    assert clock.monotonic() == 3.0
    assert sorted(clock.pauses) == [1.0, 2.0, 3.0]
    assert repr(clock) == "<ManualClock 2026-01-01T00:00:03+00:00: 0 sleep>"


async def test_a_cancelled_sleeper_of_a_manual_clock_is_forgotten() -> None:
    clock = ManualClock()
    with anyio.move_on_after(0.01):
        await clock.sleep(NEVER_S)
    assert clock.sleeping == ()
