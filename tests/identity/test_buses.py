"""Buses that act for somebody, in detail: what stays that of the handler, whoever it acts for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import new_class
from typing import Any

import pytest
from attrs import frozen

from fissile import (
    App,
    Bus,
    Caller,
    CallRefused,
    Command,
    Contract,
    Event,
    Forbidden,
    HandlerFailed,
    Handling,
    Identity,
    Module,
    Query,
    Topic,
    UnknownMessage,
)
from fissile.testing import user
from tests.identity.modules import NOBODY, Balance, Seen, WhoAmI, billing, orders, orders_contract, seen
from tests.runtime.helpers import app_of, until


@frozen
class Work(Command[tuple[str, ...]]):
    fails: bool = False


@frozen
class Tell(Command[str]):
    """Tells its own id."""


@frozen
class AskId(Query[str]):
    pass


@frozen
class Done(Event):
    what: str


done = Topic("desk.done", Done, key=lambda event: event.what)
ALICE = user("alice")


def desk(kept: list[Any]) -> Module:
    module = Module(Contract("desk", messages=[Work, Tell, AskId, Done], topics=[done]))

    @module.command(Work, idempotent=True)
    async def work(command: Work, bus: Bus, caller: Caller) -> tuple[str, ...]:
        itself = bus.acting_as(None)
        kept[:] = [bus, itself]
        ids = [
            await bus.execute(Tell()),
            await itself.execute(Tell()),
            await itself.ask(AskId()),
            await itself.acting_as(ALICE).execute(Tell()),
            await itself.execute(Tell(), id="chosen"),
            await bus.execute(Tell()),
        ]
        await itself.publish(Done("itself"))
        await bus.publish(Done("bus"))
        if command.fails:
            raise RuntimeError
        assert ids[0].startswith(caller.message_id)
        return tuple(each.removeprefix(caller.message_id) for each in ids)

    @module.command(Tell, idempotent=True)
    async def tell(command: Tell, caller: Caller) -> str:
        assert caller.chain == ("desk.work",)
        assert caller.module == "desk"
        return caller.message_id

    @module.query(AskId)
    async def ask_id(query: AskId, caller: Caller) -> str:
        return caller.message_id

    return module


@pytest.fixture(params=["local", "loopback"])
def is_loopback(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "loopback")


async def test_the_ids_of_a_handler_go_on_whoever_it_acts_for(is_loopback: bool) -> None:
    async with app_of(desk([]), is_loopback=is_loopback) as app:
        for _ in range(2):
            assert await app.bus.execute(Work()) == (".1", ".2", ".3", ".4", "chosen", ".5")


async def test_what_is_published_waits_for_the_handler_whoever_it_acts_for(is_loopback: bool) -> None:
    async with app_of(desk([]), is_loopback=is_loopback) as app, app.bus.tap(done) as tap:
        with pytest.raises(HandlerFailed):
            await app.bus.execute(Work(fails=True))
        await app.bus.execute(Work())
        assert [(await anext(tap)).event.what for _ in range(2)] in (["itself", "bus"], ["bus", "itself"])


async def test_a_bus_ends_with_its_handler_whoever_it_acts_for(is_loopback: bool) -> None:
    kept: list[Any] = []
    async with app_of(desk(kept), is_loopback=is_loopback) as app:
        await app.bus.execute(Work())
        late: list[Callable[[Bus], Awaitable[Any]]] = [
            lambda bus: bus.execute(Tell()),
            lambda bus: bus.ask(AskId()),
            lambda bus: bus.publish(Done("late")),
            lambda bus: bus.send(Tell()),
        ]
        for bus in (*kept, kept[0].acting_as(ALICE), kept[1].acting_as(ALICE)):
            for call in late:
                with pytest.raises(CallRefused, match="has ended"):
                    await call(bus)


async def test_what_nobody_handles_is_told_as_ever() -> None:
    async with app_of(desk([])) as app:
        with pytest.raises(UnknownMessage, match="use ask"):
            await app.bus.acting_as(ALICE).execute(AskId())  # type: ignore[arg-type]

    module = Module(Contract("other", messages=[Work]))
    refusals: list[str] = []

    @module.command(Work, idempotent=True)
    async def work(command: Work, bus: Bus) -> tuple[str, ...]:
        for call in (bus.acting_as(None).execute, bus.acting_as(None).ask):
            with pytest.raises(UnknownMessage) as unknown:
                await call(Balance())  # type: ignore[arg-type]
            refusals.append(str(unknown.value))
        return ()

    async with app_of(module) as app:
        await app.bus.execute(Work())
    assert len(refusals) == 2


async def test_who_is_acted_for_is_the_last_that_was_named() -> None:
    async with app_of(orders, billing) as app:
        alice = app.bus.acting_as(ALICE)
        assert (await alice.ask(WhoAmI())).subject == "alice"
        assert (await alice.acting_as(user("bob")).ask(WhoAmI())).subject == "bob"
        assert await alice.acting_as(None).ask(WhoAmI()) == NOBODY
        assert await app.bus.ask(WhoAmI()) == NOBODY


async def test_middleware_and_sync_handlers_know_who_asks() -> None:
    told: list[Identity | None] = []

    async def audit(handling: Handling, call_next: Callable[[], Awaitable[Any]]) -> Any:
        told.append(handling.identity)
        return await call_next()

    module = Module(orders_contract.__class__("sync", messages=[Work]))

    @module.command(Work, idempotent=True)
    def work(command: Work, caller: Caller) -> tuple[str, ...]:
        return (str(seen(caller.identity).subject),)

    async with App([module], middleware=[audit]) as app:
        assert await app.bus.acting_as(ALICE).execute(Work()) == ("alice",)
        assert await app.bus.execute(Work()) == ("None",)
    assert told == [ALICE, None]


async def test_who_is_refused_is_counted_and_seen_by_no_middleware(is_loopback: bool) -> None:
    told: list[str] = []

    async def audit(handling: Handling, call_next: Callable[[], Awaitable[Any]]) -> Any:
        told.append(handling.name)
        return await call_next()

    async with app_of(orders, billing, middleware=[audit], is_loopback=is_loopback) as app:
        with pytest.raises(Forbidden):
            await app.bus.acting_as(ALICE).ask(Balance())
        statistics = app.statistics()["billing"]
        assert (statistics.refused["billing.balance"], statistics.failed["billing.balance"]) == (1, 0)
        assert told == []
        await app.bus.acting_as(ALICE).send(orders_command())
        await until(lambda: app.statistics()["orders"].refused["orders.place-order"] == 1)


def orders_command() -> Command[Seen]:
    from tests.identity.modules import PlaceOrder

    return PlaceOrder()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Identity("a" * 257),
        lambda: Identity("a", kind="k" * 257),
        lambda: Identity("a", tenant="t" * 257),
        lambda: Identity("a", frozenset({"s" * 4097})),
        lambda: Identity("a", frozenset(f"scope-{number}" for number in range(1000))),
        lambda: Identity("a", frozenset({"two words"})),
        lambda: Identity("a", frozenset({""})),
    ],
)
def test_an_identity_has_bounds(make: Callable[[], Identity]) -> None:
    with pytest.raises(ValueError, match=r"an identity's|is no scope"):
        make()


@pytest.mark.parametrize("scope", ["two words", "", 'a"b', "a\\b", "é"])
def test_a_contract_that_requires_no_scope_is_a_fault(scope: str) -> None:
    strange: Any = frozen(new_class("Strange", (Command[None],), {"requires": scope}))
    module = Module(Contract("strange", messages=[strange]))

    async def handle(command: Any) -> None:
        pass

    handle.__annotations__ = {"command": strange, "return": None}
    module.command(strange, idempotent=True)(handle)
    (fault,) = App([module]).check()
    assert f"strange.strange requires {scope!r}, which is no scope." in fault.what
    assert fault.where == "types.Strange"
