"""The example application in a folder of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.brokers.fixtures import apache_kafka as apache_kafka
from tests.brokers.fixtures import embedded_kafka as embedded_kafka
from tests.cli.example import PYPROJECT, write_application

SPLIT = """
[tool.fissile.placements.split]
gateway = ["gateway"]
orders = ["orders"]
billing = ["billing"]
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The folder of the example application."""
    return write_application(tmp_path / "shop")


@pytest.fixture
def split_shop(tmp_path: Path, embedded_kafka: str) -> Path:
    """The folder of the example application, with a placement of three processes; skipped where there is no embedded broker."""
    return write_application(tmp_path / "shop", {"pyproject.toml": PYPROJECT + SPLIT})
