"""A shop: `orders` runs sagas, `pay` does what it is asked, fails when it is told to, and writes down both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from attrs import define, field, frozen
from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select

from fissile import (
    App,
    Bus,
    Caller,
    Command,
    Contract,
    DeclaredError,
    Environment,
    Event,
    Module,
    Query,
    Retry,
    Settings,
    Topic,
    Unavailable,
)
from fissile.database import Database, Saga, Sagas, SagaStatus, Schema, Transaction

QUICK = Retry(attempts=3, first_s=0.01, longest_s=0.02)

order_tables = MetaData()
notes = Table("notes", order_tables, Column("id", Integer, primary_key=True), Column("text", String(100)))
pay_tables = MetaData()
effects = Table("effects", pay_tables, Column("id", Integer, primary_key=True), Column("text", String(100)))


@frozen
class Placed(Event):
    id: str
    total: int = 1


@frozen
class Cancelled(Event):
    id: str


@frozen
class Closed(Event):
    id: str
    text: str


@frozen
class Place(Command[None]):
    """Publish that an order was placed."""

    id: str
    total: int = 1


@frozen
class Begin(Command[str]):
    """Start a saga by a command, and get its id."""

    id: str


@frozen
class Standing:
    status: str
    step: str | None
    error: str | None
    history: tuple[str, ...]


@frozen
class Stand(Query[Standing | None]):
    """Tell where a saga stands."""

    id: str


@frozen
class OutOfStock(DeclaredError):
    item: str


placed: Topic[Placed | Cancelled] = Topic("orders.placed", Placed, Cancelled, key=lambda event: event.id)
closed = Topic("orders.closed", Closed, key=lambda event: event.id)
orders = Contract(
    "orders", messages=(Placed, Cancelled, Closed, Place, Begin, Stand, OutOfStock), topics=(placed, closed)
)


@frozen
class NoMoney(DeclaredError):
    missing: int


@frozen
class Charge(Command[int], raises=(NoMoney,)):
    id: str
    total: int = 1


@frozen
class Refund(Command[None], raises=(NoMoney,)):
    id: str


@frozen
class Ship(Command[None]):
    id: str


@frozen
class Balance(Query[int]):
    id: str


@frozen
class Shipped(Event):
    id: str
    parcel: int = 0


@frozen
class Mislaid(Event):
    id: str


shipped: Topic[Shipped | Mislaid] = Topic("pay.shipped", Shipped, Mislaid, key=lambda event: event.id)
pay = Contract("pay", messages=(NoMoney, Charge, Refund, Ship, Balance, Shipped, Mislaid), topics=(shipped,))


@define(eq=False)
class Shop:
    """The modules, and what they were asked.

    Attributes:
        asked: What `pay` was asked, with the id of the message.
        closed: The texts of `orders.closed`.
        faults: What the next attempts of a message raise, by its class and its id.
        running: How many charges are being made.
        peak: How many there were at most.
        gate: Charges wait for it.
    """

    asked: list[tuple[str, str]] = field(factory=list)
    closed: list[str] = field(factory=list)
    faults: dict[str, list[Exception]] = field(factory=dict)
    running: int = 0
    peak: int = 0
    gate: anyio.Event | None = None

    @property
    def names(self) -> list[str]:
        """What `pay` was asked, in order."""
        return [name for name, _ in self.asked]

    def ask(self, name: str, caller: Caller) -> None:
        self.asked.append((name, caller.message_id))
        if self.faults.get(name):
            raise self.faults[name].pop(0)

    def pay(self) -> Module:
        module = Module(pay, database=Schema(pay_tables, migrations=None))

        async def write(database: Database, text: str) -> None:
            async with database.transaction() as tx:
                await tx.execute(insert(effects).values(text=text))

        @module.command(Charge)
        async def charge(command: Charge, database: Database, caller: Caller) -> int:
            self.running += 1
            self.peak = max(self.peak, self.running)
            try:
                if self.gate is not None:
                    await self.gate.wait()
                await anyio.lowlevel.checkpoint()
                self.ask(f"charge {command.id}", caller)
                await write(database, f"charge {command.id}")
            finally:
                self.running -= 1
            return command.total

        @module.command(Refund)
        async def refund(command: Refund, database: Database, caller: Caller) -> None:
            self.ask(f"refund {command.id}", caller)
            await write(database, f"refund {command.id}")

        @module.command(Ship)
        async def ship(command: Ship, bus: Bus, database: Database, caller: Caller) -> None:
            self.ask(f"ship {command.id}", caller)
            await write(database, f"ship {command.id}")
            await bus.publish(Shipped(command.id))

        @module.query(Balance)
        async def balance(query: Balance) -> int:
            self.asked.append((f"balance {query.id}", ""))
            return len(self.asked)

        _ = charge, refund, ship, balance
        return module

    def orders(self, declare: Callable[[Module], Any]) -> Module:
        """The module with the sagas that a test declares."""
        module = Module(orders, database=Schema(order_tables, migrations=None))

        @module.command(Place)
        async def place(command: Place, bus: Bus) -> None:
            await bus.publish(Placed(command.id, command.total))

        @module.query(Stand)
        async def stand(query: Stand, sagas: Sagas) -> Standing | None:
            found = await sagas.find("checkout", query.id)
            return None if found is None else standing_of(found)

        @module.subscribe(closed, idempotent=True)
        async def on_closed(event: Closed) -> None:
            self.closed.append(event.text)

        declare(module)
        if not any(each.message is Begin for each in module.handlers):

            @module.command(Begin)
            async def begin(command: Begin) -> str:
                return command.id

        _ = place, stand, on_closed
        return module


def standing_of(found: SagaStatus) -> Standing:
    """What a query tells of a saga."""
    history = tuple(
        f"{step.kind} {step.label}: {step.outcome}{', undone' if step.undone else ''}" for step in found.history
    )
    return Standing(found.status, found.step, found.error, history)


async def write_note(tx: Transaction, text: str) -> int:
    """Write a note; return how many there are."""
    await tx.execute(insert(notes).values(text=text))
    return (await tx.execute(select(func.count()).select_from(notes))).scalar_one()


async def pause(saga: Saga) -> None:
    """Wait in a saga until the test says `go_on`, so that its function certainly runs again."""
    await saga.wait_for(placed, Cancelled, key=saga.id)


async def go_on(app: App, id: str) -> None:  # noqa: A002
    """Let a saga go on that waits in `pause`."""
    await waits_at(app, id, "wait-for orders.placed")
    await app.bus.publish(Cancelled(id))


async def waits_at(app: App, id: str, step: str) -> None:  # noqa: A002
    """Wait until a saga waits at a step."""
    with anyio.fail_after(20):
        while (await standing(app, id, "waiting")).step != step:
            await anyio.sleep(0.01)


Function = Callable[[Placed, Saga], Coroutine[Any, Any, None]]


def checkout(function: Function, *, retry: Retry = QUICK) -> Callable[[Module], Any]:
    """Declare a function as the saga `checkout` of placed orders, which may wait for what is shipped, and for what is cancelled."""
    return lambda module: module.saga(
        placed, Placed, id=lambda event: event.id, awaits=[shipped, placed], name="checkout", retry=retry
    )(function)


@asynccontextmanager
async def running(
    shop: Shop,
    declare: Callable[[Module], Any],
    database: str | Path,
    *,
    environment: Environment | None = None,
    bus: str = "memory://",
    **settings: Any,
) -> AsyncIterator[App]:
    """The shop, running on a database."""
    url = f"sqlite:///{database}" if isinstance(database, Path) else database
    values = {"saga_claim_s": 1.0, "drain_s": 2.0, "partitions": 2, "bus": bus, **settings}
    app = App(
        [shop.orders(declare), shop.pay()],
        settings=Settings(database=url, **values),
        environment=environment or Environment(),
        is_dev=True,
    )
    async with app:
        yield app


async def standing(app: App, id: str, *states: str) -> Standing:  # noqa: A002
    """Wait until a saga is in one of these states, and tell where it stands."""
    with anyio.fail_after(20):
        while True:
            found = await app.bus.ask(Stand(id))
            if found is not None and found.status in states:
                return found
            await anyio.sleep(0.01)


async def ended(app: App, id: str) -> Standing:  # noqa: A002
    """Wait until a saga needs nothing but perhaps a person."""
    return await standing(app, id, "completed", "compensated", "failed", "stuck")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.01)


def away(count: int) -> Sequence[Exception]:
    """So many attempts that fail in a way that nobody has declared."""
    return [Unavailable("away") for _ in range(count)]
