"""The module in every placement, on SQLite; and on PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fissile import Settings
from tests.brokers.postgres import postgres as postgres
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
