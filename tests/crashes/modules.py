"""Two modules with a database each: `orders` takes commands, `ledger` follows what they came to. Their rows are the end state of a test.

Neither table has a constraint that would hide an effect that happens twice.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

from attrs import frozen
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

from fissile import Caller, Command, Contract, DeclaredError, Event, Module, Retry, Topic
from fissile.database import Database, Schema

REMIND_S = 0.2
"""How long after an order its reminder is due, in seconds."""


@frozen
class SoldOut(DeclaredError):
    """An answer that is kept like a reply; `token` is new each time the handler runs."""

    token: str


@frozen
class Place(Command[str], raises=(SoldOut,)):
    """Is executed: the reply is a token that is new each time the handler runs."""

    key: str
    number: int


@frozen
class Note(Command[None], key="key"):
    """Is sent: nobody waits for it. Those of one key are handled in their order."""

    key: str
    number: int


@frozen
class Remind(Command[None]):
    """Is sent by a handler, for later."""

    order_id: str


@frozen
class Tick(Command[None]):
    """Is due each second."""


@frozen
class Placed(Event):
    order_id: str
    key: str
    number: int
    token: str


@frozen
class Entered(Event):
    """What the ledger publishes for each event that it has entered."""

    order_id: str
    key: str
    number: int


placed = Topic("orders.placed", Placed, key=lambda event: event.key)
entered = Topic("ledger.entered", Entered, key=lambda event: event.key)
orders_contract = Contract("orders", messages=[SoldOut, Place, Note, Remind, Placed], topics=[placed])
ledger_contract = Contract("ledger", messages=[Tick, Entered], topics=[entered])

orders_metadata, ledger_metadata = MetaData(), MetaData()
orders_rows = Table(
    "orders",
    orders_metadata,
    Column("seq", Integer, primary_key=True),
    Column("message_id", String(100), nullable=False),
    Column("key", String(20), nullable=False),
    Column("number", Integer, nullable=False),
    Column("token", String(32), nullable=False),
)
reminders = Table(
    "reminders",
    orders_metadata,
    Column("seq", Integer, primary_key=True),
    Column("order_id", String(100), nullable=False),
)
entries = Table(
    "entries",
    ledger_metadata,
    Column("seq", Integer, primary_key=True),
    Column("order_id", String(100), nullable=False),
    Column("key", String(20), nullable=False),
    Column("number", Integer, nullable=False),
    Column("token", String(32), nullable=False),
)
ticks = Table(
    "ticks",
    ledger_metadata,
    Column("seq", Integer, primary_key=True),
    Column("message_id", String(100), nullable=False),
)


def is_sold_out(number: int) -> bool:
    """Tell which commands come to a declared error."""
    return number % 7 == 3


def has_reminder(number: int) -> bool:
    """Tell which orders have a reminder."""
    return number % 4 == 1


def is_poison(number: int) -> bool:
    """Tell which events the ledger cannot handle until it is cured, so that they become dead letters."""
    return number % 9 == 5


def make_orders() -> Module:
    """Make the module that takes commands."""
    module = Module(orders_contract, database=Schema(orders_metadata, migrations=None))

    async def write(database: Database, message_id: str, key: str, number: int) -> str:
        token = uuid4().hex
        async with database.transaction() as tx:
            row = {"message_id": message_id, "key": key, "number": number, "token": token}
            await tx.execute(insert(orders_rows).values(**row))
            tx.publish(Placed(message_id, key, number, token))
            if has_reminder(number):
                tx.send(Remind(message_id), at=datetime.now(UTC) + timedelta(seconds=REMIND_S))
        return token

    @module.command(Place)
    async def place(command: Place, database: Database, caller: Caller) -> str:
        token = await write(database, caller.message_id, command.key, command.number)
        if is_sold_out(command.number):
            raise SoldOut(token)
        return token

    @module.command(Note)
    async def note(command: Note, database: Database, caller: Caller) -> None:
        await write(database, caller.message_id, command.key, command.number)

    @module.command(Remind)
    async def remind(command: Remind, database: Database) -> None:
        async with database.transaction() as tx:
            await tx.execute(insert(reminders).values(order_id=command.order_id))

    return module


def make_ledger(*, is_cured: bool = False) -> Module:
    """Make the module that follows what the other one publishes; until it is cured, some events are poison to it."""
    module = Module(ledger_contract, database=Schema(ledger_metadata, migrations=None))

    @module.subscribe(placed, retry=Retry(attempts=2, first_s=0.02))
    async def enter(event: Placed, database: Database) -> None:
        row = {"order_id": event.order_id, "key": event.key, "number": event.number, "token": event.token}
        async with database.transaction() as tx:
            await tx.execute(insert(entries).values(**row))
            tx.publish(Entered(event.order_id, event.key, event.number))
        if is_poison(event.number) and not is_cured:
            raise ValueError("this one is poison")

    @module.command(Tick)
    async def tick(command: Tick, database: Database, caller: Caller) -> None:
        async with database.transaction() as tx:
            await tx.execute(insert(ticks).values(message_id=caller.message_id))

    module.schedule("tick", "* * * * * *", Tick())
    return module
