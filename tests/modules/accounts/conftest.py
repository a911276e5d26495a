"""The module in one process and through the log, on SQLite; and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from itertools import count
from pathlib import Path

import pytest

from fissile import Settings
from tests.brokers.postgres import postgres as postgres
from tests.modules.accounts.accounts import Running, running

_numbers = count(1)


@pytest.fixture(params=["local", "loopback", "postgresql"])
def placement(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def settings(placement: str, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with an empty database."""
    if placement == "postgresql":
        url: str = request.getfixturevalue("postgres")
        return Settings(database=url, database_prefix=f"accounts{next(_numbers)}_", database_migrate=True)
    return Settings(database=f"sqlite:///{tmp_path}", partitions=2, commit_interval_s=0.05)


@pytest.fixture
async def here(settings: Settings, placement: str) -> AsyncGenerator[Running]:
    async with running(settings, placement) as started:
        yield started
