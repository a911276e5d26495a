"""Storing in Kafka: order, outcomes, bounds; when the broker is away, when it refuses, when the producer breaks."""

from __future__ import annotations

import asyncio
from collections import Counter
from time import monotonic
from typing import Any

import anyio
import pytest

from fissile._errors import CallError, DeadlineExceeded, MessageTooLarge, Overloaded, TransportClosed, Unavailable
from fissile.abc import Outgoing, Stored
from fissile.transports._kafka_producer import Batch, Place, Producer
from tests.brokers.processes import BrokerProcess
from tests.transports.helpers import all_of, kafka, numbers, opened, record, until, without_uvloop


async def test_records_of_a_partition_are_stored_in_the_order_of_the_calls(apache_kafka: str) -> None:
    async with opened(apache_kafka) as transport:
        outcomes: list[Stored | CallError] = []
        for number in range(2000):
            transport.append_nowait([record(number, partition=number % 2)], outcomes.append)
        assert outcomes == []  # never before the call returns
        await until(lambda: len(outcomes) == 2000, "all are told")
        stored = await all_of(transport)
        for partition in (0, 1):
            assert numbers([one for one in stored if one.partition == partition]) == list(range(partition, 2000, 2))
        places = [outcome[0] for outcome in outcomes if not isinstance(outcome, CallError)]
        assert sorted(places) == sorted((one.partition, one.offset) for one in stored)


