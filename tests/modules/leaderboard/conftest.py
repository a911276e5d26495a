"""Where the leaderboard is tested: on SQLite with both event loops, on PostgreSQL with one of them."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fissile import Settings
from tests.brokers.postgres import postgres as postgres

_numbers = count(1)


@pytest.fixture(params=["asyncio on sqlite", "trio on sqlite", "asyncio on postgres"])
def place(request: pytest.FixtureRequest) -> str:
    """The event loop and the database of a test."""
    found: str = request.param
    return found


@pytest.fixture
def anyio_backend(place: str) -> tuple[str, dict[str, Any]]:
    """The event loop of a test."""
    return place.partition(" ")[0], {}


@pytest.fixture
def settings(request: pytest.FixtureRequest, place: str, tmp_path: Path) -> Settings:
    """Settings with an empty database."""
    values: dict[str, Any] = {"database": f"sqlite:///{tmp_path / 'data'}"}
    if place.endswith("postgres"):
        url: str = request.getfixturevalue("postgres")
        values = {"database": url, "database_prefix": f"leaderboard{next(_numbers)}_"}
    return Settings(database_migrate=True, partitions=3, commit_interval_s=0.02, drain_s=5.0, **values)
