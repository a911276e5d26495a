"""A record with a header whose name is no UTF-8, as any program may write it: it is read, and its neighbours too."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from attrs import frozen

from fissile import App, Contract, Event, Module, Retry, Settings, Topic
from fissile.abc import Member, Reader
from fissile.transports.kafka import KafkaTransport
from tests.transports.helpers import PATIENCE_S, assigned, kafka, numbers, opened, record, some, until, without_uvloop

BAD = "ZZbad"
"""The name that is made none."""


async def append_batch(
    transport: KafkaTransport,
    count: int,
    bad: int,
    *,
    topic: str = "t",
    value: bytes | None = None,
    **headers: bytes,
) -> None:
    """Store a batch of which one record has a header whose name begins with two bytes that are no UTF-8."""
    from aiokafka import AIOKafkaProducer
    from aiokafka.record.util import calc_crc32c

    async def send() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=list(transport.options.servers))
        await producer.start()
        try:
            batch: Any = producer.create_batch()
            for number in range(count):
                named = [*headers.items(), (BAD if number == bad else "good", b"x")]
                body = str(number).encode() if value is None else value
                batch.append(timestamp=None, key=b"k", value=body, headers=named)
            built = bytearray(batch._build())
            place = built.index(BAD.encode())
            built[place : place + 2] = b"\xff\xfe"
            built[17:21] = calc_crc32c(bytes(built[21:])).to_bytes(4, "big")
            batch._buffer = built
            await (await producer.send_batch(batch, transport.options.prefix + topic, partition=0))
        finally:
            await producer.stop()

    await transport._bridge.call(send)


@pytest.fixture(params=["embedded_kafka", "apache_kafka"])
def servers(request: pytest.FixtureRequest) -> str:
    """Where a broker is."""
    found: str = request.getfixturevalue(request.param)
    return found


async def test_it_is_read_with_its_neighbours_by_members_and_by_readers(servers: str) -> None:
    async with opened(servers, partitions=1) as transport:
        await transport.append([record(7, partition=0)])
        await append_batch(transport, 3, 1)
        await transport.append([record(8, partition=0)])
        async with transport.join("g", {"t": "earliest"}) as member, transport.read([("t", 0)], "earliest") as reader:
            await assigned(member)
            found: list[Member | Reader] = [member, reader]
            for each in found:
                with anyio.fail_after(PATIENCE_S):
                    records = await some(each, 5)
                assert numbers(records) == [7, 0, 1, 2, 8]
                assert [one.offset for one in records] == [0, 1, 2, 3, 4]
                assert records[2].headers == (("\ufffd\ufffdbad", b"x"),)
                assert records[2].key == b"k"
            assert transport.check() is None


async def test_a_reader_that_begins_behind_it_in_its_batch_gets_what_follows(embedded_kafka: str) -> None:
    async with opened(embedded_kafka, partitions=1) as transport:
        await append_batch(transport, 3, 0)
        async with transport.read([("t", 0)], {("t", 0): 2}) as reader:
            (one,) = await some(reader, 1)
            assert (one.offset, one.value) == (2, b"2")


@frozen
class Said(Event):
    text: str


said = Topic("echoes.said", Said, key=lambda event: event.text)


@without_uvloop
@pytest.mark.parametrize(("kind", "dead"), [(b"echoes.said", 0), (b"echoes.unheard", 3)])
async def test_its_partition_goes_on_whether_it_is_a_message_or_becomes_a_dead_letter(
    embedded_kafka: str, kind: bytes, dead: int
) -> None:
    heard: list[str] = []
    module = Module(Contract("echoes", messages=[Said], topics=[said]))

    @module.subscribe(said, retry=Retry(attempts=1))
    async def on_said(event: Said) -> None:
        heard.append(event.text)

    transport = kafka(embedded_kafka)
    settings = Settings(bus=f"kafka://{embedded_kafka}", partitions=1, reply_partitions=1)
    with anyio.fail_after(2 * PATIENCE_S):
        async with App([module], settings=settings, transport=transport) as app:
            await app.bus.publish(Said("before"))
            await append_batch(transport, 3, 1, topic="echoes.said", ce_type=kind, value=b'{"text":"in it"}')
            await app.bus.publish(Said("after"))
            await until(lambda: heard[-1:] == ["after"], "what follows is handled")
            assert heard == ["before", *["in it"] * (3 - dead), "after"]
            while len(letters := await app.dead_letters()) < dead:
                await anyio.sleep(0.01)
            assert [letter.name for letter in letters] == ["echoes.unheard"] * dead
            assert all("no message that its topic carries" in letter.reason for letter in letters)
