"""Rules 7, 8 and 9: bounds of calls and handlers, the order of commands with a key, no calls inside of a transaction."""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import pytest
from attrs import frozen

from fissile import (
    Bus,
    CallRefused,
    Command,
    Contract,
    Event,
    HandlerFailed,
    Module,
    Overloaded,
    Queries,
    Query,
    Topic,
    forbid_calls,
)
from fissile.testing import ManualClock
from tests.runtime.helpers import app_of, quick, settle, until


@frozen
class Work(Command[str]):
    name: str = ""


@frozen
class Look(Query[str]):
    name: str = ""


@frozen
class InTurn(Command[str], key="shelf"):
    shelf: str
    name: str = ""


@frozen
class ByFunction(Command[str], key=lambda command: command.shelf.upper()):
    shelf: str
    name: str = ""


@frozen
class Nested(Command[str], key="shelf"):
    shelf: str
    depth: int


@frozen
class Happened(Event):
    pass


@frozen
class Relay(Command[str]):
    name: str = ""


@frozen
class RelayLook(Query[str]):
    pass


happened = Topic("hall.happened", Happened, key=lambda event: "")
contract = Contract("hall", messages=[Work, Look, InTurn, ByFunction, Nested, Happened], topics=[happened])
relay_contract = Contract("relay", messages=[Relay, RelayLook])


class Hall:
    """Handlers that wait until they are let go, and who is inside."""

    def __init__(self) -> None:
        self.inside: list[str] = []
        self.began: list[str] = []
        self.ended: list[str] = []
        self.peak = 0
        self._doors: dict[str, anyio.Event] = {}

    def let_go(self, name: str) -> None:
        self._doors.setdefault(name, anyio.Event()).set()

    async def stay(self, name: str) -> str:
        self.inside.append(name)
        self.began.append(name)
        self.peak = max(self.peak, len(self.inside))
        try:
            await self._doors.setdefault(name, anyio.Event()).wait()
        finally:
            self.inside.remove(name)
        self.ended.append(name)
        return name

    def module(self) -> Module:
        module = Module(contract)

        @module.command(Work, idempotent=True)
        async def work(command: Work, bus: Bus) -> str:
            if command.name.startswith("ask "):
                return await bus.ask(Look(command.name[4:]))
            if command.name.startswith("nested "):
                return await bus.execute(Work(command.name[7:]))
            return await self.stay(command.name)

        @module.query(Look)
        async def look(query: Look) -> str:
            return await self.stay(query.name)

        @module.command(InTurn, idempotent=True)
        async def in_turn(command: InTurn) -> str:
            return await self.stay(command.name)

        @module.command(ByFunction, idempotent=True)
        async def by_function(command: ByFunction) -> str:
            return await self.stay(command.name)

        @module.command(Nested, idempotent=True)
        async def nested(command: Nested, bus: Bus) -> str:
            if command.depth:
                return await bus.execute(Nested(command.shelf, command.depth - 1))
            return "the bottom"

        @module.subscribe(happened)
        async def on_happened(event: Happened) -> None:
            await self.stay("the event")

        return module


def relay_module() -> Module:
    module = Module(relay_contract)

    @module.command(Relay, idempotent=True)
    async def relay(command: Relay, bus: Bus) -> str:
        return await bus.execute(Work(command.name))

    @module.query(RelayLook)
    async def relay_look(query: RelayLook, bus: Queries) -> str:
        return await bus.ask(Look("relayed"))

    return module


Start = Callable[[Coroutine[Any, Any, Any]], Awaitable[None]]


@asynccontextmanager
async def in_background() -> AsyncIterator[Start]:
    """Start calls one after the other; each is where it has to wait before the next one begins."""
    async with anyio.create_task_group() as tasks:

        async def run(call: Coroutine[Any, Any, Any]) -> None:
            await call

        async def start(call: Coroutine[Any, Any, Any]) -> None:
            tasks.start_soon(run, call)
            await settle()

        yield start
        tasks.cancel_scope.cancel()


# --- how many calls a caller may have in flight ----------------------------------------------------------------------


async def test_a_caller_with_too_many_calls_in_flight_is_refused_at_once() -> None:
    hall = Hall()
    async with app_of(hall.module(), settings=quick(calls_in_flight=2)) as app, in_background() as start:
        await start(app.bus.execute(Work("a")))
        await start(app.bus.ask(Look("b")))
        await until(lambda: len(hall.inside) == 2)
        with pytest.raises(Overloaded, match=r"hall\.work was not called.*FISSILE_CALLS_IN_FLIGHT") as raised:
            await app.bus.execute(Work("c"))
        assert raised.value.happened is False
        assert hall.began == ["a", "b"]
        hall.let_go("a")
        await until(lambda: hall.ended == ["a"])
        hall.let_go("d")
        assert await app.bus.execute(Work("d")) == "d"


