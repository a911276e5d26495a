"""Rule 4: deadline and cancellation belong to the caller's scope, and cross."""

import contextlib
import logging
import math
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from attrs import frozen

from fissile import App, Bus, Caller, Command, Contract, DeadlineExceeded, HandlerFailed, Module, Query
from tests.runtime.helpers import app_of, quick, settle, until

LONG_S = 1000.0


@frozen
class Work(Command[str]):
    pass


@frozen
class Relay(Command[str]):
    pass


@frozen
class Remaining(Query[float]):
    pass


@frozen
class RelayRemaining(Query[float]):
    pass


worker_contract = Contract("worker", messages=[Work, Remaining])
relay_contract = Contract("relay", messages=[Relay, RelayRemaining])
Working = Callable[[], Coroutine[Any, Any, str]]


def worker(work_: Working) -> Module:
    module = Module(worker_contract)

    @module.command(Work, idempotent=True)
    async def work(command: Work) -> str:
        return await work_()

    @module.query(Remaining)
    async def remaining(query: Remaining, caller: Caller) -> float:
        return caller.deadline

    return module


def relay() -> Module:
    module = Module(relay_contract)

    @module.command(Relay, idempotent=True)
    async def relay(command: Relay, bus: Bus) -> str:
        return await bus.execute(Work())

    @module.query(RelayRemaining)
    async def relay_remaining(query: RelayRemaining, caller: Caller) -> float:
        return caller.deadline

    return module


