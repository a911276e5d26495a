"""A shop with a database: what the tests of the inbox and the outbox handle."""

from __future__ import annotations

from typing import Any

from attrs import define, field, frozen
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select

from fissile import Bus, Caller, Command, Contract, DeclaredError, Event, Module, Queries, Query, Topic
from fissile.database import Database, Schema

metadata = MetaData()
orders = Table(
    "orders", metadata, Column("seq", Integer, primary_key=True), Column("name", String(100), nullable=False)
)


@frozen
class Placed(Event):
    name: str
    number: int


@frozen
class SoldOut(DeclaredError):
    name: str


@frozen
class Place(Command[int], raises=(SoldOut,)):
    """Write an order; `how` says what happens around it."""

    name: str
    how: str = ""


@frozen
class Note(Command[None]):
    text: str


@frozen
class Count(Query[int]):
    name: str


@frozen
class Meddle(Query[None]):
    """A query whose handler tries to write."""


placed = Topic("shop.placed", Placed, key=lambda event: event.name)
contract = Contract("shop")


@define(eq=False)
class Hooks:
    """What a test does in the middle of a handler."""

    before: Any = None
    inside: Any = None
    after: Any = None
    is_sold_out: bool = False
    handled: list[str] = field(factory=list)
    noted: list[str] = field(factory=list)
    seen: list[tuple[str, int]] = field(factory=list)


def make(hooks: Hooks, *, idempotent: bool = False, subscribes: bool = True) -> Module:
    """The module, with the test's hooks in it."""
    module = Module(contract, database=Schema(metadata, migrations=None))

    @module.command(Place, idempotent=idempotent)
    async def place(command: Place, database: Database, bus: Bus) -> int:
        hooks.handled.append(command.name)
        if hooks.before is not None:
            await hooks.before(bus)
        if command.how == "sold out before" or (command.how == "ask" and hooks.is_sold_out):
            raise SoldOut(command.name)
        async with database.transaction() as tx:
            await tx.execute(insert(orders).values(name=command.name))
            number = (await tx.execute(select(func.count()).select_from(orders))).scalar_one()
            tx.publish(Placed(command.name, number))
            if hooks.inside is not None:
                await hooks.inside(bus)
            if command.how == "sold out inside":
                raise SoldOut(command.name)
        if command.how == "send":
            await bus.send(Note(command.name))
        if hooks.after is not None:
            await hooks.after(bus)
        if command.how == "fail after":
            raise RuntimeError("after all")
        if command.how == "two":
            async with database.transaction() as tx:
                await tx.execute(insert(orders).values(name=command.name))
        if command.how == "inner":
            try:
                async with database.transaction() as tx:
                    await tx.execute(insert(orders).values(name="inner"))
                    tx.publish(Placed("inner", 0))
                    raise KeyError("given up")
            except KeyError:
                pass
        return int(number)

    @module.command(Note)
    async def note(command: Note, caller: Caller) -> None:
        hooks.noted.append(f"{command.text} {caller.message_id}")

    @module.query(Count)
    async def count(query: Count, database: Database) -> int:
        statement = select(func.count()).select_from(orders).where(orders.c.name == query.name)
        return int((await database.read(statement)).scalar_one())

    @module.query(Meddle)
    async def meddle(query: Meddle, database: Database, bus: Queries) -> None:
        async with database.transaction():
            pass

    if subscribes:

        @module.subscribe(placed)
        async def on_placed(event: Placed) -> None:
            hooks.seen.append((event.name, event.number))

    return module