async def test_calls_that_wait_for_a_slot_are_in_flight_too() -> None:
    hall = Hall()
    settings = quick(calls_in_flight=2, commands_running=1)
    async with app_of(hall.module(), settings=settings) as app, in_background() as start:
        await start(app.bus.execute(Work("a")))
        await start(app.bus.execute(Work("b")))
        await settle()
        with pytest.raises(Overloaded):
            await app.bus.execute(Work("c"))


async def test_calls_that_wait_for_the_turn_of_their_key_are_in_flight_too() -> None:
    hall = Hall()
    async with app_of(hall.module(), settings=quick(calls_in_flight=2)) as app, in_background() as start:
        await start(app.bus.execute(InTurn("x", "a")))
        await start(app.bus.execute(InTurn("x", "b")))
        await settle()
        with anyio.fail_after(1), pytest.raises(Overloaded):
            await app.bus.execute(InTurn("x", "c"))
        for name in "ab":
            hall.let_go(name)
        await until(lambda: hall.ended == ["a", "b"])
        hall.let_go("d")
        assert await app.bus.execute(InTurn("x", "d")) == "d"


async def test_each_caller_has_a_bound_of_its_own() -> None:
    hall = Hall()
    settings = quick(calls_in_flight=1)
    async with app_of(hall.module(), relay_module(), settings=settings) as app, in_background() as start:
        await start(app.bus.execute(Work("outside")))
        await start(app.bus.execute(Relay("relayed")))
        await until(lambda: sorted(hall.inside) == ["outside", "relayed"])


async def test_a_call_that_failed_is_in_flight_no_more() -> None:
    module = Module(relay_contract)

    @module.command(Relay, idempotent=True)
    async def relay(command: Relay) -> str:
        raise ValueError

    @module.query(RelayLook)
    async def relay_look(query: RelayLook) -> str:
        return "looked"

    async with app_of(module, settings=quick(calls_in_flight=1, commands_running=1)) as app:
        for _ in range(3):
            with pytest.raises(HandlerFailed):
                await app.bus.execute(Relay())
        assert await app.bus.ask(RelayLook()) == "looked"


# --- how many handlers run -------------------------------------------------------------------------------------------


async def test_a_module_runs_no_more_commands_at_a_time_than_its_bound() -> None:
    hall = Hall()
    async with app_of(hall.module(), settings=quick(commands_running=2)) as app, in_background() as start:
        for name in "abc":
            await start(app.bus.execute(Work(name)))
            await settle()
        assert hall.began == ["a", "b"]
        hall.let_go("b")
        await until(lambda: hall.began == ["a", "b", "c"])
        assert hall.peak == 2


async def test_subscribers_share_the_bound_of_commands() -> None:
    hall = Hall()
    async with app_of(hall.module(), settings=quick(commands_running=1)) as app, in_background() as start:
        await start(app.bus.execute(Work("a")))
        await until(lambda: hall.inside == ["a"])
        await app.bus.publish(Happened())
        await settle()
        assert hall.inside == ["a"]
        hall.let_go("a")
        await until(lambda: hall.inside == ["the event"])
        hall.let_go("the event")


async def test_queries_have_a_bound_of_their_own() -> None:
    hall = Hall()
    settings = quick(commands_running=1, queries_running=1)
    async with app_of(hall.module(), settings=settings) as app, in_background() as start:
        await start(app.bus.execute(Work("command")))
        await start(app.bus.ask(Look("query")))
        await until(lambda: sorted(hall.inside) == ["command", "query"])
        await start(app.bus.ask(Look("another query")))
        await settle()
        assert sorted(hall.inside) == ["command", "query"]
        hall.let_go("query")
        await until(lambda: "another query" in hall.inside)


async def test_a_chain_does_not_wait_for_a_slot_that_its_ancestor_holds() -> None:
    hall = Hall()
    hall.let_go("bottom")
    async with app_of(hall.module(), settings=quick(commands_running=1)) as app:
        assert await app.bus.execute(Work("nested nested bottom")) == "bottom"


async def test_a_chain_through_another_module_does_not_wait_for_a_slot_that_its_ancestor_holds() -> None:
    calls: list[str] = []
    near, far = Module(Contract("near", messages=[Relay])), Module(Contract("far", messages=[Work]))

    @near.command(Relay, idempotent=True)
    async def relay(command: Relay, bus: Bus) -> str:
        calls.append(command.name)
        return await bus.execute(Work()) if command.name == "there" else "and back"

    @far.command(Work, idempotent=True)
    async def work(command: Work, bus: Bus) -> str:
        return await bus.execute(Relay("back"))

    async with app_of(near, far, settings=quick(commands_running=1)) as app:
        assert await app.bus.execute(Relay("there")) == "and back"
    assert calls == ["there", "back"]


