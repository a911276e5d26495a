"""Each test of effects runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fissile import Settings
from tests.brokers.postgres import postgres as postgres

_numbers = count(1)


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with an empty database: a folder, or schemas of the test's own (a database of its own would take a second to make)."""
    values: dict[str, Any] = {"database": f"sqlite:///{tmp_path / 'data'}"}
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres")
        values = {"database": url, "database_prefix": f"effects{next(_numbers)}_"}
    return Settings(database_migrate=True, partitions=4, commit_interval_s=0.02, drain_s=5.0, **values)
