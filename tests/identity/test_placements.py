"""Who may what, in every placement: in one process, through the log, in several processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from fissile import Bus, Forbidden, Identity, Settings, Unauthenticated
from fissile.testing import Placement, placed, user
from tests.identity.modules import (
    NOBODY,
    Announce,
    AskBilling,
    Charge,
    CheckOut,
    ListOrders,
    Noted,
    PlaceInTurn,
    PlaceOrder,
    Seen,
    WhoAmI,
    announced,
    billing,
    noted,
    orders,
)

ALICE = user("alice", "orders:write", "orders:read", tenant="acme")
MERCHANT = user("merchant", "billing:charge", "billing:use")
ANONYMOUS = Identity("", kind="anonymous")


@asynccontextmanager
async def running(placement: Placement, backend: Any, folder: Path) -> AsyncGenerator[Bus]:
    settings = Settings(partitions=2, reply_partitions=4, commit_interval_s=0.1, backend=backend[0])
    broker = f"sqlite:///{folder / 'log.sqlite3'}" if placement == "split" else None
    async with placed(placement, [orders, billing], broker=broker, settings=settings) as bus:
        yield bus


@pytest.fixture(params=["local", "loopback"])
async def bus(request: pytest.FixtureRequest, anyio_backend: Any, tmp_path: Path) -> AsyncGenerator[Bus]:
    async with running(request.param, anyio_backend, tmp_path) as opened:
        yield opened


async def next_noted(tap: Any) -> Noted:
    with anyio.fail_after(20):
        event: Noted = (await anext(tap)).event
    return event


async def test_who_has_the_scopes_is_served_and_the_handler_knows_who_it_is(bus: Bus) -> None:
    alice = bus.acting_as(ALICE)
    expected = Seen("alice", "user", frozenset({"orders:write", "orders:read"}), "acme")
    assert await alice.execute(PlaceOrder()) == expected
    assert await alice.execute(PlaceInTurn()) == expected
    assert await alice.ask(ListOrders()) == expected
    assert await alice.ask(WhoAmI()) == expected


async def test_who_lacks_a_scope_is_told_which_and_nothing_happens(bus: Bus) -> None:
    alice = bus.acting_as(user("alice", "billing:use", "orders:read"))
    for command in (PlaceOrder(), PlaceInTurn()):
        with pytest.raises(Forbidden) as refused:
            await alice.execute(command)
        assert (refused.value.missing, refused.value.happened) == (("orders:write",), False)
        assert type(refused.value) is Forbidden
        assert "orders:read" not in str(refused.value)
        assert (refused.value.__cause__, refused.value.__context__) == (None, None)
    with pytest.raises(Forbidden, match="it requires the scope billing:charge, which") as refused:
        await alice.execute(Charge())
    assert refused.value.missing == ("billing:charge",)


async def test_an_unknown_caller_is_told_apart_from_one_that_lacks_a_scope(bus: Bus) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await bus.acting_as(ANONYMOUS).ask(ListOrders())
    assert refused.value.missing == ("orders:read",)
    assert await bus.acting_as(ANONYMOUS).ask(WhoAmI()) == Seen("", "anonymous")


async def test_code_that_acts_for_nobody_is_trusted(bus: Bus) -> None:
    assert await bus.execute(PlaceOrder()) == NOBODY
    assert await bus.ask(ListOrders()) == NOBODY


async def test_the_identity_goes_down_the_chain_and_is_checked_at_each_module(bus: Bus) -> None:
    assert await bus.acting_as(ALICE).execute(CheckOut()) == Seen("billing:charge,billing:use", "forbidden")
    assert (await bus.acting_as(MERCHANT).execute(CheckOut())).subject == "merchant"
    assert await bus.execute(CheckOut()) == NOBODY
    assert await bus.acting_as(ALICE).ask(AskBilling(for_itself=False)) == Seen("billing:use", "forbidden")


async def test_a_module_may_act_for_itself_or_for_another_in_a_chain_of_somebody(bus: Bus) -> None:
    alice = bus.acting_as(ALICE)
    assert await alice.execute(CheckOut("itself")) == NOBODY
    assert (await alice.execute(CheckOut("other"))).kind == "service"
    assert await alice.ask(AskBilling(for_itself=True)) == NOBODY


async def test_an_event_is_handled_for_who_caused_it(bus: Bus) -> None:
    async with bus.tap(noted) as tap:
        await bus.acting_as(ALICE).execute(Announce("a"))
        assert (await next_noted(tap)).seen.subject == "alice"
    async with bus.tap(noted) as tap:
        await bus.execute(Announce("b"))
        found = await next_noted(tap)
        while found.what != "b":  # a delivery of the first one that is repeated
            found = await next_noted(tap)
        assert found.seen == NOBODY


async def test_a_command_that_nobody_waits_for_is_checked_when_it_is_handled(bus: Bus) -> None:
    async with bus.tap(noted) as tap:
        await bus.acting_as(ALICE).send(Charge())
        await bus.acting_as(ALICE).execute(CheckOut(how="send"))
        await bus.acting_as(MERCHANT).execute(CheckOut(how="send"))
        await bus.acting_as(ALICE).execute(CheckOut("itself", "send"))
        subjects = {(await next_noted(tap)).seen.subject}
        while subjects != {"merchant", None}:
            subjects.add((await next_noted(tap)).seen.subject)


async def test_a_topic_is_read_by_who_has_its_scope(bus: Bus) -> None:
    with pytest.raises(Forbidden, match="orders:watch"):
        bus.acting_as(ALICE).tap(announced)
    async with bus.acting_as(user("carol", "orders:watch")).tap(announced) as tap:
        await bus.execute(Announce("c"))
        with anyio.fail_after(20):
            assert (await anext(tap)).event.key == "c"


async def test_all_of_that_holds_in_several_processes(anyio_backend: Any, tmp_path: Path) -> None:
    if anyio_backend[1].get("use_uvloop"):
        pytest.skip("the processes of a split choose their event loop themselves")
    async with running("split", anyio_backend, tmp_path) as bus:
        for test in (
            test_who_has_the_scopes_is_served_and_the_handler_knows_who_it_is,
            test_who_lacks_a_scope_is_told_which_and_nothing_happens,
            test_an_unknown_caller_is_told_apart_from_one_that_lacks_a_scope,
            test_code_that_acts_for_nobody_is_trusted,
            test_the_identity_goes_down_the_chain_and_is_checked_at_each_module,
            test_a_module_may_act_for_itself_or_for_another_in_a_chain_of_somebody,
            test_an_event_is_handled_for_who_caused_it,
            test_a_command_that_nobody_waits_for_is_checked_when_it_is_handled,
            test_a_topic_is_read_by_who_has_its_scope,
        ):
            await test(bus)
