"""The module in every placement, on SQLite; and on PostgreSQL."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fissile import Settings
from tests.brokers.postgres import postgres as postgres
from tests.conftest import BACKENDS

_numbers = count(1)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every event loop sees the module in one process; what else there is does not depend on the loop."""
    if "placement" in metafunc.fixturenames:
        asyncio, *others = BACKENDS
        combinations = [(asyncio, place) for place in ("local", "loopback", "postgresql")]
        combinations += [(other, "local") for other in others]
        if metafunc.definition.get_closest_marker("split"):
            combinations.append((asyncio, "split"))
        metafunc.parametrize(
            ("anyio_backend", "placement"),
            [pytest.param(*backend.values, place, id=f"{backend.id}-{place}") for backend, place in combinations],
            indirect=["anyio_backend"],
        )
    elif "anyio_backend" in metafunc.fixturenames:
        metafunc.parametrize("anyio_backend", BACKENDS, indirect=True)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Any:  # Any: as in the one that it stands for
    return request.param


@pytest.fixture
def settings(placement: str, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with an empty database."""
    if placement == "postgresql":
        url: str = request.getfixturevalue("postgres")
        return Settings(database=url, database_prefix=f"challenges{next(_numbers)}_", database_migrate=True)
    return Settings(database=f"sqlite:///{tmp_path}", partitions=2, commit_interval_s=0.05)
