"""A small module for the gateway's tests: messages of every shape, and handlers that do as they are told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any, Literal
from uuid import UUID

import anyio
from attrs import define, field, frozen

from fissile import Bus, Command, Contract, DeclaredError, Event, Module, Query, Topic

contract = Contract("shop")


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


@frozen
class Item:
    name: str
    count: int = 1


@frozen
class Receipt:
    order_id: str
    total: int
    note: str | None = None


@frozen
class SoldOut(DeclaredError, status=409):
    """There is nothing left of what was ordered."""

    name: str
    left: int


@frozen
class Forbidden(DeclaredError):
    reason: str


@frozen
class Order(Command[Receipt], raises=(SoldOut, Forbidden)):
    """Order items."""

    items: tuple[Item, ...]
    note: str | None = None
    discount: float = 0.0
    labels: Mapping[str, str] = field(factory=dict[str, str])


@frozen
class Cancel(Command[None]):
    """Cancel an order."""

    order_id: str


@frozen
class Behave(Command[str]):
    """Do as told: `fail`, `hang`, or answer."""

    how: str


@frozen
class Find(Query[tuple[str, ...]]):
    """Find orders."""

    limit: int = 10
    price: float = 1.5
    rush: bool = False
    text: str = ""
    size: Size = Size.SMALL
    kind: Literal["a", "b"] = "a"
    level: Literal[1, 2] = 1
    after: datetime | None = None
    id: UUID | None = None
    amount: Decimal | None = None
    tags: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    like: Item | None = None


@frozen
class GetOrder(Query[Receipt | None]):
    """Get one order."""

    order_id: str


@frozen
class OrderPlaced(Event):
    order_id: str
    text: str = ""


@frozen
class OrderCancelled(Event):
    order_id: str


def order_id(event: OrderPlaced | OrderCancelled) -> str:
    return event.order_id


placed: Topic[Any] = Topic("shop.placed", OrderPlaced, OrderCancelled, key=order_id)

module = Module(contract)


@define(eq=False)
class Watch:
    """What tests wait for."""

    hanging: anyio.Event = field(factory=anyio.Event)
    cancelled: anyio.Event = field(factory=anyio.Event)
    go_on: anyio.Event = field(factory=anyio.Event)
    seen: list[object] = field(factory=list)


@module.resource
@asynccontextmanager
async def watch() -> AsyncGenerator[Watch]:
    yield Watch()


@module.command(Order, idempotent=True)
async def order(command: Order, bus: Bus, watch: Watch) -> Receipt:
    watch.seen.append(command)
    for item in command.items:
        if item.name == "unicorn":
            raise SoldOut(item.name, 0)
        if item.name == "sword":
            raise Forbidden("no weapons")
    await bus.publish(OrderPlaced("o1", command.note or ""))
    return Receipt("o1", sum(item.count for item in command.items), command.note)


@module.command(Cancel, idempotent=True)
async def cancel(command: Cancel, bus: Bus) -> None:
    await bus.publish(OrderCancelled(command.order_id))


@module.command(Behave, idempotent=True)
async def behave(command: Behave, watch: Watch) -> str:
    if command.how == "fail":
        raise RuntimeError("secret inside")
    if command.how == "hang":
        watch.hanging.set()
        try:
            await watch.go_on.wait()
        except BaseException:
            watch.cancelled.set()
            raise
    return command.how


@module.query(Find)
async def find(query: Find, watch: Watch) -> tuple[str, ...]:
    watch.seen.append(query)
    return tuple(f"{query.limit}" for _ in range(1))


@module.query(GetOrder)
async def get_order(query: GetOrder) -> Receipt | None:
    return None if query.order_id == "none" else Receipt(query.order_id, 1)
