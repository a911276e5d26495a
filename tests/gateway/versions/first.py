"""The first version of a contract, deprecated; it goes on in terms of the second."""

from __future__ import annotations

from datetime import UTC, date, datetime

from attrs import frozen

from fissile import Bus, Command, Contract, Event, Module, Topic
from tests.gateway.versions import second

contract = Contract(
    "orders",
    deprecated=date(2026, 1, 31),
    sunset=datetime(2027, 1, 31, 12, tzinfo=UTC),
    deprecation_url="https://example.test/orders-v2",
)


@frozen
class Placed(Event):
    sku: str


@frozen
class PlaceOrder(Command[str]):
    sku: str


placed = Topic("orders.placed", Placed, key=lambda event: event.sku)

module = Module(contract)


@module.command(PlaceOrder, idempotent=True)
async def place(command: PlaceOrder, bus: Bus) -> str:
    order = await bus.execute(second.PlaceOrder(command.sku, 1))
    return order.sku