async def test_many_that_append_at_a_time_share_batches_and_none_has_a_task_of_its_own(
    embedded_kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka#528: each `send` of its own waits for the batch before it, and whenever one is done all of them wake: quadratic."""
    batches: list[int] = []
    tasks_seen: list[int] = []
    submit = Producer.submit

    async def counted(producer: Producer, batch: Batch, topic: str, partition: int) -> asyncio.Future[Place]:
        batches.append(batch.raw.record_count())
        tasks_seen.append(sum(_is_ours(task) for task in asyncio.all_tasks()))
        return await submit(producer, batch, topic, partition)

    monkeypatch.setattr(Producer, "submit", counted)
    async with opened(embedded_kafka) as transport:
        for many in (100, 3000):
            batches.clear()
            async with anyio.create_task_group() as tasks:
                for number in range(many):
                    tasks.start_soon(transport.append, [record(number, partition=number % 2)])
            assert sum(batches) == many
        assert len(batches) < 100  # of 3000
    assert 0 < max(tasks_seen) < 20


def _is_ours(task: asyncio.Task[Any]) -> bool:
    """Tell whether a task was made by the transport, in its files or in aiokafka's, and not by the test."""
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and any(part in code.co_filename for part in ("_kafka_", "aiokafka"))


@without_uvloop
async def test_a_broker_that_is_frozen_loses_nothing_and_keeps_nobody_waiting(own_apache_kafka: BrokerProcess) -> None:
    append_s = 1.0
    async with opened(own_apache_kafka.server, partitions=1, kafka_append_s=append_s) as transport:
        told: dict[int, Stored | CallError] = {}
        took_s: list[float] = []

        def append(number: int) -> None:
            began = monotonic()

            def done(outcome: Stored | CallError) -> None:
                assert number not in told
                told[number] = outcome
                took_s.append(monotonic() - began)

            transport.append_nowait([record(number, partition=0)], done)

        sent = 0
        try:
            with anyio.move_on_after(4.0):
                while True:
                    if sent == 20:
                        own_apache_kafka.stop()
                    append(sent)
                    sent += 1
                    await anyio.sleep(0.02)
            assert transport.check() is not None
        finally:
            own_apache_kafka.go_on()
        await until(lambda: len(told) == sent, "all are told")
        # What may be stored still goes its way; once something is stored after it, it is known.
        outcome: Stored | None = None
        while outcome is None:
            try:
                outcome = await transport.append([record(sent, partition=0)])
            except (Unavailable, DeadlineExceeded):
                await anyio.sleep(0.1)
                sent += 1
        await until(lambda: transport.check() is None, "all is well")
        found = numbers(await all_of(transport, 1))
        assert found == sorted(set(found))  # in order, and nothing twice
        acknowledged = {number for number, one in told.items() if not isinstance(one, CallError)}
        refused = {number for number, one in told.items() if isinstance(one, Unavailable)}
        assert acknowledged <= set(found)
        assert not refused & set(found)
        assert Counter(type(one) for one in told.values()).keys() <= {list, tuple, Unavailable, DeadlineExceeded}
        assert refused
        assert max(took_s) < 2 * append_s + 1.0


async def test_closing_tells_every_append_that_is_under_way(apache_kafka: str) -> None:
    outcomes: list[Stored | CallError] = []
    async with opened(apache_kafka) as transport:
        for number in range(1000):
            transport.append_nowait([record(number, key=str(number), size=200)], outcomes.append)
    assert len(outcomes) == 1000
    assert not any(isinstance(outcome, CallError) for outcome in outcomes)
    with pytest.raises(TransportClosed):
        transport.append_nowait([record(1)], outcomes.append)


@without_uvloop
async def test_closing_while_the_broker_is_frozen_tells_every_append_within_a_bound(
    own_apache_kafka: BrokerProcess,
) -> None:
    """aiokafka#1101: `stop` of an idempotent producer, and each send, wait for ever while the broker is away."""
    outcomes: list[Stored | CallError] = []
    try:
        async with opened(own_apache_kafka.server, kafka_append_s=1.0) as transport:
            await transport.append([record(-1, partition=0)])  # it knows where the partition is
            own_apache_kafka.stop()
            for number in range(100):
                transport.append_nowait([record(number, partition=0)], outcomes.append)
                await anyio.sleep(0.001)
            began = monotonic()
        assert len(outcomes) == 100
        assert {type(outcome) for outcome in outcomes} <= {Unavailable, DeadlineExceeded}
        assert monotonic() - began < 8.0
    finally:
        own_apache_kafka.go_on()


async def test_a_record_over_the_limit_is_refused_at_the_call_and_one_at_the_limit_is_stored(
    embedded_kafka: str,
) -> None:
    await _sizes(embedded_kafka)


async def test_apache_kafka_takes_a_record_at_the_limit(apache_kafka: str) -> None:
    await _sizes(apache_kafka)


async def _sizes(servers: str) -> None:
    async with opened(servers, partitions=1) as transport:
        limit = transport.options.max_record_bytes
        with pytest.raises(MessageTooLarge):
            transport.append_nowait([Outgoing("t", None, b"x" * (limit + 1), ())], print)
        headers = (("h", b"h" * 9_998),)
        for _ in range(3):
            await transport.append([Outgoing("t", b"k", b"x" * (limit - 10_000), headers)])
        assert [len(one.value) for one in await all_of(transport, 1)] == [limit - 10_000] * 3


async def test_a_record_that_the_broker_finds_too_large_is_told_so_and_the_next_ones_are_stored(
    apache_kafka: str,
) -> None:
    """A refused batch leaves a gap in the producer's numbers, and the broker would refuse all that follows: it is replaced."""
    async with opened(apache_kafka, partitions=1) as transport:
        other = kafka(apache_kafka, transport.options.prefix, max_message_bytes=8 * 1024 * 1024)
        async with other:
            await other.append([record(1, partition=0)])
            with pytest.raises(MessageTooLarge):
                await other.append([record(2, partition=0, size=7 * 1024 * 1024)])
            await other.append([record(3, partition=0)])
            assert numbers(await all_of(other, 1)) == [1, 3]
            assert other._producers.replaced == 1


async def test_a_producer_whose_sender_died_is_replaced(apache_kafka: str) -> None:
    async with opened(apache_kafka, partitions=1) as transport:
        await transport.append([record(1, partition=0)])
        producer: Any = transport._producers.current()

        async def kill() -> None:
            producer._raw._sender.sender_task.cancel()

        await transport._bridge.call(kill)
        await until(lambda: not producer.is_usable, "the sender is dead")
        await transport.append([record(2, partition=0)])
        assert numbers(await all_of(transport, 1)) == [1, 2]


async def test_more_than_the_buffer_takes_is_refused_at_once(embedded_kafka: str) -> None:
    async with opened(embedded_kafka, kafka_buffer_bytes=100_000) as transport:
        outcomes: list[Stored | CallError] = []
        for number in range(15):
            transport.append_nowait([record(number, size=5000)], outcomes.append)
        with pytest.raises(Overloaded):
            transport.append_nowait([record(16, size=50_000)], outcomes.append)
        await until(lambda: outcomes, "there is room again")
        await transport.append([record(1)])


async def test_an_append_to_a_topic_that_was_never_made_is_unavailable(embedded_kafka: str) -> None:
    async with opened(embedded_kafka) as transport:
        with pytest.raises(Unavailable, match="no topic other"):
            await transport.append([Outgoing("other", None, b"", ())])
        with pytest.raises(Unavailable, match="no partition 7"):
            await transport.append([record(1, partition=7)])


async def test_a_cancelled_append_is_no_harm(embedded_kafka: str) -> None:
    async with opened(embedded_kafka, partitions=1) as transport:
        for number in range(30):
            with anyio.CancelScope() as scope:
                if number % 2:
                    scope.cancel()
                await transport.append([record(number, partition=0)])
        await transport.append([record(30, partition=0)])
        found = numbers(await all_of(transport, 1))
        assert found == sorted(set(found))
        assert set(range(0, 31, 2)) <= set(found)


async def test_a_broker_that_is_not_there_is_unavailable_at_once() -> None:
    began = monotonic()
    with pytest.raises(Unavailable):
        async with kafka("127.0.0.1:1"):
            pass
    assert monotonic() - began < 5.0
