"""The end state, seen from outside of all processes: the rows of both databases, and how far the groups are in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from attrs import field, frozen
from sqlalchemy import create_engine, text

from fissile import Settings
from fissile.transports._sqlite_options import path_of
from fissile.transports._sqlite_view import looking_at

GROUPS = {"orders": ("orders.requests",), "ledger": ("ledger.requests", "orders.placed")}
"""The topics that each module reads."""


@frozen
class Order:
    """A row of the orders."""

    message_id: str
    key: str
    number: int
    token: str


@frozen
class Entry:
    """A row of the ledger, in its order."""

    order_id: str
    key: str
    number: int
    token: str


@frozen
class Seen:
    """An event that the tap has read: its id, and what it is about."""

    id: str
    order_id: str
    key: str
    number: int


@frozen
class EndState:
    """What is there when all is done.

    Attributes:
        orders: The rows of the orders.
        reminders: The orders that were reminded of, one per reminder.
        entries: The rows of the ledger, in the order in which they were written.
        ticks: The ids of the ticks that were handled, one per row.
        noted_ticks: How many ticks were certainly sent.
        seen: What the ledger's events came to, in the order of the log.
        letters: The orders whose events are dead letters at the end, one per letter.
        waiting: How many rows are in the outboxes.
        behind: Where a group is not at the end of the log.
    """

    orders: Sequence[Order] = ()
    reminders: Sequence[str] = ()
    entries: Sequence[Entry] = ()
    ticks: Sequence[str] = ()
    noted_ticks: int = 0
    seen: Sequence[Seen] = ()
    letters: Sequence[str] = ()
    waiting: int = 0
    behind: Sequence[str] = field(default=())


def rows(settings: Settings, module: str, query: str) -> list[tuple[object, ...]]:
    """Ask a module's database; `{}` in the query stands for the place of its tables."""
    url = settings.database.replace("postgresql://", "postgresql+psycopg://")
    name, place = f"{settings.database_prefix}{module}", ""
    if url.startswith("sqlite"):
        url = f"{url}/{name}.sqlite3"
    else:
        place = f"{name}."
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query.format(place)))]
    finally:
        engine.dispose()


def waiting(settings: Settings) -> int:
    """Count what is in the outboxes."""
    found = [rows(settings, module, "SELECT count(*) FROM {}fissile_outbox") for module in GROUPS]
    return sum(int(str(row[0][0])) for row in found)


def behind(settings: Settings) -> list[str]:
    """Tell where a group has not committed the end of a partition."""
    found: list[str] = []
    for group, topics in GROUPS.items():
        committed, ends = (_in_file if settings.bus.startswith("sqlite") else _in_kafka)(settings, group, topics)
        for place, end in ends.items():
            if end and committed.get(place) != end:
                found.append(f"{group}: {place[0]}[{place[1]}] is at {committed.get(place)} of {end}")
    return found


Offsets = dict[tuple[str, int], int]


def _in_file(settings: Settings, group: str, topics: Sequence[str]) -> tuple[Offsets, Offsets]:
    with looking_at(path_of(settings.bus)) as view:
        assert view is not None
        partitions = [(topic, number) for topic in topics for number in range(settings.partitions)]
        return view.committed(group, partitions), view.bounds(partitions)[1]


def _in_kafka(settings: Settings, group: str, topics: Sequence[str]) -> tuple[Offsets, Offsets]:
    return asyncio.run(_ask_kafka(settings, group, topics))


async def _ask_kafka(settings: Settings, group: str, topics: Sequence[str]) -> tuple[Offsets, Offsets]:
    from aiokafka import AIOKafkaConsumer, TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient

    servers, prefix = settings.bus.removeprefix("kafka://"), settings.kafka_prefix
    partitions = [(topic, number) for topic in topics for number in range(settings.partitions)]
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    consumer = AIOKafkaConsumer(bootstrap_servers=servers)
    try:
        await admin.start()
        await consumer.start()
        offsets = await admin.list_consumer_group_offsets(prefix + group)
        ends = await consumer.end_offsets([TopicPartition(prefix + topic, number) for topic, number in partitions])
    finally:
        await consumer.stop()
        await admin.close()
    committed = {
        (place.topic.removeprefix(prefix), place.partition): one.offset
        for place, one in offsets.items()
        if one.offset >= 0
    }
    return committed, {(place.topic.removeprefix(prefix), place.partition): end for place, end in ends.items()}


def read_state(
    settings: Settings,
    *,
    noted_ticks: int,
    seen: Sequence[Seen],
    letters: Sequence[str],
    waiting: int,
    behind: Sequence[str],
) -> EndState:
    """Read the end state."""
    orders = rows(settings, "orders", "SELECT message_id, key, number, token FROM {}orders ORDER BY seq")
    reminders = rows(settings, "orders", "SELECT order_id FROM {}reminders")
    entries = rows(settings, "ledger", "SELECT order_id, key, number, token FROM {}entries ORDER BY seq")
    ticks = rows(settings, "ledger", "SELECT message_id FROM {}ticks")
    return EndState(
        [Order(str(a), str(b), int(str(c)), str(d)) for a, b, c, d in orders],
        [str(row[0]) for row in reminders],
        [Entry(str(a), str(b), int(str(c)), str(d)) for a, b, c, d in entries],
        [str(row[0]) for row in ticks],
        noted_ticks,
        list(seen),
        list(letters),
        waiting,
        list(behind),
    )


def file_of(settings: Settings, module: str) -> Path:
    """Return the file of a module's SQLite database."""
    return Path(settings.database.removeprefix("sqlite:///")) / f"{settings.database_prefix}{module}.sqlite3"
