"""Aggregates record events, which are published when what they decided is committed."""

from __future__ import annotations

import anyio
import anyio.to_thread
import pytest
from attrs import define, field, frozen
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, text

from fissile import App, Command, Contract, DeclaredError, Event, HandlerFailed, Module, Settings, Topic
from fissile.database import Aggregate, ConcurrentChange, Database, Repository, Schema
from tests.runtime.helpers import until

metadata = MetaData()
carts = Table(
    "carts",
    metadata,
    Column("id", String(50), primary_key=True),
    Column("total", Integer, nullable=False),
    Column("version", Integer, nullable=False),
)


@frozen
class ItemAdded(Event):
    cart: str
    price: int


@frozen
class TooMuch(DeclaredError):
    total: int


@frozen
class AddItem(Command[int], raises=(TooMuch,)):
    cart: str
    price: int
    how: str = ""


added = Topic("carts.added", ItemAdded, key=lambda event: event.cart)
contract = Contract("carts")


@define(eq=False)
class Cart(Aggregate):
    id: str
    total: int = 0

    def add(self, price: int) -> None:
        if self.total + price > 100:
            raise TooMuch(self.total)
        self.total += price
        self.record(ItemAdded(self.id, price))


repository = Repository(Cart, carts)


@define(eq=False)
class Steps:
    """How far the handlers are, and whether they may go on after they have saved."""

    begun: int = 0
    saved: int = 0
    may_go_on: anyio.Event = field(factory=anyio.Event)


def make(seen: list[ItemAdded], steps: Steps | None = None) -> Module:
    module = Module(contract, database=Schema(metadata, migrations=None))

    @module.command(AddItem)
    async def add_item(command: AddItem, database: Database) -> int:
        if steps is not None:
            steps.begun += 1
        async with database.transaction() as tx:
            cart = Cart(id=command.cart)
            if command.how != "unseen":
                cart = await repository.find(tx, command.cart) or cart
            cart.add(command.price)
            if command.how == "meanwhile":
                other = await repository.find(tx, command.cart)
                assert other is not None
                other.add(1)
                await repository.save(tx, other)
            await repository.save(tx, cart)
            if steps is not None:
                steps.saved += 1
                await steps.may_go_on.wait()
            if command.how == "fail":
                raise RuntimeError("after the save")
        return cart.version

    @module.subscribe(added)
    async def on_added(event: ItemAdded) -> None:
        seen.append(event)

    return module


def waiting(settings: Settings) -> int:
    """How many statements wait for the end of another transaction of the module."""
    engine = create_engine(settings.database.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        found = connection.execute(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO carts%'"
            )
        ).scalar_one()
    engine.dispose()
    return int(found)


def test_an_aggregate_is_tested_without_a_database() -> None:
    cart = Cart(id="a")
    cart.add(60)
    assert cart.recorded == (ItemAdded("a", 60),)
    with pytest.raises(TooMuch):
        cart.add(60)


async def test_what_an_aggregate_recorded_is_published_when_it_is_saved_and_committed(settings: Settings) -> None:
    seen: list[ItemAdded] = []
    async with App([make(seen)], settings=settings) as app:
        assert [await app.bus.execute(AddItem("a", price)) for price in (30, 20)] == [1, 2]
        with pytest.raises(TooMuch) as refused:
            await app.bus.execute(AddItem("a", 60))
        assert refused.value == TooMuch(50)
        with pytest.raises(HandlerFailed):
            await app.bus.execute(AddItem("a", 10, "fail"))
        assert await app.bus.execute(AddItem("a", 50)) == 3
        await until(lambda: len(seen) == 3)
    assert [event.price for event in seen] == [30, 20, 50]


async def test_a_change_of_somebody_else_since_the_load_is_noticed(settings: Settings) -> None:
    seen: list[ItemAdded] = []
    async with App([make(seen)], settings=settings) as app:
        await app.bus.execute(AddItem("a", 30))
        with pytest.raises(HandlerFailed, match=r"ConcurrentChange.*Cart 'a' is no longer at version 1"):
            await app.bus.execute(AddItem("a", 10, "meanwhile"))
        assert await app.bus.execute(AddItem("a", 10)) == 2
        await until(lambda: len(seen) == 2)


async def test_two_that_make_the_same_at_the_same_time_are_told_so_too(settings: Settings) -> None:
    seen, steps, outcomes = list[ItemAdded](), Steps(), list[int | str]()
    async with App([make(seen, steps)], settings=settings) as app, anyio.create_task_group() as tasks:

        async def add() -> None:
            try:
                outcomes.append(await app.bus.execute(AddItem("a", 1, "unseen")))
            except HandlerFailed as failed:
                outcomes.append(f"{failed.error_type}: {failed.error_text}")

        tasks.start_soon(add)
        await until(lambda: steps.saved == 1)
        tasks.start_soon(add)  # neither sees the row of the other: the first has not been committed
        await until(lambda: steps.begun == 2)
        while settings.database.startswith("postgresql") and not await anyio.to_thread.run_sync(waiting, settings):
            await anyio.sleep(0.01)
        steps.may_go_on.set()
        await until(lambda: len(outcomes) == 2)
        made, told = sorted(
            outcomes, key=lambda outcome: isinstance(outcome, str)
        )  # the second may be told before the first has its reply
        assert made == 1
        assert str(told).startswith("ConcurrentChange: Cart 'a' is no longer at version 0")
        await until(lambda: seen)
    assert seen == [ItemAdded("a", 1)]


def test_a_table_that_does_not_fit_the_class_is_refused() -> None:
    table = Table("other", MetaData(), Column("id", String(50), primary_key=True))
    with pytest.raises(TypeError, match=r"total, version is not there|version, total is not there"):
        Repository(Cart, table)
    assert issubclass(ConcurrentChange, Exception)
