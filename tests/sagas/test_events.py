"""Events and timers: a saga that waits is not in memory, and goes on when there is something to go on with."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import assert_type

import anyio

from fissile import App, Environment
from fissile.database import Saga
from fissile.testing import ManualClock
from tests.sagas.shop import (
    Cancelled,
    Mislaid,
    Place,
    Placed,
    Shipped,
    Shop,
    Stand,
    checkout,
    ended,
    placed,
    running,
    shipped,
    standing,
    waits_at,
)


async def test_an_event_that_comes_before_it_is_waited_for_is_not_lost(database_url: str) -> None:
    shop, parcels = Shop(gate=anyio.Event()), list[int]()

    async def function(order: Placed, saga: Saga) -> None:
        await saga.wait_for(placed, Cancelled, key=order.id)
        for _ in range(3):
            event = await saga.wait_for(shipped, Shipped, key=order.id)
            parcels.append(assert_type(event, Shipped).parcel)

    async with running(shop, checkout(function), database_url) as app:
        await app.bus.execute(Place("A1"))
        await standing(app, "A1", "waiting")
        for parcel in (1, 2):
            await app.bus.publish(Shipped("A1", parcel))
            await app.bus.publish(Mislaid("A1"))  # of another class: passed over
            await app.bus.publish(Shipped("A2", 9))  # of another key
        await idle(app)
        await app.bus.publish(Cancelled("A1"))
        await waits_at(app, "A1", "wait-for pay.shipped")
        await app.bus.publish(Shipped("A1", 3))
        assert (await ended(app, "A1")).status == "completed"
    assert parcels[-3:] == [1, 2, 3]


async def idle(app: App) -> None:
    """Wait until the modules have handled all events."""
    with anyio.fail_after(20):
        for _ in range(3):
            while any(one.consumer is not None and one.consumer.in_hand for one in app.statistics().values()):
                await anyio.sleep(0.01)
            await anyio.sleep(0.02)


async def test_events_of_before_the_saga_are_none_of_its_business(tmp_path: Path) -> None:
    async def function(order: Placed, saga: Saga) -> None:
        await saga.wait_for(shipped, key=order.id)

    async with running(Shop(), checkout(function), tmp_path) as app:
        await app.bus.execute(Place("other"))
        await standing(app, "other", "waiting")
        await app.bus.publish(Shipped("A1"))
        await idle(app)
        await app.bus.execute(Place("A1"))
        await standing(app, "A1", "waiting")
        await idle(app)
        await standing(app, "A1", "waiting")
        await app.bus.publish(Shipped("A1"))
        await ended(app, "A1")


async def test_what_started_a_saga_is_not_the_next_event_of_its_topic(tmp_path: Path) -> None:
    shop, seen = Shop(), list[int]()

    async def function(order: Placed, saga: Saga) -> None:
        event = await saga.wait_for(placed, Placed, key=order.id)
        seen.append(event.total)

    async with running(shop, checkout(function), tmp_path) as app:
        await app.bus.execute(Place("A1", 1))
        await standing(app, "A1", "waiting")
        await app.bus.execute(Place("A1", 2))
        await ended(app, "A1")
    assert seen == [2]


class Quick(ManualClock):
    """A clock that a test moves, on which short pauses are real."""

    async def sleep(self, seconds: float) -> None:
        await (anyio.sleep(seconds) if seconds <= 2.0 else super().sleep(seconds))


async def test_a_timer_of_a_day_takes_a_day(database_url: str) -> None:
    clock, times = Quick(), list[timedelta]()

    async def function(order: Placed, saga: Saga) -> None:
        began = saga.now()
        await saga.sleep(86_400)
        times.append(saga.now() - began)

    async with running(Shop(), checkout(function), database_url, environment=Environment(clock=clock)) as app:
        await app.bus.execute(Place("A1"))
        await standing(app, "A1", "waiting")
        clock.advance(86_399)
        await idle(app)
        assert (await app.bus.ask(Stand("A1"))).status == "waiting"  # type: ignore[union-attr]
        clock.advance(2)
        await ended(app, "A1")
    assert times[0] >= timedelta(days=1)


async def test_a_wait_ends_with_its_time_and_stays_ended(tmp_path: Path) -> None:
    clock, outcomes = Quick(), list[str]()

    async def function(order: Placed, saga: Saga) -> None:
        try:
            await saga.wait_for(shipped, key=order.id, timeout_s=3600)
            outcomes.append("shipped")
        except TimeoutError:
            outcomes.append("timed out")
        event = await saga.wait_for(shipped, key=order.id)
        outcomes.append(type(event).__name__)

    async with running(Shop(), checkout(function), tmp_path, environment=Environment(clock=clock)) as app:
        await app.bus.execute(Place("A1"))
        await standing(app, "A1", "waiting")
        clock.advance(3601)
        while not outcomes:
            await anyio.sleep(0.01)
        await standing(app, "A1", "waiting")
        await app.bus.publish(Shipped("A1"))
        found = await ended(app, "A1")
    assert outcomes == ["timed out", "timed out", "Shipped"]
    assert found.history == ("wait-for pay.shipped: timed-out", "wait-for pay.shipped: replied")


async def test_events_reach_sagas_in_the_order_of_their_key(tmp_path: Path) -> None:
    shop, parcels = Shop(), dict[str, list[int]]()

    async def function(order: Placed, saga: Saga) -> None:
        parcels[order.id] = []
        for _ in range(10):
            parcels[order.id].append((await saga.wait_for(shipped, Shipped, key=order.id)).parcel)

    async with running(shop, checkout(function), tmp_path) as app:
        for name in "ABC":
            await app.bus.execute(Place(name))
            await standing(app, name, "waiting")
        for number in range(10):
            for name in "ABC":
                await app.bus.publish(Shipped(name, number))
        for name in "ABC":
            await ended(app, name)
    assert parcels == {name: list(range(10)) for name in "ABC"}
