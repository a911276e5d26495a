"""The steps of a saga: each is done once, and returns the same whenever the function runs again."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import anyio
import pytest
from sqlalchemy import select

from fissile import CallRefused, Module
from fissile.database import Database, Saga, StepFailed, Transaction
from tests.sagas.shop import (
    Balance,
    Begin,
    Charge,
    Closed,
    NoMoney,
    OutOfStock,
    Place,
    Placed,
    Refund,
    Ship,
    Shop,
    Stand,
    checkout,
    ended,
    go_on,
    notes,
    pause,
    running,
    shipped,
    standing,
    until,
    write_note,
)


async def test_a_saga_does_its_steps_one_after_the_other_and_each_once(database_url: str) -> None:
    shop, runs = Shop(), 0

    async def function(order: Placed, saga: Saga) -> None:
        nonlocal runs
        runs += 1
        total = assert_type(await saga.execute(Charge(order.id, order.total), undo=Refund(order.id)), int)
        count = assert_type(await saga.transaction(write_note, f"charged {total}"), int)
        await saga.send(Ship(order.id))
        event = await saga.wait_for(shipped, key=order.id, timeout_s=30)
        await saga.sleep(0.01)
        await saga.publish(Closed(order.id, f"{total} {count} {type(event).__name__}"))

    async with running(shop, checkout(function), database_url) as app:
        await app.bus.execute(Place("A1", 7))
        found = await ended(app, "A1")
        await until(lambda: bool(shop.closed))
    assert found.status == "completed"
    assert found.error is None
    assert found.history == (
        "execute pay.charge: replied",
        "transaction write_note: replied",
        "send pay.ship: done",
        "wait-for pay.shipped: replied",
        "sleep 0.01 s: done",
        "publish orders.closed: done",
    )
    assert shop.names == ["charge A1", "ship A1"]
    assert shop.closed == ["7 1 Shipped"]
    assert runs >= 2  # it was not in memory while it waited


async def test_a_saga_that_a_command_starts_replies_with_its_id_at_once(tmp_path: Path) -> None:
    shop = Shop(gate=anyio.Event())

    def declare(module: Module) -> None:
        @module.saga(Begin, id=lambda command: f"saga of {command.id}", name="checkout")
        async def checkout_by_hand(command: Begin, saga: Saga) -> None:
            await saga.execute(Charge(command.id))

        _ = checkout_by_hand

    async with running(shop, declare, tmp_path) as app:
        assert await app.bus.execute(Begin("A1"), id="x") == "saga of A1"
        assert shop.gate is not None
        shop.gate.set()
        assert (await ended(app, "saga of A1")).status == "completed"
        assert await app.bus.execute(Begin("A1"), id="x") == "saga of A1"
        assert await app.bus.execute(Begin("A1"), id="y") == "saga of A1"
    assert shop.names == ["charge A1"]


async def test_a_saga_without_an_id_of_its_own_has_that_of_its_command(tmp_path: Path) -> None:
    def declare(module: Module) -> None:
        @module.saga(Begin, name="checkout")
        async def checkout_by_hand(command: Begin, saga: Saga) -> None:
            await saga.execute(Charge(saga.id))

        _ = checkout_by_hand

    shop = Shop()
    async with running(shop, declare, tmp_path) as app:
        assert await app.bus.execute(Begin("A1"), id="the command") == "the command"
        assert (await ended(app, "the command")).status == "completed"
    assert shop.names == ["charge the command"]


async def test_it_starts_once_per_id_whatever_starts_it_again(tmp_path: Path) -> None:
    async def function(order: Placed, saga: Saga) -> None:
        await saga.execute(Charge(order.id, order.total))

    shop = Shop()
    async with running(shop, checkout(function), tmp_path) as app:
        for total in (1, 2, 3):
            await app.bus.execute(Place("A1", total))
        await app.bus.execute(Place("A2"))
        await ended(app, "A1")
        await ended(app, "A2")
    assert sorted(shop.names) == ["charge A1", "charge A2"]


async def test_gather_keeps_to_its_bound_and_returns_in_order(tmp_path: Path) -> None:
    shop, replies = Shop(gate=anyio.Event()), list[int]()

    async def function(order: Placed, saga: Saga) -> None:
        replies[:] = assert_type(await saga.gather([Charge(f"{n}", n) for n in range(9)], limit=3), list[int])
        assert await saga.gather(list[Charge]()) == []

    async with running(shop, checkout(function), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        await until(lambda: shop.running == 3)
        assert shop.gate is not None
        shop.gate.set()
        assert (await ended(app, "A1")).status == "completed"
    assert replies == list(range(9))
    assert shop.peak == 3


async def test_a_declared_error_is_an_ordinary_exception_and_stays_one(tmp_path: Path) -> None:
    shop, caught = Shop(), list[object]()
    shop.faults["charge A1"] = [NoMoney(5)]

    async def function(order: Placed, saga: Saga) -> None:
        try:
            await saga.execute(Charge(order.id), undo=Refund(order.id))
        except NoMoney as error:
            caught.append(error)
            await pause(saga)
            await saga.execute(Charge(f"{order.id} on credit", error.missing))

    async with running(shop, checkout(function), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        await go_on(app, "A1")
        assert (await ended(app, "A1")).history[0] == "execute pay.charge: declared:NoMoney"
    assert caught == [NoMoney(5), NoMoney(5)]
    assert shop.names == ["charge A1", "charge A1 on credit"]


async def test_a_query_is_asked_once(tmp_path: Path) -> None:
    shop, replies = Shop(), list[int]()

    async def function(order: Placed, saga: Saga) -> None:
        replies.append(assert_type(await saga.ask(Balance(order.id)), int))
        await pause(saga)

    async with running(shop, checkout(function), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        await go_on(app, "A1")
        await ended(app, "A1")
    assert shop.names == ["balance A1"]
    assert replies == [1, 1]


async def test_time_ids_and_randomness_are_the_same_each_time(tmp_path: Path) -> None:
    shop, seen = Shop(), list[tuple[object, ...]]()

    async def function(order: Placed, saga: Saga) -> None:
        first = saga.now()
        await saga.execute(Charge(order.id))
        seen.append((first, saga.now(), saga.new_id(), saga.new_id(), saga.random.random(), saga.id))
        await pause(saga)

    async with running(shop, checkout(function), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        await go_on(app, "A1")
        await ended(app, "A1")
    assert len(seen) == 2
    assert len(set(seen)) == 1
    assert seen[0][0] < seen[0][1]  # type: ignore[operator]  # of two times
    assert seen[0][2] != seen[0][3]


async def test_a_transaction_and_its_step_commit_together(database_url: str) -> None:
    """What fails leaves nothing, is tried again, and what it came to is written down."""
    shop, attempts, texts = Shop(), list[int](), list[str]()

    async def write_and_fail(tx: Transaction, text: str) -> None:
        await write_note(tx, text)
        tx.publish(Closed("A1", "never"))
        attempts.append(1)
        raise ValueError("no such luck")

    async def write_and_refuse(tx: Transaction) -> None:
        await write_note(tx, "refused")
        raise OutOfStock("nails")

    async def write_and_publish(tx: Transaction, text: str) -> list[str]:
        await write_note(tx, text)
        tx.publish(Closed("A1", "once"))
        return [text]

    async def function(order: Placed, saga: Saga) -> None:
        try:
            await saga.transaction(write_and_fail, "failed")
        except StepFailed as error:
            texts.append(str(error))
        try:
            await saga.transaction(write_and_refuse)
        except OutOfStock as error:
            texts.append(error.item)
        assert assert_type(await saga.transaction(write_and_publish, "kept"), list[str]) == ["kept"]
        await pause(saga)

    kept = list[str]()

    def declare(module: Module) -> None:
        checkout(function)(module)

        @module.worker
        async def look(database: Database) -> None:
            while not shop.closed:
                await anyio.sleep(0.01)
            kept.extend((await database.read(select(notes.c.text))).scalars())

        _ = look

    async with running(shop, declare, database_url) as app:
        await app.bus.execute(Place("A1"))
        await go_on(app, "A1")
        assert (await ended(app, "A1")).status == "completed"
        await until(lambda: bool(kept))
    assert kept == ["kept"]
    assert shop.closed == ["once"]
    assert len(attempts) == 3
    assert "ValueError: no such luck" in texts[0]
    assert set(texts[1:]) == {texts[0], "nails"}


async def test_two_steps_at_a_time_are_refused(tmp_path: Path) -> None:
    shop, refusals = Shop(), list[str]()

    async def function(order: Placed, saga: Saga) -> None:
        async def charge(number: int) -> None:
            try:
                await saga.execute(Charge(f"{order.id} {number}"))
            except CallRefused as error:
                refusals.append(str(error))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(charge, 1)
            tasks.start_soon(charge, 2)

    async with running(shop, checkout(function), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        assert (await ended(app, "A1")).status == "completed"
    assert len(shop.names) == 1
    assert len(refusals) == 1
    assert "saga.gather" in refusals[0]


async def test_a_history_has_a_bound(tmp_path: Path) -> None:
    shop = Shop()

    async def function(order: Placed, saga: Saga) -> None:
        for number in range(100):
            await saga.execute(Charge(f"{number}"), undo=Refund(f"{number}"))

    async with running(shop, checkout(function), tmp_path, saga_steps=3) as app:
        await app.bus.execute(Place("A1"))
        found = await ended(app, "A1")
    assert found.status == "compensated"
    assert found.error is not None
    assert "FISSILE_SAGA_STEPS" in found.error
    assert shop.names == ["charge 0", "charge 1", "charge 2", "refund 2", "refund 1", "refund 0"]


async def test_a_module_runs_a_bound_of_sagas_and_waiting_ones_do_not_count(tmp_path: Path) -> None:
    shop = Shop(gate=anyio.Event())

    async def function(order: Placed, saga: Saga) -> None:
        if order.total:
            await saga.execute(Charge(order.id))
        else:
            await saga.sleep(3600)

    async with running(shop, checkout(function), tmp_path, sagas_running=2) as app:
        for number in range(5):
            await app.bus.execute(Place(f"sleeper {number}", 0))
            await standing(app, f"sleeper {number}", "waiting")
        for number in range(6):
            await app.bus.execute(Place(f"{number}"))
        await until(lambda: shop.running == 2)
        assert shop.gate is not None
        shop.gate.set()
        for number in range(6):
            assert (await ended(app, f"{number}")).status == "completed"
    assert shop.peak == 2


async def test_what_has_ended_is_forgotten_after_a_while(tmp_path: Path) -> None:
    async def function(order: Placed, saga: Saga) -> None:
        await saga.execute(Charge(order.id))

    shop = Shop()
    async with running(shop, checkout(function), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        await ended(app, "A1")
    async with running(shop, checkout(function), tmp_path, saga_retention_s=0.0) as app:
        with anyio.fail_after(20):
            while await app.bus.ask(Stand("A1")) is not None:
                await anyio.sleep(0.01)


@pytest.mark.parametrize("count", [1, 3])
async def test_a_timeout_of_a_call_is_an_attempt(tmp_path: Path, count: int) -> None:
    """The call is repeated with the same id; when it may have happened after the last attempt, it is undone."""
    shop = Shop(gate=anyio.Event())
    times = 0

    async def function(order: Placed, saga: Saga) -> None:
        nonlocal times
        times += 1
        if times > count and shop.gate is not None:
            shop.gate.set()
        await saga.execute(Charge(order.id), undo=Refund(order.id), timeout_s=0.05)

    async with running(shop, checkout(function), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        found = await ended(app, "A1")
    if count == 1:
        assert found.status == "completed"
        assert shop.names == ["charge A1"]
    else:
        assert found.status == "compensated"
        assert found.history == ("execute pay.charge: failed:DeadlineExceeded, undone",)
        assert shop.names == ["refund A1"]
