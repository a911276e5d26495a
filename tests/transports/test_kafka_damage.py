"""A batch that is damaged on the broker's disk: it is told, holds back its own partition only, and is skipped by nobody but a person."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import pytest

from fissile._errors import PositionLost
from fissile.abc import Member
from fissile.transports import _kafka_source
from fissile.transports.kafka import KafkaTransport
from tests.brokers.processes import BrokerProcess
from tests.transports.helpers import PATIENCE_S, assigned, numbers, opened, record, some, until, without_uvloop

DAMAGED = 7_654_321
"""The number that the damaged batch says."""


@contextmanager
def damaged(broker: BrokerProcess, transport: KafkaTransport) -> Generator[None]:
    """Change a byte of the batch on the disk of the broker, and change it back at the end."""
    (path,) = (broker.folder / "data").glob(f"{transport.options.prefix}t-0/*.log")
    place = path.read_bytes().index(str(DAMAGED).encode())
    _flip(path, place)
    try:
        yield
    finally:
        _flip(path, place)


def _flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 1]))


@asynccontextmanager
async def _with_damage(broker: BrokerProcess) -> AsyncGenerator[KafkaTransport]:
    """A topic of two partitions, the first with a damaged batch between two good ones."""
    async with opened(broker.server, partitions=2) as transport:
        for number in (1, DAMAGED, 3):
            await transport.append([record(number, partition=0)])
        with damaged(broker, transport):
            yield transport


async def _told(transport: KafkaTransport, member: Member) -> str:
    """Receive until the damage is told; nothing comes meanwhile."""
    async with anyio.create_task_group() as tasks:

        async def nothing() -> None:
            pytest.fail(f"received {await member.receive()!r}")

        tasks.start_soon(nothing)
        await until(lambda: "damaged" in (transport.check() or ""), "the damage is told")
        tasks.cancel_scope.cancel()
    return transport.check() or ""


async def _skip(transport: KafkaTransport, command: str) -> None:
    """Do what the command in the text does: `kafka-consumer-groups.sh` is not among the jars of the tests."""
    from aiokafka import AIOKafkaConsumer, TopicPartition

    found = re.search(
        r"kafka-consumer-groups.sh --bootstrap-server (\S+) --group (\S+) --topic (\S+):(\d+) --reset-offsets --to-offset (\d+) --execute$",
        command,
    )
    assert found is not None, command
    servers, group, topic, number, offset = found.groups()

    async def commit() -> None:
        consumer = AIOKafkaConsumer(bootstrap_servers=servers, group_id=group, enable_auto_commit=False)
        await consumer.start()
        try:
            partition = TopicPartition(topic, int(number))
            consumer.assign([partition])
            await consumer.commit({partition: int(offset)})
        finally:
            await consumer.stop()

    await transport._bridge.call(commit)


@without_uvloop
async def test_a_damaged_batch_holds_back_its_partition_only_until_a_person_skips_it(
    own_apache_kafka: BrokerProcess,
) -> None:
    async with _with_damage(own_apache_kafka) as transport:
        async with transport.join("g", {"t": "earliest"}) as member:
            generation = (await assigned(member)).generation
            assert numbers(await some(member, 1)) == [1]
            text = await _told(transport, member)
            assert "cannot read t[0] at offset 1: the broker has a damaged batch there (its checksum is wrong)" in text
            await transport.append([record(4, partition=1)])
            assert numbers(await some(member, 1)) == [4]
            assert await member.commit(generation, {("t", 0): 1, ("t", 1): 1})
        assert transport.check() is None
        async with transport.join("g", {"t": "earliest"}) as member:  # who comes next skips it no more
            await assigned(member)
            text = await _told(transport, member)
        await _skip(transport, text)
        async with transport.join("g", {"t": "earliest"}) as member:
            await assigned(member)
            assert numbers(await some(member, 1)) == [3]
            assert transport.check() is None


@without_uvloop
async def test_a_batch_that_can_be_read_again_comes_by_itself(
    own_apache_kafka: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kafka_source, "_AGAIN_S", 0.5)
    async with opened(own_apache_kafka.server, partitions=1, kafka_stuck_s=2.0) as transport:
        for number in (DAMAGED, 2):
            await transport.append([record(number, partition=0)])
        async with transport.join("g", {"t": "earliest"}) as member:
            with damaged(own_apache_kafka, transport):
                await assigned(member)
                await _told(transport, member)
                await anyio.sleep(3.0)  # it is not taken for one that is stuck
                assert "damaged" in (transport.check() or "")
            with anyio.fail_after(PATIENCE_S):
                assert numbers(await some(member, 2)) == [DAMAGED, 2]
            await until(lambda: transport.check() is None, "all is well")


@without_uvloop
async def test_a_reader_is_told_where_it_can_go_on(own_apache_kafka: BrokerProcess) -> None:
    async with _with_damage(own_apache_kafka) as transport:
        async with transport.read([("t", 0)], "earliest") as reader:
            assert numbers(await some(reader, 1)) == [1]
            with anyio.fail_after(PATIENCE_S), pytest.raises(PositionLost, match=r"t\[0\] at offset 1") as caught:
                await reader.receive()
        offset = re.search(r"Read on from offset (\d+)", str(caught.value))
        assert offset is not None
        async with transport.read([("t", 0)], {("t", 0): int(offset[1])}) as reader:
            assert numbers(await some(reader, 1)) == [3]
