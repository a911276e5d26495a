"""The floor of a durable command: the same two inserts, written by hand with SQLAlchemy in worker threads, and nothing else.

One writer at a time on SQLite, as it has no more; a pool of ten connections on PostgreSQL. Both are flushed to disk at each commit.
"""

from __future__ import annotations

from typing import Any

import anyio
import anyio.to_thread
from sqlalchemy import Column, Engine, Integer, LargeBinary, MetaData, String, Table, create_engine, event, insert

metadata = MetaData()
orders = Table("floor_orders", metadata, Column("seq", Integer, primary_key=True), Column("name", String(100)))
outbox = Table(
    "floor_outbox",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("topic", String(100)),
    Column("body", LargeBinary),
)


class Floor:
    """Two inserts and a commit.

    Args:
        url: SQLAlchemy's URL of the database.
    """

    def __init__(self, url: str) -> None:
        self.engine: Engine
        if url.startswith("sqlite"):
            self.engine = create_engine(url, pool_size=1)
            event.listen(self.engine, "connect", _prepare)
            event.listen(self.engine, "begin", _begin)
        else:
            self.engine = create_engine(url, pool_size=10)
        metadata.drop_all(self.engine)
        metadata.create_all(self.engine)
        self.limiter = anyio.CapacityLimiter(1 if url.startswith("sqlite") else 10)

    async def place(self, name: str) -> None:
        """Write the two rows durably."""
        await anyio.to_thread.run_sync(self._place, name, limiter=self.limiter)

    def _place(self, name: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(insert(orders).values(name=name))
            connection.execute(insert(outbox).values(topic="shop.placed", body=f'{{"name":"{name}"}}'.encode()))


def _prepare(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # BEGIN is said below, and not by the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
