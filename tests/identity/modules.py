"""Two modules whose messages require scopes, and which call each other: at the level of a file, so that they can be split."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from fissile import Bus, Caller, Command, Contract, Event, Forbidden, Identity, Module, Queries, Query, Topic


@frozen
class Seen:
    """What a handler has seen of who asks."""

    subject: str | None
    kind: str | None = None
    scopes: frozenset[str] = frozenset()
    tenant: str | None = None


def seen(identity: Identity | None) -> Seen:
    return Seen(None) if identity is None else Seen(identity.subject, identity.kind, identity.scopes, identity.tenant)


NOBODY = Seen(None)


@frozen
class PlaceOrder(Command[Seen], requires="orders:write"):
    sku: str = "A1"


@frozen
class PlaceInTurn(Command[Seen], requires="orders:write", key="sku"):
    sku: str = "A1"


@frozen
class ListOrders(Query[Seen], requires="orders:read"):
    pass


@frozen
class WhoAmI(Query[Seen]):
    pass


@frozen
class CheckOut(Command[Seen]):
    """Has billing charge, which requires scopes of its own."""

    acts_for: Literal["caller", "itself", "other"] = "caller"
    how: Literal["execute", "send"] = "execute"


@frozen
class AskBilling(Query[Seen]):
    """Asks billing, for the module itself or for its caller."""

    for_itself: bool


@frozen
class Announce(Command[None]):
    """Publishes an event, whose subscriber tells for whom."""

    key: str


@frozen
class Announced(Event):
    key: str


announced = Topic("orders.announced", Announced, key=lambda event: event.key, requires="orders:watch")
orders_contract = Contract(
    "orders",
    messages=[PlaceOrder, PlaceInTurn, ListOrders, WhoAmI, CheckOut, AskBilling, Announce, Announced],
    topics=[announced],
)


@frozen
class Charge(Command[Seen], requires=("billing:charge", "billing:use")):
    pass


@frozen
class Balance(Query[Seen], requires="billing:use"):
    pass


@frozen
class Noted(Event):
    """What billing has seen of who caused what it handled."""

    what: str
    seen: Seen


noted = Topic("billing.noted", Noted, key=lambda event: event.what)
billing_contract = Contract("billing", messages=[Charge, Balance, Noted], topics=[noted])

orders = Module(orders_contract)
billing = Module(billing_contract)


@orders.command(PlaceOrder, idempotent=True)
async def place_order(command: PlaceOrder, caller: Caller) -> Seen:
    return seen(caller.identity)


@orders.command(PlaceInTurn, idempotent=True)
async def place_in_turn(command: PlaceInTurn, caller: Caller) -> Seen:
    return seen(caller.identity)


@orders.query(ListOrders)
async def list_orders(query: ListOrders, caller: Caller) -> Seen:
    return seen(caller.identity)


@orders.query(WhoAmI)
async def who_am_i(query: WhoAmI, caller: Caller) -> Seen:
    return seen(caller.identity)


@orders.command(CheckOut, idempotent=True)
async def check_out(command: CheckOut, bus: Bus) -> Seen:
    if command.acts_for == "itself":
        bus = bus.acting_as(None)
    elif command.acts_for == "other":
        bus = bus.acting_as(Identity("robot", frozenset({"billing:charge", "billing:use"}), kind="service"))
    if command.how == "send":
        await bus.send(Charge())
        return NOBODY
    try:
        return await bus.execute(Charge())
    except Forbidden as refused:
        return Seen(",".join(refused.missing), "forbidden")


@orders.query(AskBilling)
async def ask_billing(query: AskBilling, bus: Queries) -> Seen:
    if query.for_itself:
        bus = bus.acting_as(None)
    try:
        return await bus.ask(Balance())
    except Forbidden as refused:
        return Seen(",".join(refused.missing), "forbidden")


@orders.command(Announce, idempotent=True)
async def announce(command: Announce, bus: Bus) -> None:
    await bus.publish(Announced(command.key))


@billing.command(Charge, idempotent=True)
async def charge(command: Charge, bus: Bus, caller: Caller) -> Seen:
    await bus.publish(Noted("charge", seen(caller.identity)))
    return seen(caller.identity)


@billing.query(Balance)
async def balance(query: Balance, caller: Caller) -> Seen:
    return seen(caller.identity)


@billing.subscribe(announced, idempotent=True)
async def on_announced(event: Announced, bus: Bus, caller: Caller) -> None:
    await bus.publish(Noted(event.key, seen(caller.identity)))
