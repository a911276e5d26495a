"""The second version of a contract: its messages have the names of the first, and other fields."""

from __future__ import annotations

from attrs import frozen

from fissile import Bus, Command, Contract, Event, Module, Query, Topic

contract = Contract("orders", version=2)


@frozen
class Order:
    sku: str
    count: int


@frozen
class Placed(Event):
    sku: str
    count: int


@frozen
class PlaceOrder(Command[Order]):
    sku: str
    count: int


@frozen
class FindOrders(Query[tuple[str, ...]]):
    pass


placed = Topic("orders-v2.placed", Placed, key=lambda event: event.sku)

module = Module(contract)
orders: list[str] = []


@module.command(PlaceOrder, idempotent=True)
async def place(command: PlaceOrder, bus: Bus) -> Order:
    await bus.publish(Placed(command.sku, command.count))
    orders.append(command.sku)
    return Order(command.sku, command.count)


@module.query(FindOrders)
async def find(query: FindOrders) -> tuple[str, ...]:
    return tuple(orders)
