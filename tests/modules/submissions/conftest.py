"""The application with submissions, in every placement."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from fissile.testing import PLACEMENTS, Placement
from tests.brokers.postgres import own_postgres as own_postgres
from tests.brokers.postgres import postgres as postgres
from tests.brokers.postgres import postgres_database as postgres_database

from .court import Court, court, settings_of


@pytest.fixture(params=PLACEMENTS)
def placement(request: pytest.FixtureRequest) -> Placement:
    found: Placement = request.param
    return found


@pytest.fixture
async def opened(placement: Placement, broker: str | None, tmp_path: Path) -> AsyncGenerator[Court]:
    async with court(placement, settings_of(tmp_path), broker=broker) as found:
        yield found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Try each placement on one event loop only, unless there is time: the runtime below is tested with all of them."""
    if os.environ.get("FISSILE_TEST_SOAK", "0") not in ("", "0"):
        return
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    twice = [item for item in here if any(word in item.name for word in ("uvloop", "trio-local", "asyncio-loopback"))]
    if twice:
        config.hook.pytest_deselected(items=twice)
        items[:] = [item for item in items if item not in twice]
