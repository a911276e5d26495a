"""Brokers as fixtures. A `conftest.py` imports those that its tests use; the broker behind them is one for the whole run.

`FISSILE_TEST_KAFKA` names brokers that are there; else Apache Kafka is started in Docker, where an engine answers and has its image; else where
Java and Maven are. Tests that kill or freeze a node, or have several, want the last. Where none is possible they are skipped with the reason,
unless `FISSILE_REQUIRE` has `kafka` in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import pytest

from tests.brokers.apache import Cluster, Door, start_apache, why_not
from tests.brokers.docker import kafka_in_docker
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
    return start_apache(has_doors=True)


def apache_servers() -> str:
    """Return where Apache Kafka is, or skip the test."""
    given = os.environ.get("FISSILE_TEST_KAFKA")
    if given:
        return given
    in_docker = kafka_in_docker()
    if in_docker is not None:
        return in_docker
    reason = why_not()
    if reason is not None:
        skip_or_fail(f"no FISSILE_TEST_KAFKA, no Docker with its image, and {reason}")
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


@pytest.fixture(scope="session")
def kafka_at_hand(request: pytest.FixtureRequest) -> str:
    """Where Apache Kafka is, or the embedded broker where there is none and none is required."""
    has_apache = os.environ.get("FISSILE_TEST_KAFKA") or kafka_in_docker() is not None or why_not() is None
    is_required = "kafka" in os.environ.get("FISSILE_REQUIRE", "").split(",")
    found: str = request.getfixturevalue("apache_kafka" if has_apache or is_required else "embedded_kafka")
    return found


@pytest.fixture
def own_apache_kafka() -> BrokerProcess:
    """The process of an Apache Kafka that the test may freeze; it is the one of this run, and has to be left running."""
    return _own_cluster().nodes[0]


@pytest.fixture
def apache_door() -> Door:
    """The second listener of that Apache Kafka."""
    return _own_cluster().doors[0]


def _own_cluster() -> Cluster:
    reason = why_not()
    if reason is not None:
        skip_or_fail(reason)
    return apache_cluster()


@pytest.fixture(scope="module")
def three_node_kafka() -> Iterator[Cluster]:
    """Three nodes of Apache Kafka; a test may leave one of them dead behind."""
    reason = why_not()
    if reason is not None:
        skip_or_fail(reason)
    cluster = start_apache(3)
    yield cluster
    cluster.end()
