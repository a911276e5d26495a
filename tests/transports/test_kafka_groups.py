"""Consumer groups of Kafka: what is fenced, what is handed over, what comes again."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from fissile._errors import TransportClosed, Unavailable
from fissile.abc import Assigned, Partition, Record, Revoked
from fissile.transports._kafka_group import KafkaMember
from fissile.transports.kafka import KafkaTransport
from tests.brokers.processes import BrokerProcess
from tests.transports.helpers import (
    PATIENCE_S,
    assigned,
    committed,
    kafka,
    numbers,
    opened,
    record,
    revoked,
    some,
    until,
    without_uvloop,
)

P0: Partition = ("t", 0)


async def test_a_commit_of_an_older_assignment_is_refused(apache_kafka: str) -> None:
    """aiokafka#929, #933: a rebalance comes while records are being handled, and a `commit()` after it is sent with the present
    generation. The broker would accept it, and the group move back.
    """
    async with opened(apache_kafka, partitions=1) as transport, transport.join("g", {"t": "earliest"}) as member:
        await transport.append([record(number, partition=0) for number in range(10)])
        first = await assigned(member)
        assert await member.commit(first.generation, {P0: 9})
        assert isinstance(member, KafkaMember)
        identity = member.source._identity
        transport._bridge.to_loop(member.source.consumer._raw._coordinator.request_rejoin)
        assert (await revoked(member)).generation == first.generation
        second = await assigned(member)
        assert second.generation > first.generation
        assert second.positions == {P0: 9}
        assert not await member.commit(first.generation, {P0: 3})
        # The broker itself refuses it too, should it ever come that far.
        assert not await transport._bridge.call(
            member.source.consumer.commit, identity, {(f"{transport.options.prefix}t", 0): 3}
        )
        assert await member.commit(second.generation, {P0: 10})
        assert (await committed(transport, "g")) == {P0: 10}
        assert member.status().refused == 1


async def test_a_commit_after_leaving_is_refused(apache_kafka: str) -> None:
    """aiokafka's own would be accepted, since the group is empty then: the broker takes commits of no member."""
    async with opened(apache_kafka, partitions=1) as transport:
        async with transport.join("g", {"t": "earliest"}) as member:
            generation = (await assigned(member)).generation
            await transport.append([record(number, partition=0) for number in range(10)])
            assert await member.commit(generation, {P0: 9})
        assert not await member.commit(generation, {P0: 1})
        assert (await committed(transport, "g")) == {P0: 9}
        with pytest.raises(TransportClosed):
            await member.receive()


async def test_it_can_be_committed_until_the_partitions_are_handed_over(apache_kafka: str) -> None:
    async with opened(apache_kafka, partitions=2) as transport, transport.join("g", {"t": "earliest"}) as member:
        generation = (await assigned(member)).generation
        async with anyio.create_task_group() as tasks:

            async def other() -> None:
                async with transport.join("g", {"t": "earliest"}) as second:
                    assert len((await assigned(second)).positions) == 1

            tasks.start_soon(other)
            news = await revoked(member)
            assert news.partitions == {("t", 0), ("t", 1)}
            assert await member.commit(generation, {P0: 0})
            with anyio.CancelScope() as scope:
                scope.cancel()
                await member.receive()  # hands over, although it is cancelled before anything comes
            assert not await member.commit(generation, {P0: 0})
            assert len((await assigned(member)).positions) == 1


@without_uvloop
async def test_who_does_not_hand_over_in_time_is_passed_over_and_fenced(apache_kafka: str) -> None:
    settings = {"kafka_revoke_s": 0.5}
    async with (
        opened(apache_kafka, partitions=1, **settings) as transport,
        transport.join("g", {"t": "earliest"}) as slow,
    ):
        generation = (await assigned(slow)).generation
        async with transport.join("g", {"t": "earliest"}) as second:
            await revoked(slow)
            await assigned(second)  # the group goes on without an answer
            assert not await slow.commit(generation, {P0: 0})
            await assigned(slow)


@without_uvloop
async def test_who_is_not_confirmed_any_longer_is_given_nothing_until_the_group_has_taken_it_back(
    apache_kafka: str,
) -> None:
    """What a process that was frozen past its session goes on with: brokers give records to everybody, whoever handles them now."""
    from aiokafka.errors import RequestTimedOutError

    settings = {"kafka_session_s": 1.5, "kafka_revoke_s": 0.5}
    async with (
        opened(apache_kafka, partitions=1, **settings) as transport,
        transport.join("g", {"t": "earliest"}) as silent,
    ):
        await assigned(silent)
        assert isinstance(silent, KafkaMember)
        consumer, place = silent.source.consumer, (f"{transport.options.prefix}t", 0)
        coordinator = consumer._raw._coordinator
        send = coordinator._send_req

        async def unanswered(request: Any) -> Any:  # Any: the library has no types
            if type(request).__name__ == "HeartbeatRequest":
                raise RequestTimedOutError
            return await send(request)

        coordinator._send_req = unanswered
        news: list[Assigned | Revoked | Sequence[Record]] = []

        async def receive() -> None:
            while True:
                news.append(await silent.receive())

        async with transport.join("g", {"t": "earliest"}) as other, anyio.create_task_group() as tasks:
            await assigned(other)  # the group has given the silent one up
            tasks.start_soon(receive)
            await transport.append([record(number, partition=0) for number in range(10)])
            assert numbers(await some(other, 10)) == list(range(10))
            with anyio.fail_after(PATIENCE_S):
                while await transport._bridge.call(lambda: consumer.position(place)) < 10:
                    await anyio.sleep(0.01)
            coordinator._send_req = send
            await until(lambda: any(isinstance(one, Assigned) for one in news), "it is taken back")
            assert [type(one) for one in news[:2]] == [Revoked, Assigned]
            tasks.cancel_scope.cancel()


