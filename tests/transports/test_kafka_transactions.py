"""Topics in which other programs write in transactions: the markers at their ends take offsets, and are no records."""

from __future__ import annotations

import anyio

from fissile.transports.kafka import KafkaTransport
from tests.conformance.kafka import kafka
from tests.conformance.test_replay import counted, histories, process, publish, replayed


async def write_in_a_transaction(transport: KafkaTransport, topic: str, count: int) -> None:
    """Write as another program does."""
    from aiokafka import AIOKafkaProducer

    async def write() -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=list(transport.options.servers), transactional_id=f"{transport.options.prefix}other"
        )
        await producer.start()
        try:
            async with producer.transaction():
                for number in range(count):
                    await producer.send_and_wait(
                        f"{transport.options.prefix}{topic}",
                        b'{"key":"k","number":%d}' % number,
                        key=b"k",
                        headers=[("ce_type", b"counter.counted")],
                    )
        finally:
            await producer.stop()

    await transport._bridge.call(write)


async def end_of(transport: KafkaTransport, topic: str) -> int:
    async with transport.read([(topic, 0)], "earliest") as reader:
        return reader.ends[topic, 0]


async def test_a_replay_ends_where_the_last_offset_is_the_end_of_a_transaction(apache_kafka: str) -> None:
    log = kafka()
    async with process(log, partitions=1) as app:
        transport = log.unopened()
        assert isinstance(transport, KafkaTransport)
        async with transport:
            await write_in_a_transaction(transport, counted.name, 3)
            with anyio.fail_after(10):  # the broker writes the marker after it has said that it will
                while await end_of(transport, counted.name) != 4:
                    await anyio.sleep(0.05)
        assert await replayed(app.bus) == {"k": [0, 1, 2]}
        await publish(app, 5)
        assert await replayed(app.bus) == {"k": [0, 1, 2], **histories(5)}
