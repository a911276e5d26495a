"""The module in every placement, on SQLite; and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from fissile import Bus, Settings
from fissile.testing import PLACEMENTS, Placement, fake, placed
from modules.challenges.service import module
from modules.code_executor import contract as executor
from tests.brokers.postgres import postgres as postgres
from tests.modules.challenges.writing import that_runs
from tests.modules.placing import divide, settings_with_empty_database


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try each in every placement."""
    divide(metafunc, on_postgresql=True)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Any:  # Any: as in the one that it stands for
    return request.param


@pytest.fixture
def settings(placement: str, request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with an empty database."""
    return settings_with_empty_database(placement, request, tmp_path)


def where(placement: str) -> Placement:
    """Return the placement; PostgreSQL is tried in one process."""
    by_name: dict[str, Placement] = {each: each for each in PLACEMENTS}
    return by_name.get(placement, "local")


@pytest.fixture
async def bus(placement: str, broker: str | None, settings: Settings) -> AsyncGenerator[Bus]:
    async with placed(where(placement), [module, that_runs], broker=broker, settings=settings) as opened:
        yield opened


@pytest.fixture
async def alone(placement: str, settings: Settings) -> AsyncGenerator[Bus]:
    """The challenges with an executor that is away."""
    async with placed(where(placement), [module, fake(executor.contract).module], settings=settings) as opened:
        yield opened
