"""What comes between: a stop, a new version of the program, a second replica, a claim that ran out, a database that is away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import create_engine, text

from fissile.database import Saga
from tests.sagas.shop import (
    Charge,
    Closed,
    NoMoney,
    Place,
    Placed,
    Refund,
    Shipped,
    Shop,
    checkout,
    ended,
    pause,
    running,
    shipped,
    standing,
    until,
    waits_at,
    write_note,
)


async def test_a_saga_goes_on_in_the_next_process(database_url: str) -> None:
    shop = Shop()

    async def function(order: Placed, saga: Saga) -> None:
        await saga.execute(Charge(order.id), undo=Refund(order.id))
        event = await saga.wait_for(shipped, Shipped, key=order.id)
        await saga.transaction(write_note, f"parcel {event.parcel}")
        await saga.publish(Closed(order.id, f"parcel {event.parcel}"))

    async with running(shop, checkout(function), database_url) as app:
        await app.bus.execute(Place("A1"))
        await standing(app, "A1", "waiting")
    async with running(shop, checkout(function), database_url) as app:
        await app.bus.publish(Shipped("A1", 4))
        assert (await ended(app, "A1")).status == "completed"
        await until(lambda: bool(shop.closed))
    assert shop.names == ["charge A1"]
    assert shop.closed == ["parcel 4"]


async def test_a_drain_ends_a_saga_between_two_steps(tmp_path: Path) -> None:
    shop = Shop(gate=anyio.Event())
    assert shop.gate is not None

    async def function(order: Placed, saga: Saga) -> None:
        for number in range(100):
            await saga.execute(Charge(f"{number}"))

    async def open_later() -> None:
        await anyio.sleep(0.1)
        assert shop.gate is not None
        shop.gate.set()

    async with anyio.create_task_group() as tasks, running(shop, checkout(function), tmp_path, drain_s=20.0) as app:
        await app.bus.execute(Place("A1"))
        await until(lambda: shop.running == 1)
        tasks.start_soon(open_later)
    assert len(shop.names) < 100
    async with running(shop, checkout(function), tmp_path) as app:
        assert (await ended(app, "A1")).status == "completed"
    assert shop.names == [f"charge {number}" for number in range(100)]


# --- new versions ----------------------------------------------------------------------------------------------------


async def begun(database: Path, shop: Shop) -> None:
    """Bring the saga A1 to the point where it has charged and waits."""

    async def function(order: Placed, saga: Saga) -> None:
        await saga.execute(Charge(order.id), undo=Refund(order.id))
        await pause(saga)

    async with running(shop, checkout(function), database) as app:
        await app.bus.execute(Place("A1"))
        await waits_at(app, "A1", "wait-for orders.placed")


async def resumed(shop: Shop, function: Callable[[Placed, Saga], Any], database: Path) -> tuple[str, str | None]:
    """Run another version of the saga, wake it, and tell what became of it."""
    from tests.sagas.shop import Cancelled

    async with running(shop, checkout(function), database) as app:
        await app.bus.publish(Cancelled("A1"))
        found = await ended(app, "A1")
        return found.status, found.error


async def test_a_program_that_does_another_step_is_stuck_and_a_repaired_one_goes_on(tmp_path: Path) -> None:
    shop = Shop()
    await begun(tmp_path, shop)

    async def other(order: Placed, saga: Saga) -> None:
        await saga.execute(Refund(order.id))
        await pause(saga)

    status, error = await resumed(shop, other, tmp_path)
    assert status == "stuck"
    assert error == "step 1 was `execute pay.charge`, and the program now does `execute pay.refund` there"

    async def other_content(order: Placed, saga: Saga) -> None:
        await saga.execute(Charge(order.id, 1000))

    status, error = await resumed(shop, other_content, tmp_path)
    assert status == "stuck"
    assert error is not None
    assert "the same with other content" in error

    async def repaired(order: Placed, saga: Saga) -> None:
        await saga.execute(Charge(order.id), undo=Refund(order.id))
        await pause(saga)
        await saga.execute(Charge(f"{order.id} more"))

    async with running(shop, checkout(repaired), tmp_path) as app:
        with anyio.fail_after(20):
            while (await ended(app, "A1")).status != "completed":
                await anyio.sleep(0.01)
    assert shop.names == ["charge A1", "charge A1 more"]


async def test_a_program_that_does_less_or_fails_earlier_than_its_history_is_stuck(tmp_path: Path) -> None:
    shop = Shop()
    await begun(tmp_path, shop)

    async def shorter(order: Placed, saga: Saga) -> None:
        await saga.execute(Charge(order.id), undo=Refund(order.id))

    status, error = await resumed(shop, shorter, tmp_path)
    assert (status, error) == (
        "stuck",
        "the program returns after step 1, and the history has 2: the last one was `wait-for orders.placed`",
    )

    async def raising(order: Placed, saga: Saga) -> None:
        raise ValueError("new here")

    status, error = await resumed(shop, raising, tmp_path)
    assert status == "stuck"
    assert error is not None
    assert "raises ValueError: new here after step 0" in error
    assert shop.names == ["charge A1"]


async def test_what_a_program_adds_behind_the_history_is_done(tmp_path: Path) -> None:
    shop = Shop()
    await begun(tmp_path, shop)

    async def longer(order: Placed, saga: Saga) -> None:
        await saga.execute(Charge(order.id), undo=Refund(order.id))
        await pause(saga)
        await saga.execute(Charge("added"))
        raise NoMoney(1)

    assert await resumed(shop, longer, tmp_path) == ("compensated", "NoMoney: NoMoney(missing=1)")
    assert shop.names == ["charge A1", "charge added", "refund A1"]


# --- replicas --------------------------------------------------------------------------------------------------------


async def test_two_replicas_run_each_saga_once(database_url: str) -> None:
    one, two = Shop(), Shop()

    async def function(order: Placed, saga: Saga) -> None:
        await saga.execute(Charge(order.id))
        await saga.transaction(write_note, order.id)
        await saga.sleep(0.05)
        await saga.execute(Charge(f"{order.id} again"))

    names = [f"{number}" for number in range(12)]
    async with (
        running(one, checkout(function), database_url, sagas_running=2) as first,
        running(two, checkout(function), database_url, sagas_running=2) as second,
    ):
        for name in names:
            await first.bus.execute(Place(name))
        for name in names:
            assert (await ended(second, name)).status == "completed"
    assert sorted(one.names + two.names) == sorted(
        [f"charge {name}" for name in names] + [f"charge {name} again" for name in names]
    )


async def test_a_replica_that_has_lost_its_claim_writes_nothing_more(tmp_path: Path) -> None:
    """It was stopped for longer than the claim holds; another one has gone on meanwhile."""
    one, two = Shop(gate=anyio.Event()), Shop()

    async def function(order: Placed, saga: Saga) -> None:
        await saga.execute(Charge(order.id))
        await saga.publish(Closed(order.id, "once"))

    leave, has_left = anyio.Event(), anyio.Event()

    async def run_first() -> None:
        async with running(one, checkout(function), tmp_path, saga_claim_s=3600.0) as first:
            await first.bus.execute(Place("A1"))
            await leave.wait()
        has_left.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_first)
        await until(lambda: one.running == 1)
        engine = create_engine(f"sqlite:///{tmp_path / 'orders.sqlite3'}")
        with engine.begin() as connection:
            connection.execute(text("UPDATE fissile_saga SET until_ms = 0"))
        engine.dispose()
        async with running(two, checkout(function), tmp_path) as second:
            assert (await ended(second, "A1")).status == "completed"
            await until(lambda: len(one.closed) + len(two.closed) == 1)
            assert one.gate is not None
            one.gate.set()
            leave.set()  # its drain waits for the saga
            await until(has_left.is_set)
            found = await ended(second, "A1")
            assert (found.status, found.error) == ("completed", None)
            assert found.history == ("execute pay.charge: replied", "publish orders.closed: done")
    assert len(one.closed) + len(two.closed) == 1