class Watched:
    """A handler that waits for ever and tells what became of it."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.cancelled = False

    async def __call__(self) -> str:
        self.begun.set()
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            self.cancelled = True
            raise
        raise AssertionError


async def test_the_handler_is_cancelled_when_the_scope_of_the_caller_is() -> None:
    watched = Watched()
    async with app_of(worker(watched)) as app, anyio.create_task_group() as tasks:
        tasks.start_soon(app.bus.execute, Work())
        await watched.begun.wait()
        tasks.cancel_scope.cancel()
    assert watched.cancelled


async def test_the_handler_is_cancelled_when_the_scope_of_the_caller_expires() -> None:
    watched = Watched()
    async with app_of(worker(watched)) as app:
        with anyio.move_on_after(0.02) as scope:
            await app.bus.execute(Work())
    assert scope.cancelled_caught
    assert watched.cancelled


async def test_a_scope_of_the_caller_raises_its_own_timeout() -> None:
    async with app_of(worker(Watched())) as app:
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.02):
                await app.bus.execute(Work())


async def test_cancellation_goes_down_the_chain() -> None:
    watched = Watched()
    async with app_of(relay(), worker(watched)) as app, anyio.create_task_group() as tasks:
        tasks.start_soon(app.bus.execute, Relay())
        await watched.begun.wait()
        tasks.cancel_scope.cancel()
    assert watched.cancelled


async def test_without_a_scope_the_deadline_of_the_settings_holds() -> None:
    watched = Watched()
    async with app_of(worker(watched), settings=quick(call_timeout_s=0.02)) as app:
        with pytest.raises(
            DeadlineExceeded, match=r"worker\.work did not answer within 0\.02 s.*may have happened"
        ) as it:
            await app.bus.execute(Work())
    assert it.value.happened is None
    assert watched.cancelled


async def test_the_default_deadline_covers_the_whole_chain() -> None:
    watched = Watched()
    async with app_of(relay(), worker(watched), settings=quick(call_timeout_s=0.02)) as app:
        with pytest.raises(DeadlineExceeded, match=r"relay\.relay did not answer"):
            await app.bus.execute(Relay())
    assert watched.cancelled


async def test_the_default_deadline_does_not_shorten_the_scope_of_a_caller_that_waits_longer() -> None:
    gate = anyio.Event()

    async def wait() -> str:
        await gate.wait()
        return "done"

    async with app_of(worker(wait), settings=quick(call_timeout_s=0.01)) as app:
        replies: list[str] = []

        async def call() -> None:
            with anyio.fail_after(LONG_S):
                replies.append(await app.bus.execute(Work()))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            with anyio.move_on_after(0.05):
                await anyio.sleep_forever()
            gate.set()
    assert replies == ["done"]


async def test_the_deadline_of_the_scope_travels_down_the_chain() -> None:
    async with app_of(relay(), worker(Watched())) as app:
        with anyio.fail_after(LONG_S) as scope:
            assert await app.bus.ask(Remaining()) == scope.deadline


async def test_the_default_deadline_travels_with_the_request() -> None:
    async with app_of(worker(Watched()), settings=quick(call_timeout_s=LONG_S)) as app:
        before = anyio.current_time()
        deadline = await app.bus.ask(Remaining())
        assert before + LONG_S <= deadline <= anyio.current_time() + LONG_S
        assert deadline != math.inf


async def test_a_handler_may_shield_what_must_not_be_torn() -> None:
    gate, begun = anyio.Event(), anyio.Event()
    done: list[str] = []

    async def careful() -> str:
        begun.set()
        with anyio.CancelScope(shield=True):
            await gate.wait()
            done.append("the effect")
        await anyio.lowlevel.checkpoint()
        done.append("too far")
        return ""

    async with app_of(worker(careful)) as app, anyio.create_task_group() as tasks:
        tasks.start_soon(app.bus.execute, Work())
        await begun.wait()
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await settle()
            assert done == []
            gate.set()
    assert done == ["the effect"]


async def test_a_cancelled_caller_waits_for_the_clean_up_of_the_handler() -> None:
    cleaned: list[str] = []
    begun = anyio.Event()

    async def tidy() -> str:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                cleaned.append("yes")
        raise AssertionError

    async with app_of(worker(tidy)) as app:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(app.bus.execute, Work())
            await begun.wait()
            tasks.cancel_scope.cancel()
        assert cleaned == ["yes"]


async def test_a_cancellation_is_repeated_at_every_checkpoint_of_the_handler() -> None:
    caught = 0
    begun = anyio.Event()

    async def stubborn() -> str:
        nonlocal caught
        begun.set()
        for _ in range(3):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                caught += 1
        await anyio.lowlevel.checkpoint()
        raise AssertionError

    async with app_of(worker(stubborn)) as app, anyio.create_task_group() as tasks:
        tasks.start_soon(app.bus.execute, Work())
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert caught == 3


async def test_an_error_raised_while_the_caller_is_cancelled_is_logged_and_the_cancellation_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun = anyio.Event()

    async def breaks() -> str:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("while going down")

    outcomes: list[str] = []
    async with app_of(worker(breaks)) as app:

        async def call() -> None:
            try:
                await app.bus.execute(Work())
            except anyio.get_cancelled_exc_class():
                outcomes.append("cancelled")
                raise
            except BaseException as error:
                outcomes.append(repr(error))
                raise

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await begun.wait()
            tasks.cancel_scope.cancel()
    assert outcomes == ["cancelled"]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "worker.work raised while its caller was being cancelled; the cancellation goes on"
    ]


async def test_a_timeout_of_the_handlers_own_is_no_cancellation_of_the_caller() -> None:
    async def gives_up() -> str:
        with anyio.move_on_after(0.01):
            await anyio.sleep_forever()
        return "went on"

    async with app_of(worker(gives_up)) as app:
        assert await app.bus.execute(Work()) == "went on"


async def test_a_timeout_error_of_the_handlers_own_is_a_failure() -> None:
    async def times_out() -> str:
        with anyio.fail_after(0.01):
            await anyio.sleep_forever()
        raise AssertionError

    async with app_of(worker(times_out)) as app:
        with pytest.raises(HandlerFailed, match="TimeoutError"):
            await app.bus.execute(Work())


async def test_a_cancelled_scope_inside_of_the_handler_stays_there() -> None:
    async def cancels_itself() -> str:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.sleep_forever()
        return "went on"

    async with app_of(worker(cancels_itself)) as app:
        assert await app.bus.execute(Work()) == "went on"


async def test_a_call_is_a_cancellation_point_and_does_not_begin_in_a_cancelled_scope() -> None:
    ran: list[str] = []

    async def work() -> str:
        ran.append("it ran")
        return ""

    async with app_of(worker(work)) as app:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await app.bus.execute(Work())
            ran.append("the call returned")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await app.bus.ask(Remaining())
            ran.append("the call returned")
    assert ran == []


async def test_calls_in_a_row_let_other_tasks_run() -> None:
    async def work() -> str:
        return ""

    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with app_of(worker(work)) as app, anyio.create_task_group() as tasks:
        tasks.start_soon(other)
        for _ in range(2000):
            await app.bus.execute(Work())
        tasks.cancel_scope.cancel()
    assert turns >= 5


async def test_a_row_of_calls_that_never_wait_ends_with_its_deadline() -> None:
    async def work() -> str:
        return ""

    async with app_of(worker(work)) as app:
        with anyio.move_on_after(0.05) as scope:
            while True:
                await app.bus.execute(Work())
    assert scope.cancelled_caught


async def test_after_a_cancelled_call_the_next_one_works() -> None:
    calls = 0

    async def first_hangs() -> str:
        nonlocal calls
        calls += 1
        if calls == 1:
            await anyio.sleep_forever()
        return "second"

    async with app_of(worker(first_hangs), settings=quick(calls_in_flight=1, commands_running=1)) as app:
        with anyio.move_on_after(0.01):
            await app.bus.execute(Work())
        assert await app.bus.execute(Work()) == "second"


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
async def test_a_native_cancellation_of_the_callers_task_reaches_the_handler() -> None:
    import asyncio

    watched = Watched()
    async with app_of(worker(watched)) as app:
        task = asyncio.create_task(app.bus.execute(Work()))
        await watched.begun.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()
    assert watched.cancelled


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
async def test_asyncios_own_timeout_works_around_and_inside_of_a_handler() -> None:
    import asyncio

    async def times_out() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(LONG_S)
        except TimeoutError:
            return "inside"
        raise AssertionError

    async with app_of(worker(times_out)) as app:
        assert await app.bus.execute(Work()) == "inside"
    async with app_of(worker(Watched())) as app:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await app.bus.execute(Work())


async def test_a_call_that_is_closed_closes_its_handler() -> None:
    closed: list[str] = []

    async def closes() -> str:
        try:
            await anyio.lowlevel.cancel_shielded_checkpoint()
        except GeneratorExit:
            closed.append("yes")
            raise
        raise AssertionError

    app = App([worker(closes)])
    async with app:
        with anyio.fail_after(LONG_S):
            call = app.bus.execute(Work())
            call.send(None)
            call.close()
            await anyio.lowlevel.checkpoint()
    assert closed == ["yes"]


async def test_a_subscriber_without_a_waiting_caller_has_no_deadline() -> None:
    deadlines: list[float] = []
    sent = Module(relay_contract)

    @sent.command(Relay, idempotent=True)
    async def relay(command: Relay, caller: Caller) -> str:
        deadlines.append(caller.deadline)
        return ""

    @sent.query(RelayRemaining)
    async def relay_remaining(query: RelayRemaining) -> float:
        return 0.0

    async with app_of(sent) as app:
        with anyio.fail_after(LONG_S):
            await app.bus.send(Relay())
        await until(lambda: deadlines)
    assert deadlines == [math.inf]


async def test_a_call_of_a_subscriber_has_the_default_deadline() -> None:
    failures: list[BaseException] = []
    sent = Module(relay_contract)

    @sent.command(Relay, idempotent=True)
    async def relay(command: Relay, bus: Bus) -> str:
        try:
            return await bus.execute(Work())
        except DeadlineExceeded as error:
            failures.append(error)
            return ""

    @sent.query(RelayRemaining)
    async def relay_remaining(query: RelayRemaining) -> float:
        return 0.0

    async with app_of(sent, worker(Watched()), settings=quick(call_timeout_s=0.02)) as app:
        await app.bus.send(Relay())
        await until(lambda: failures)


async def test_a_handlers_bus_that_outlives_it_calls_nobody() -> None:
    from fissile import CallRefused

    kept: list[Bus] = []
    module = Module(relay_contract)

    @module.command(Relay, idempotent=True)
    async def relay(command: Relay, bus: Bus) -> str:
        kept.append(bus)
        return ""

    @module.query(RelayRemaining)
    async def relay_remaining(query: RelayRemaining) -> float:
        return 0.0

    async with app_of(module, worker(Watched())) as app:
        with anyio.fail_after(LONG_S):
            await app.bus.execute(Relay())
        with pytest.raises(CallRefused, match="has ended"):
            await kept[0].execute(Work())
        with pytest.raises(CallRefused, match="has ended"):
            await kept[0].ask(Remaining())
        with pytest.raises(CallRefused, match="has ended"):
            await kept[0].send(Work())
