"""When steps fail: they are tried again; when that is over what was done is undone; and one saga's failure is not another's."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from fissile import CallError, HandlerFailed, Retry, Unavailable
from fissile.database import Saga
from tests.sagas.shop import (
    Charge,
    NoMoney,
    Place,
    Placed,
    Refund,
    Ship,
    Shop,
    checkout,
    ended,
    go_on,
    pause,
    running,
    standing,
)


async def buy(order: Placed, saga: Saga) -> None:
    """Charge twice and ship; what fails is undone."""
    await saga.execute(Charge("first"), undo=Refund("first"))
    await saga.execute(Charge("second"), undo=lambda total: Refund(f"second, {total}"))
    await saga.on_failure(Refund("by hand"))
    await saga.execute(Ship(order.id))


async def test_a_failed_attempt_is_repeated_with_the_same_id(tmp_path: Path) -> None:
    shop = Shop(faults={"charge second": [ValueError("once"), ValueError("twice")]})
    async with running(shop, checkout(buy), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        assert (await ended(app, "A1")).status == "completed"
    assert shop.names == ["charge first", "charge second", "charge second", "charge second", "ship A1"]
    assert len({message_id for name, message_id in shop.asked if name == "charge second"}) == 1


async def test_when_attempts_are_over_what_was_done_is_undone_in_reverse_order(database_url: str) -> None:
    shop = Shop(faults={"ship A1": [ValueError("no")] * 3})
    async with running(shop, checkout(buy), database_url) as app:
        await app.bus.execute(Place("A1"))
        found = await ended(app, "A1")
    assert found.status == "compensated"
    assert found.error is not None
    assert found.error.startswith("HandlerFailed: pay.ship failed with ValueError: no")
    assert shop.names[2:] == ["ship A1"] * 3 + ["refund by hand", "refund second, 1", "refund first"]
    assert found.history == (
        "execute pay.charge: replied, undone",
        "execute pay.charge: replied, undone",
        "on-failure pay.refund: done, undone",
        "execute pay.ship: failed:HandlerFailed",
    )


async def test_what_the_function_raises_is_undone_too(tmp_path: Path) -> None:
    async def function(order: Placed, saga: Saga) -> None:
        await saga.execute(Charge(order.id), undo=Refund(order.id))
        raise LookupError("a fault of the program")

    shop = Shop()
    async with running(shop, checkout(function), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        found = await ended(app, "A1")
    assert (found.status, found.error) == ("compensated", "LookupError: a fault of the program")
    assert shop.names == ["charge A1", "refund A1"]


Fault = Callable[[], Coroutine[Any, Any, None]]


@pytest.mark.parametrize(
    ("error", "is_undone"), [(Unavailable("away"), True), (NoMoney(1), False), (ValueError("half-way"), True)], ids=repr
)
async def test_a_step_is_undone_unless_it_certainly_did_not_happen(
    tmp_path: Path, error: Exception, is_undone: bool
) -> None:
    """A handler that failed may have done something outside of its database. (`Unavailable` in a handler is a failure of the handler.)"""

    async def function(order: Placed, saga: Saga) -> None:
        await saga.execute(Charge(order.id), undo=Refund(order.id))

    shop = Shop(faults={"charge A1": [error] * 3})
    async with running(shop, checkout(function), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        assert (await ended(app, "A1")).status == "compensated"
    assert ("refund A1" in shop.names) is is_undone


async def test_an_error_is_the_same_when_the_function_runs_again(tmp_path: Path) -> None:
    shop, errors = Shop(faults={"charge A1": [ValueError("no")] * 3}), list[CallError]()

    async def function(order: Placed, saga: Saga) -> None:
        try:
            await saga.execute(Charge(order.id))
        except HandlerFailed as error:
            errors.append(error)
        await pause(saga)

    async with running(shop, checkout(function), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        await go_on(app, "A1")
        assert (await ended(app, "A1")).status == "completed"
    first, second = errors
    assert isinstance(first, HandlerFailed)
    assert isinstance(second, HandlerFailed)
    assert (str(first), first.message_id, first.error_type) == (str(second), second.message_id, "ValueError")


async def test_an_undo_is_tried_again(tmp_path: Path) -> None:
    shop = Shop(faults={"ship A1": [ValueError("no")] * 3, "refund first": [ValueError("later")] * 2})
    async with running(shop, checkout(buy), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        assert (await ended(app, "A1")).status == "compensated"
    assert shop.names[-3:] == ["refund first"] * 3


@pytest.mark.parametrize("error", [ValueError("never"), NoMoney(3)], ids=repr)
async def test_a_saga_that_cannot_be_undone_is_kept_and_others_go_on(tmp_path: Path, error: Exception) -> None:
    shop = Shop(faults={"ship A1": [ValueError("no")] * 3, "refund second, 1": [error] * 3})
    async with running(shop, checkout(buy), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        found = await ended(app, "A1")
        assert found.status == "failed"
        assert found.history[0] == "execute pay.charge: replied"
        assert found.history[2] == "on-failure pay.refund: done, undone"
        await app.bus.execute(Place("A2"))
        assert (await ended(app, "A2")).status == "completed"


async def test_permanent_errors_have_no_second_attempt(tmp_path: Path) -> None:
    shop = Shop(faults={"ship A1": [ValueError("no")] * 3})
    retry = Retry(attempts=50, first_s=0.01, permanent=(HandlerFailed,))
    async with running(shop, checkout(buy, retry=retry), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        assert (await ended(app, "A1")).status == "compensated"
    assert shop.names.count("ship A1") == 1


async def test_members_of_a_gather_are_tried_again_by_themselves(tmp_path: Path) -> None:
    shop = Shop(faults={"charge 1": [ValueError("once")], "charge 3": [NoMoney(3)], "charge 4": [NoMoney(4)]})

    async def function(order: Placed, saga: Saga) -> None:
        with pytest.raises(NoMoney, match="missing=3"):
            await saga.gather([Charge(f"{number}") for number in range(5)], limit=2)

    async with running(shop, checkout(function), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        assert (await ended(app, "A1")).status == "completed"
    assert sorted(shop.names) == ["charge 0", "charge 1", "charge 1", "charge 2", "charge 3", "charge 4"]


async def test_members_of_a_gather_are_undone_each_by_its_own(tmp_path: Path) -> None:
    shop = Shop(faults={"charge 1": [NoMoney(1)]})

    async def function(order: Placed, saga: Saga) -> None:
        numbers = range(3)
        await saga.gather([Charge(f"{number}") for number in numbers], undo=[Refund(f"{number}") for number in numbers])

    async with running(shop, checkout(function), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        assert (await ended(app, "A1")).status == "compensated"
    assert shop.names[3:] == ["refund 2", "refund 0"]


async def test_a_failing_saga_does_not_keep_others_from_running_meanwhile(tmp_path: Path) -> None:
    shop = Shop(faults={"ship A1": [ValueError("no")] * 50})
    retry = Retry(attempts=50, first_s=60.0, longest_s=60.0)
    async with running(shop, checkout(buy, retry=retry), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        found = await standing(app, "A1", "waiting")
        assert found.step == "execute pay.ship"
        for number in range(3):
            await app.bus.execute(Place(f"B{number}"))
            assert (await ended(app, f"B{number}")).status == "completed"
