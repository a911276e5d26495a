"""The example application in a folder of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.example import write_application


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The folder of the example application."""
    return write_application(tmp_path / "shop")
