"""Brokers, and the event loops, of the fault tests."""

from __future__ import annotations

import os

import pytest

from tests.brokers.fixtures import apache_kafka as apache_kafka
from tests.brokers.fixtures import own_apache_kafka as own_apache_kafka
from tests.brokers.fixtures import three_node_kafka as three_node_kafka

SLOW = ("test_processes.py", "test_brokers.py", "test_network.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what kills processes and brokers, for minutes, unless asked: `make soak` asks."""
    if os.environ.get("FISSILE_TEST_FAULTS"):
        return
    for item in items:
        if item.path.parent.name == "faults" and item.path.name in SLOW:
            item.add_marker(
                pytest.mark.skip(reason="kills processes and brokers for minutes: FISSILE_TEST_FAULTS=1, or make soak")
            )
