"""Brokers for the tests of modules, and which of these tests run in processes of their own as well: those that are marked so, on one event loop.

The code executor has its own way: all of its service runs in every placement.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.brokers.fixtures import apache_kafka as apache_kafka
from tests.brokers.fixtures import embedded_kafka as embedded_kafka
from tests.brokers.fixtures import kafka_at_hand as kafka_at_hand

HERE = Path(__file__).parent


@pytest.fixture
def broker(request: pytest.FixtureRequest, placement: str) -> str | None:
    """The broker of the placement `split`: Apache Kafka where there is one, else the embedded one."""
    return f"kafka://{request.getfixturevalue('kafka_at_hand')}" if placement == "split" else None


def _is_wanted(item: pytest.Item) -> bool:
    """Tell whether a test is wanted in the placement that it is parametrized with: processes take seconds to start."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    if "split" not in parameters.values() or item.path.parent == HERE / "code_executor":
        return True
    loop = parameters.get("place", parameters.get("anyio_backend"))
    return item.get_closest_marker("split") is not None and loop in (
        "asyncio on sqlite",
        ("asyncio", {"use_uvloop": False}),
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not wanted."""
    unwanted = [item for item in items if HERE in item.path.parents and not _is_wanted(item)]
    if unwanted:
        config.hook.pytest_deselected(items=unwanted)
        items[:] = [item for item in items if item not in unwanted]
