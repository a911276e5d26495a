"""Whether Kafka is there shows in `check` within seconds, also where a process does nothing; and what brokers are told of who it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import monotonic

import pytest

from fissile import Settings
from fissile._clock import SystemClock
from fissile.abc import TopicSpec
from fissile.transports import open_transport
from fissile.transports.kafka import KafkaTransport
from tests.brokers.processes import BrokerProcess
from tests.figures import figure
from tests.transports.helpers import assigned, kafka, until, without_uvloop

ENDS: dict[str, tuple[Callable[[BrokerProcess], None], Callable[[BrokerProcess], None]]] = {
    "killed": (BrokerProcess.kill, BrokerProcess.start),
    "frozen": (BrokerProcess.stop, BrokerProcess.go_on),
}


@without_uvloop
@pytest.mark.parametrize("end", ENDS)
async def test_a_process_that_does_nothing_is_told_that_kafka_is_gone_and_that_it_is_back(
    own_apache_kafka: BrokerProcess, end: str
) -> None:
    begin, go_on = ENDS[end]
    async with kafka(own_apache_kafka.server) as transport:
        assert transport.check() is None
        try:
            begin(own_apache_kafka)
            began = monotonic()
            await until(lambda: "Kafka has not answered" in (transport.check() or ""), "it is told")
            figure(f"a broker that is {end}: told after {monotonic() - began:.1f} s")
        finally:
            go_on(own_apache_kafka)
        await until(lambda: transport.check() is None, "all is well")


async def test_brokers_are_told_application_and_process(apache_kafka: str) -> None:
    settings = Settings(bus=f"kafka://{apache_kafka}", kafka_prefix=f"named-{os.getpid()}.", kafka_heartbeat_s=0.2)
    found = open_transport(settings, SystemClock(), "shop.orders")
    assert isinstance(found, KafkaTransport)

    async def clients() -> set[str]:
        from aiokafka.admin import AIOKafkaAdminClient

        admin = AIOKafkaAdminClient(bootstrap_servers=apache_kafka)
        await admin.start()
        try:
            (response,) = await admin.describe_consumer_groups([f"{settings.kafka_prefix}g"])
            (group,) = response.to_object()["groups"]
            return {member["client_id"] for member in group["members"]}
        finally:
            await admin.close()

    async with found as transport:
        await transport.ensure([TopicSpec("t", 1, 3600.0)])
        async with transport.join("g", {"t": "earliest"}) as member:
            await assigned(member)
            assert await found._bridge.call(clients) == {"shop.orders"}