@without_uvloop
async def test_members_that_come_and_go_lose_nothing(apache_kafka: str) -> None:
    async with opened(apache_kafka, partitions=4) as transport:
        handled: Counter[int] = Counter()
        sent = 0
        async with anyio.create_task_group() as tasks:

            async def produce() -> None:
                nonlocal sent
                while True:
                    await transport.append([record(sent, key=str(sent % 20))])
                    sent += 1
                    await anyio.sleep(0.005)

            producing = anyio.CancelScope()

            async def produce_in_scope() -> None:
                with producing:
                    await produce()

            tasks.start_soon(produce_in_scope)
            tasks.start_soon(_member, transport, handled)
            for _ in range(2):
                await until(lambda: handled, "the first is at work")
                await _second_member(transport, handled)
            producing.cancel()
            await until(lambda: len(handled) >= sent, "all are handled")
            tasks.cancel_scope.cancel()
        assert sorted(handled)[:sent] == list(range(sent))


async def _second_member(transport: KafkaTransport, handled: Counter[int]) -> None:
    """Come, stay until a hundred more are handled, and go without a word."""
    before = sum(handled.values())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_member, transport, handled)
        await until(lambda: sum(handled.values()) > before + 100, "they go on")
        tasks.cancel_scope.cancel()


async def _member(transport: KafkaTransport, handled: Counter[int]) -> None:
    async with transport.join("g", {"t": "earliest"}) as member:
        generation = 0
        offsets: dict[Partition, int] = {}
        while True:
            news = await member.receive()
            if isinstance(news, Assigned):
                generation, offsets = news.generation, {}
            elif isinstance(news, Revoked):
                await member.commit(generation, offsets)
            else:
                for one in news:
                    handled[int(one.value)] += 1
                    offsets[one.topic, one.partition] = one.offset + 1
                await member.commit(generation, offsets)


async def test_a_cancelled_receive_loses_nothing_and_repeats_nothing(apache_kafka: str) -> None:
    dice = random.Random(1)
    async with opened(apache_kafka) as transport, transport.join("g", {"t": "earliest"}, batch=7) as member:
        found: list[int] = []
        cancelled = 0
        async with anyio.create_task_group() as tasks:

            async def produce() -> None:
                for number in range(300):
                    await transport.append([record(number)])

            tasks.start_soon(produce)
            with anyio.fail_after(20.0):
                while len(found) < 300:
                    news = None
                    with anyio.move_on_after(dice.random() * 0.002):
                        news = await member.receive()
                    if news is None:
                        cancelled += 1
                    elif not isinstance(news, (Assigned, Revoked)):
                        assert len(news) <= 7
                        found += [int(one.value) for one in news]
        assert sorted(found) == list(range(300))
        assert cancelled > 0


async def test_what_was_received_and_not_committed_comes_again(apache_kafka: str) -> None:
    """aiokafka's auto-commit commits the record in hand when a member leaves, and now and then: who dies over it has lost it."""
    async with opened(apache_kafka, partitions=1) as transport:
        await transport.append([record(number, partition=0) for number in range(3)])
        for _ in range(2):
            async with transport.join("g", {"t": "earliest"}) as member:
                assert isinstance(member, KafkaMember)
                assert member.source.consumer._raw._enable_auto_commit is False
                assert [int(one.value) for one in await some(member, 3)] == [0, 1, 2]
            assert await committed(transport, "g") == {P0: 0}  # where it begins


async def test_a_group_that_begins_at_the_end_does_not_skip_what_comes_before_its_first_commit(
    apache_kafka: str,
) -> None:
    async with opened(apache_kafka, partitions=1) as transport:
        await transport.append([record(1, partition=0)])
        async with transport.join("g", {"t": "latest"}) as member:
            assert (await assigned(member)).positions == {P0: 1}
        await transport.append([record(2, partition=0)])
        async with transport.join("g", {"t": "latest"}) as member:
            assert [int(one.value) for one in await some(member, 1)] == [2]