async def test_who_is_cancelled_in_the_line_takes_no_slot_with_him() -> None:
    hall = Hall()
    async with app_of(hall.module(), settings=quick(commands_running=1)) as app, in_background() as start:
        await start(app.bus.execute(Work("a")))
        await until(lambda: hall.inside == ["a"])
        with anyio.move_on_after(0.01):
            await app.bus.execute(Work("b"))
        hall.let_go("a")
        hall.let_go("c")
        assert await app.bus.execute(Work("c")) == "c"
        assert hall.began == ["a", "c"]


async def test_a_chain_that_is_too_deep_is_refused() -> None:
    module = Module(Contract("hole", messages=[Nested]))
    depths: list[int] = []

    @module.command(Nested, idempotent=True)
    async def nested(command: Nested, bus: Bus) -> str:
        depths.append(command.depth)
        return await bus.execute(Nested(command.shelf, command.depth + 1))

    async with app_of(module, settings=quick(chain_depth=5)) as app:
        with pytest.raises(HandlerFailed, match=r"hole\.nested"):
            await app.bus.execute(Nested("x", 1))
    assert depths == [1, 2, 3, 4, 5]


async def test_a_refusal_because_of_the_depth_says_so() -> None:
    module = Module(Contract("hole", messages=[Work]))

    @module.command(Work, idempotent=True)
    async def work(command: Work, bus: Bus) -> str:
        try:
            return await bus.execute(Work())
        except CallRefused as error:
            return str(error)
        except HandlerFailed:
            raise AssertionError from None

    async with app_of(module, settings=quick(chain_depth=1)) as app:
        text = await app.bus.execute(Work())
    assert "already 1 calls deep (setting FISSILE_CHAIN_DEPTH)" in text
    assert "in a circle?" in text


# --- the order of commands -------------------------------------------------------------------------------------------


async def test_commands_without_a_key_run_side_by_side() -> None:
    hall = Hall()
    async with app_of(hall.module()) as app, in_background() as start:
        for name in "abc":
            await start(app.bus.execute(Work(name)))
        await until(lambda: len(hall.inside) == 3)


@pytest.mark.parametrize("command", [InTurn, ByFunction])
async def test_commands_of_one_key_run_one_after_the_other_in_the_order_of_their_arrival(command: type[InTurn]) -> None:
    hall = Hall()
    async with app_of(hall.module()) as app, in_background() as start:
        for name in "abc":
            await start(app.bus.execute(command("x", name)))
            await settle()
        assert hall.began == ["a"]
        for name in "abc":
            hall.let_go(name)
        await until(lambda: hall.ended == ["a", "b", "c"])
    assert hall.began == ["a", "b", "c"]
    assert hall.peak == 1


async def test_commands_of_different_keys_run_side_by_side() -> None:
    hall = Hall()
    async with app_of(hall.module()) as app, in_background() as start:
        await start(app.bus.execute(InTurn("x", "a")))
        await start(app.bus.execute(InTurn("y", "b")))
        await until(lambda: sorted(hall.inside) == ["a", "b"])


async def test_a_key_that_a_function_makes_counts_not_the_field() -> None:
    hall = Hall()
    async with app_of(hall.module()) as app, in_background() as start:
        await start(app.bus.execute(ByFunction("x", "a")))
        await until(lambda: hall.inside == ["a"])
        await start(app.bus.execute(ByFunction("X", "b")))
        await settle()
        assert hall.inside == ["a"]


async def test_a_sent_command_waits_for_a_called_one_of_its_key() -> None:
    hall = Hall()
    async with app_of(hall.module()) as app, in_background() as start:
        await start(app.bus.execute(InTurn("x", "called")))
        await until(lambda: hall.inside == ["called"])
        await app.bus.send(InTurn("x", "sent"))
        await settle()
        assert hall.inside == ["called"]
        hall.let_go("called")
        await until(lambda: hall.inside == ["sent"])
        hall.let_go("sent")


async def test_sent_commands_of_one_key_run_one_after_the_other() -> None:
    hall = Hall()
    async with app_of(hall.module()) as app:
        for name in "abc":
            await app.bus.send(InTurn("x", name))
        await settle()
        assert hall.began == ["a"]
        for name in "abc":
            hall.let_go(name)
        await until(lambda: hall.ended == ["a", "b", "c"])
    assert hall.peak == 1


