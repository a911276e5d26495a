"""How the tests of a module with a database are divided: every placement, both databases, each event loop once."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from fissile import Settings
from tests.conftest import BACKENDS

_numbers = count(1)


def divide(metafunc: pytest.Metafunc, *, on_postgresql: bool) -> None:
    """Every event loop sees the module in one process; what else there is does not depend on the loop.

    Args:
        metafunc: The test.
        on_postgresql: Whether it runs on PostgreSQL, too.
    """
    if "placement" in metafunc.fixturenames:
        asyncio, *others = BACKENDS
        combinations = [(asyncio, place) for place in ("local", "loopback")]
        if on_postgresql:
            combinations.append((asyncio, "postgresql"))
        if metafunc.definition.get_closest_marker("split"):
            combinations.append((asyncio, "split"))
        combinations += [(other, "local") for other in others]
        metafunc.parametrize(
            ("anyio_backend", "placement"),
            [pytest.param(*backend.values, place, id=f"{backend.id}-{place}") for backend, place in combinations],
            indirect=["anyio_backend"],
        )
    elif "anyio_backend" in metafunc.fixturenames:
        metafunc.parametrize("anyio_backend", BACKENDS, indirect=True)


def settings_with_empty_database(placement: str, request: pytest.FixtureRequest, folder: Path) -> Settings:
    """Return settings of a test."""
    if placement == "postgresql":
        url: str = request.getfixturevalue("postgres")
        return Settings(database=url, database_prefix=f"module{next(_numbers)}_", database_migrate=True)
    return Settings(database=f"sqlite:///{folder}", partitions=2, commit_interval_s=0.05)
