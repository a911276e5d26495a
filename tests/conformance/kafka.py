"""Kafka as a transport of the conformance body: Apache Kafka for all of it, the embedded broker for what it can do."""

from __future__ import annotations

import inspect
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from attrs import frozen

from fissile.abc import Transport
from fissile.transports._kafka_options import Options
from fissile.transports.kafka import KafkaTransport
from tests.brokers.embedded import embedded_broker
from tests.brokers.fixtures import apache_servers

MAX_RECORD_BYTES = 10_000

_numbers = itertools.count()


@frozen
class Kafka:
    """Kafka, where all names have a prefix that no other test has."""

    options: Options
    has_retention_by_size: bool = False
    fences_the_silent: bool = True

    def unopened(self) -> Transport:
        return KafkaTransport(self.options)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Transport]:
        async with self.unopened() as transport:
            yield transport

    def name(self, topic: str) -> str:
        return topic


def _log(servers: str, session_s: float) -> Kafka:
    return Kafka(
        Options(
            servers=tuple(servers.split(",")),
            prefix=f"c{os.getpid()}-{next(_numbers)}.",
            revoke_s=1.0,
            session_s=session_s,
            heartbeat_s=0.2,
            max_record_bytes=MAX_RECORD_BYTES,
        )
    )


def kafka() -> Kafka:
    """Apache Kafka, or skip the test."""
    # A broker wants at least 6 s, unless its configuration says otherwise, as that of ours does.
    return _log(apache_servers(), 6.0 if "FISSILE_TEST_KAFKA" in os.environ else 3.0)


def skip_on_embedded(request: pytest.FixtureRequest) -> None:
    """Skip a test whose groups have several members: the embedded broker has no barrier at a rebalance, and does not fence the dead."""
    source = inspect.getsource(request.function)
    if request.param == "embedded" and ("following(other" in source or '("two"' in source or "silent" in source):
        pytest.skip("the embedded broker is no match for several members of a group")


def embedded_kafka() -> Kafka:
    """The embedded broker, or skip the test. It has no barrier at a rebalance: groups have one member at a time here."""
    broker = embedded_broker()
    if isinstance(broker, str):
        pytest.skip(broker)
    return _log(broker.server, 6.0)