async def test_a_sent_command_that_waits_for_its_next_attempt_holds_back_its_key() -> None:
    done: list[str] = []
    tries: list[str] = []
    module, clock = Module(Contract("hall", messages=[InTurn])), ManualClock()

    @module.command(InTurn, idempotent=True)
    async def in_turn(command: InTurn) -> str:
        tries.append(command.name)
        if tries == ["first"]:
            raise ValueError
        done.append(command.name)
        return ""

    async with app_of(module, clock=clock, settings=quick(partitions=1)) as app:
        for name, shelf in (("first", "x"), ("second", "x"), ("other", "y")):
            await app.bus.send(InTurn(shelf, name))
        await until(lambda: done == ["other"])
        await settle()
        assert done == ["other"]
        await clock.wait_sleeping(at_most_s=1000)
        clock.advance(1000)
        await until(lambda: done == ["other", "first", "second"])


async def test_sent_commands_without_a_key_run_side_by_side() -> None:
    hall = Hall()
    async with app_of(hall.module(), settings=quick(partitions=1)) as app:
        for name in "abc":
            await app.bus.send(Work(name))
        await until(lambda: len(hall.inside) == 3)
        for name in "abc":
            hall.let_go(name)


async def test_a_chain_does_not_wait_for_a_turn_that_its_ancestor_holds() -> None:
    async with app_of(Hall().module()) as app:
        assert await app.bus.execute(Nested("x", 3)) == "the bottom"


async def test_who_is_cancelled_before_his_turn_does_not_hold_up_the_next() -> None:
    hall = Hall()
    async with app_of(hall.module()) as app, in_background() as start:
        await start(app.bus.execute(InTurn("x", "a")))
        await until(lambda: hall.inside == ["a"])
        with anyio.move_on_after(0.01):
            await app.bus.execute(InTurn("x", "b"))
        await start(app.bus.execute(InTurn("x", "c")))
        await settle()
        hall.let_go("a")
        await until(lambda: hall.inside == ["c"])
    assert hall.began == ["a", "c"]


async def test_a_called_and_a_sent_command_of_one_key_do_not_wait_for_each_other_in_a_circle() -> None:
    hall = Hall()
    async with app_of(hall.module(), settings=quick(commands_running=1)) as app, in_background() as start:
        await start(app.bus.execute(Work("holds the only slot")))
        await until(lambda: hall.inside == ["holds the only slot"])
        await app.bus.send(InTurn("x", "sent"))
        await settle()
        await start(app.bus.execute(InTurn("x", "called")))
        await settle()
        for name in ("holds the only slot", "sent", "called"):
            hall.let_go(name)
        await until(lambda: sorted(hall.ended) == ["called", "holds the only slot", "sent"], "both have run")


# --- transactions ----------------------------------------------------------------------------------------------------


async def test_a_call_inside_of_a_transaction_is_refused() -> None:
    hall = Hall()
    async with app_of(hall.module()) as app:
        with forbid_calls("a transaction of orders is open"):
            for call in (app.bus.execute(Work("a")), app.bus.ask(Look("a")), app.bus.execute(InTurn("x", "a"))):
                with pytest.raises(CallRefused, match="a transaction of orders is open") as raised:
                    await call
                assert raised.value.happened is False
        assert hall.began == []
        hall.let_go("b")
        assert await app.bus.execute(Work("b")) == "b"


async def test_a_handler_inside_of_a_transaction_is_refused_a_call_and_may_send_and_publish() -> None:
    module = Module(relay_contract)
    refusals: list[str] = []

    @module.command(Relay, idempotent=True)
    async def relay(command: Relay, bus: Bus) -> str:
        with forbid_calls("the transaction is open"):
            await bus.send(Work("sent"))
            await bus.publish(Happened())
            try:
                await bus.execute(Work("called"))
            except CallRefused as error:
                refusals.append(str(error))
        return "done"

    @module.query(RelayLook)
    async def relay_look(query: RelayLook) -> str:
        return ""

    hall = Hall()
    async with app_of(module, hall.module()) as app:
        assert await app.bus.execute(Relay()) == "done"
        await until(lambda: sorted(hall.inside) == ["sent", "the event"])
        hall.let_go("sent")
        hall.let_go("the event")
    assert len(refusals) == 1


async def test_a_transaction_of_one_handler_does_not_refuse_the_calls_of_another() -> None:
    module = Module(relay_contract)
    inside = anyio.Event()
    done = anyio.Event()

    @module.command(Relay, idempotent=True)
    async def relay(command: Relay, bus: Bus) -> str:
        with forbid_calls("the transaction is open"):
            inside.set()
            await done.wait()
        return ""

    @module.query(RelayLook)
    async def relay_look(query: RelayLook) -> str:
        return "looked"

    async with app_of(module) as app, in_background() as start:
        await start(app.bus.execute(Relay()))
        await inside.wait()
        assert await app.bus.ask(RelayLook()) == "looked"
        done.set()
