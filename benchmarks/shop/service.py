"""A command that writes one row and publishes one event, and a subscriber of another module."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

from fissile import Command, Contract, Event, Module, Topic
from fissile.database import Database, Schema

metadata = MetaData()
orders = Table("orders", metadata, Column("seq", Integer, primary_key=True), Column("name", String(100)))


@frozen
class Placed(Event):
    """An order was placed."""

    name: str


@frozen
class Place(Command[None]):
    """Place an order."""

    name: str


placed = Topic("shop.placed", Placed, key=lambda event: event.name)
contract = Contract("shop", messages=[Place, Placed], topics=[placed])


def shop() -> Module:
    """Make the module that places orders."""
    module = Module(contract, database=Schema(metadata, migrations=None))

    @module.command(Place)
    async def place(command: Place, database: Database) -> None:
        async with database.transaction() as tx:
            await tx.execute(insert(orders).values(name=command.name))
            tx.publish(Placed(command.name))

    return module


def ledger(told: Callable[[str], None]) -> Module:
    """Make the module that hears of them; it has no database.

    Args:
        told: Called with the name of each order.
    """
    module = Module(Contract("ledger", messages=[], topics=[]))

    @module.subscribe(placed)
    async def on_placed(event: Placed) -> None:
        told(event.name)

    return module
