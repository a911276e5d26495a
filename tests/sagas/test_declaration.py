"""What is wrong with a saga is found at start, with its place and its cure; and sagas mean the same in every placement."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import frozen

from fissile import App, Bus, Clock, Contract, Event, HandlerFailed, Module, Queries, Settings, Topic
from fissile.database import Database, Saga
from tests.sagas.shop import (
    Begin,
    Charge,
    Place,
    Placed,
    Ship,
    Shop,
    Stand,
    checkout,
    closed,
    ended,
    orders,
    pay,
    placed,
    running,
    shipped,
    standing,
)


@frozen
class Started(Event):
    """Something has begun."""


class Sink:
    """No resource of any module."""


def faults(declare: Callable[[Module], Any]) -> str:
    shop = Shop()
    return "\n".join(str(fault) for fault in App([shop.orders(declare), shop.pay()]).check())


async def good(order: Placed, saga: Saga) -> None:
    """Do nothing."""


def test_a_good_saga_has_no_faults() -> None:
    assert faults(checkout(good)) == ""


def test_parameters_that_are_not_the_same_each_time_are_refused_with_what_to_take() -> None:
    async def bad(order: Placed, saga: Saga, bus: Bus, database: Database, clock: Clock, ask: Queries) -> None:
        """Take what it should not."""

    told = faults(lambda module: module.saga(placed, Placed, id=lambda event: event.id)(bad))
    for cure in ("saga.execute", "saga.transaction()", "saga.now()", "saga.ask"):
        assert cure in told
    assert told.count(Path(__file__).name) == 4


def test_the_signature_is_checked() -> None:
    async def no_saga(order: Placed, sink: Sink) -> None:
        """Take no saga."""

    async def replies(order: Placed, saga: Saga) -> int:
        """Return something."""
        return 1

    def is_sync(order: Placed, saga: Saga) -> None:
        """Not async."""

    def declare(module: Module) -> None:
        for number, function in enumerate((no_saga, replies, is_sync)):
            starting: Any = module.saga(placed, Placed, id=lambda event: event.id, name=f"{number}")
            starting(function)
        wide: Any = module.saga(placed, id=lambda event: event.id, name="wide")
        wide(good)

    told = faults(declare)
    assert "The second parameter of" in told
    assert "takes sink: Sink, which nobody gives to a saga" in told
    assert "returns a value, and a saga has no reply" in told
    assert "is a saga and not async" in told
    assert "takes Placed and would get Cancelled too" in told


def test_two_sagas_of_one_name_are_refused() -> None:
    def declare(module: Module) -> None:
        checkout(good)(module)
        checkout(good)(module)

    assert "two sagas that are called 'checkout'" in faults(declare)


def test_a_saga_needs_a_database() -> None:
    topic = Topic("alone.started", Started, key=lambda event: "x")
    module = Module(Contract("alone", messages=(Started,), topics=(topic,)))

    async def lone(event: Started, saga: Saga) -> None:
        """Have no database."""

    module.saga(topic, id=lambda event: "x")(lone)
    assert "has no database to keep its history" in "\n".join(str(fault) for fault in App([module]).check())


def test_the_command_that_starts_a_saga_has_no_other_handler() -> None:
    def declare(module: Module) -> None:
        @module.saga(Begin)
        async def begun(command: Begin, saga: Saga) -> None:
            """Begin."""

        @module.command(Begin)
        async def begin(command: Begin) -> str:
            return ""

        _ = begun, begin

    assert "has two handlers" in faults(declare)


async def test_a_topic_that_is_not_declared_cannot_be_waited_for(tmp_path: Path) -> None:
    async def function(order: Placed, saga: Saga) -> None:
        await saga.wait_for(closed, key=order.id)

    async with running(Shop(), checkout(function), tmp_path) as app:
        await app.bus.execute(Place("A1"))
        found = await ended(app, "A1")
    assert found.status == "compensated"
    assert found.error is not None
    assert "awaits=[...]" in found.error


@pytest.mark.parametrize("id_", ["", "x" * 201, "a\x00b"], ids=["empty", "long", "nul"])
async def test_an_id_that_cannot_be_one_is_refused(tmp_path: Path, id_: str) -> None:
    def declare(module: Module) -> None:
        @module.saga(Begin, id=lambda command: id_)
        async def begun(command: Begin, saga: Saga) -> None:
            """Begin."""

        _ = begun

    async with running(Shop(), declare, tmp_path) as app:
        with pytest.raises(HandlerFailed, match="1 to 200 characters"):
            await app.bus.execute(Begin("A1"))


async def test_apart_it_is_as_together(tmp_path: Path) -> None:
    """The saga's module and the one that it calls in two processes, over a log in a file."""
    shop = Shop()

    async def function(order: Placed, saga: Saga) -> None:
        assert await saga.gather([Charge(f"{number}", number) for number in range(3)]) == [0, 1, 2]
        await saga.wait_for(shipped, key=order.id)

    settings = Settings(database=f"sqlite:///{tmp_path}", bus=f"sqlite:///{tmp_path / 'log'}", partitions=2)
    async with (
        App([shop.pay()], contracts=[orders], settings=settings, is_dev=True),
        App([shop.orders(checkout(function))], contracts=[pay], settings=settings, is_dev=True) as app,
    ):
        await app.bus.execute(Place("A1"))
        await standing(app, "A1", "running", "waiting")  # what is shipped before it began is not for it
        await app.bus.send(Ship("A1"))
        assert (await ended(app, "A1")).status == "completed"
        assert await app.bus.ask(Stand("A1")) is not None
    assert sorted(shop.names) == ["charge 0", "charge 1", "charge 2", "ship A1"]
