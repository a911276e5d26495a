"""Brokers as fixtures. A `conftest.py` imports those that its tests use; the broker behind them is one for the whole run.

`FISSILE_TEST_KAFKA` names brokers that are there; else Apache Kafka is started where Java and Maven are. Where neither is possible its tests
are skipped with the reason, unless `FISSILE_REQUIRE` has `kafka` in it.
"""

from __future__ import annotations

import os
from functools import cache

import pytest

from tests.brokers.apache import Cluster, start_apache, why_not
from tests.brokers.embedded import embedded_broker
from tests.brokers.processes import BrokerProcess


def skip_or_fail(reason: str) -> None:
    """Skip the test, or fail it where Kafka is required."""
    if "kafka" in os.environ.get("FISSILE_REQUIRE", "").split(","):
        pytest.fail(f"Kafka is required (FISSILE_REQUIRE): {reason}")
    pytest.skip(reason)


@cache
def apache_cluster() -> Cluster:
    """Return the node of this test run, started if need be."""
    return start_apache()


def apache_servers() -> str:
    """Return where Apache Kafka is, or skip the test."""
    given = os.environ.get("FISSILE_TEST_KAFKA")
    if given:
        return given
    reason = why_not()
    if reason is not None:
        skip_or_fail(reason)
    return apache_cluster().servers


@pytest.fixture(scope="session")
def embedded_kafka() -> str:
    """Where the embedded broker is."""
    broker = embedded_broker()
    if isinstance(broker, str):
        pytest.skip(broker)
    return broker.server


@pytest.fixture(scope="session")
def apache_kafka() -> str:
    """Where Apache Kafka is."""
    return apache_servers()


@pytest.fixture
def own_apache_kafka() -> BrokerProcess:
    """The process of an Apache Kafka that the test may freeze; it is the one of this run, and has to be left running."""
    reason = why_not()
    if reason is not None:
        skip_or_fail(reason)
    return apache_cluster().nodes[0]


@pytest.fixture(scope="session")
def three_node_kafka() -> Cluster:
    """Three nodes of Apache Kafka."""
    reason = why_not()
    if reason is not None:
        skip_or_fail(reason)
    return start_apache(3)