async def test_a_committed_offset_that_has_expired_becomes_the_first_one_kept(apache_kafka: str) -> None:
    async with opened(apache_kafka, partitions=1) as transport:
        await transport.append([record(number, partition=0) for number in range(10)])
        async with transport.join("g", {"t": "latest"}) as member:
            assert await member.commit((await assigned(member)).generation, {P0: 0})
        await _cut(transport, 5)
        async with transport.join("g", {"t": "latest"}) as member:
            news = await assigned(member)
            assert news.positions == {P0: 5}
            assert await member.commit(news.generation, {P0: 10_000})
        async with transport.join("g", {"t": "latest"}) as member:
            assert (await assigned(member)).positions == {P0: 5}


async def _cut(transport: KafkaTransport, offset: int) -> None:
    """Remove what is before an offset."""
    from aiokafka import TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

    async def cut() -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=list(transport.options.servers))
        await admin.start()
        try:
            place = TopicPartition(f"{transport.options.prefix}t", 0)
            await admin.delete_records({place: RecordsToDelete(before_offset=offset)})
        finally:
            await admin.close()

    await transport._bridge.call(cut)


async def test_a_paused_partition_is_silent_and_goes_on_without_gap(apache_kafka: str) -> None:
    async with opened(apache_kafka) as transport, transport.join("g", {"t": "earliest"}, batch=10) as member:
        await assigned(member)
        await transport.append([record(number, partition=number % 2) for number in range(200)])
        first = await some(member, 10)
        member.pause([P0])
        rest = await some(member, 100 - sum(one.partition for one in first))
        assert {one.partition for one in rest} == {1}
        await transport.append([record(number, partition=number % 2) for number in range(200, 220)])
        assert {one.partition for one in await some(member, 10)} == {1}
        member.resume([P0])
        seen = [
            int(one.value)
            for one in (*first, *await some(member, 110 - sum(1 - one.partition for one in first)))
            if not one.partition
        ]
        assert seen == list(range(0, 220, 2))


@without_uvloop
async def test_a_member_without_partitions_waits_for_long_and_takes_over(
    apache_kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka#1187: after a while without reading it would leave the group, and never come back. It is a day; here a second has to do."""
    monkeypatch.setattr("fissile.transports._kafka_consumer._NEVER_MS", 1000)
    told: list[tuple[str, bool]] = []
    leaves = anyio.CancelScope()

    async def follow(transport: KafkaTransport, scope: anyio.CancelScope) -> None:
        with scope:
            async with transport.join("g", {"t": "earliest"}) as member:
                while True:
                    told.append((transport.client, bool((await assigned(member, within_s=math.inf)).positions)))

    async with opened(apache_kafka, partitions=1) as transport:
        first, second = (kafka(apache_kafka, transport.options.prefix) for _ in range(2))
        first.client, second.client = "a", "b"  # partitions are dealt out in the order of these names
        async with first, second, anyio.create_task_group() as tasks:
            tasks.start_soon(follow, first, leaves)
            await until(lambda: told == [("a", True)], "the first one has all")
            tasks.start_soon(follow, second, anyio.CancelScope())
            await until(lambda: sorted(told) == [("a", True), ("a", True), ("b", False)], "the second one has nothing")
            await anyio.sleep(4.0)  # nothing may happen: if one of them left, the other one would be told
            assert len(told) == 3
            leaves.cancel()
            await until(lambda: told[3:] == [("b", True)], "the second one has taken over")
            tasks.cancel_scope.cancel()


@without_uvloop
async def test_a_blocked_event_loop_loses_its_partitions_and_learns_of_it(own_apache_kafka: BrokerProcess) -> None:
    """aiokafka#847: one whose loop was blocked for longer than its session is to rejoin, and not to wait for ever. On Trio the thread would go
    on with its heartbeats, and nobody would notice.
    """
    settings = {"kafka_session_s": 2.0, "kafka_revoke_s": 1.0}
    async with (
        opened(own_apache_kafka.server, partitions=1, **settings) as transport,
        transport.join("g", {"t": "earliest"}) as member,
    ):
        generation = (await assigned(member)).generation
        time.sleep(4.5)  # noqa: ASYNC251 -- that is the point
        with anyio.fail_after(20.0):
            while await member.commit(generation, {P0: 0}):
                await anyio.sleep(0.05)
        if transport._bridge.is_apart:
            with pytest.raises(Unavailable, match="blocked"):
                await revoked(member)
        else:
            await assigned(member)


async def test_a_replica_with_a_stable_name_gets_its_partitions_back_without_a_rebalance(apache_kafka: str) -> None:
    async with opened(apache_kafka, partitions=2, kafka_instance="one") as transport:
        other = kafka(apache_kafka, transport.options.prefix, kafka_instance="two")
        async with other, other.join("g", {"t": "earliest"}) as stays:
            async with transport.join("g", {"t": "earliest"}) as leaves, anyio.create_task_group() as tasks:
                tasks.start_soon(assigned, leaves)
                while len((await assigned(stays)).positions) != 1:
                    pass
            before = stays.status().rebalances
            async with transport.join("g", {"t": "earliest"}) as back:
                assert len((await assigned(back)).positions) == 1
                assert stays.status().rebalances == before
