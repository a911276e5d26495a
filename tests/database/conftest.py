"""The databases that tests of storage run on: SQLite in the test's folder, and a database of its own in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import monotonic

import anyio
import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table

from fissile import Settings
from fissile.database._dialect import Target
from fissile.database._store import Store
from tests.brokers.postgres import own_postgres as own_postgres
from tests.brokers.postgres import postgres as postgres
from tests.brokers.postgres import postgres_database as postgres_database

tables = MetaData()
notes = Table(
    "notes", tables, Column("id", Integer, primary_key=True), Column("text", String(100), nullable=False, unique=True)
)

SLOW = "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 2000000000) SELECT count(*) FROM r"
"""A statement that takes minutes, on both databases."""


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The setting FISSILE_DATABASE, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'data'}"
    url: str = request.getfixturevalue("postgres_database")
    return url


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    end = monotonic() + 60
    while not condition():
        assert monotonic() < end
        await anyio.sleep(0.01)


def store_of(url: str, module: str = "orders", **settings: object) -> Store:
    """Return the store of a module, not open."""
    given = Settings(database=url, **settings)  # type: ignore[arg-type]  # settings of several types
    return Store(Target.of(module, given, folder=Path(), application="shop"), given)


@pytest.fixture
def store(database_url: str) -> Store:
    """The store of the module orders, not open."""
    return store_of(database_url)
