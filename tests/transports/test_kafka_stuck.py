"""A consumer that reads no more: it is noticed, told in its status, and given up so that the supervisor starts another."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from fissile._errors import DeadlineExceeded, PositionLost, Unavailable
from fissile.abc import Member, Reader
from fissile.transports._kafka_direct import KafkaReader
from fissile.transports._kafka_group import KafkaMember
from fissile.transports.kafka import KafkaTransport
from tests.brokers.processes import BrokerProcess
from tests.transports.helpers import PATIENCE_S, assigned, numbers, opened, record, some, until, without_uvloop

STUCK_S = 1.5


def _raw(found: Member | Reader) -> Any:  # Any: what is inside aiokafka
    assert isinstance(found, (KafkaMember, KafkaReader))
    return found.source.consumer._raw


async def _fails(found: Member | Reader, match: str) -> None:
    text = ""
    with anyio.fail_after(15.0):
        while not text:
            try:
                await found.receive()
            except Unavailable as error:
                text = str(error)
    assert match in text


@asynccontextmanager
async def _both(transport: KafkaTransport) -> AsyncGenerator[tuple[Member, Reader]]:
    async with transport.join("g", {"t": "earliest"}) as member, transport.read([("t", 0)], "latest") as reader:
        yield member, reader


async def test_a_fetcher_that_was_cancelled_is_noticed(apache_kafka: str) -> None:
    """aiokafka#983, #1154: nothing comes any more, and nothing says so."""
    async with opened(apache_kafka) as transport:
        async with _both(transport) as (member, reader):
            await assigned(member)
            for found in (member, reader):
                transport._bridge.to_loop(_raw(found)._fetcher._fetch_task.cancel)
                await _fails(found, "fetcher has ended")
        async with transport.join("g", {"t": "earliest"}) as member:  # another one works
            await assigned(member)


async def test_a_coordination_that_has_ended_is_noticed(apache_kafka: str) -> None:
    async with opened(apache_kafka) as transport, transport.join("g", {"t": "earliest"}) as member:
        await assigned(member)
        transport._bridge.to_loop(_raw(member)._coordinator._coordination_task.cancel)
        await _fails(member, "coordination has ended")


@without_uvloop
async def test_a_member_that_its_group_refuses_is_told_so(apache_kafka: str) -> None:
    async with (
        opened(apache_kafka, kafka_session_s=7200.0) as transport,
        transport.join("g", {"t": "earliest"}) as member,
    ):
        await _fails(member, "InvalidSessionTimeoutError")


@without_uvloop
async def test_a_lag_that_does_not_shrink_is_noticed(apache_kafka: str) -> None:
    async with (
        opened(apache_kafka, partitions=1, kafka_stuck_s=STUCK_S) as transport,
        transport.join("g", {"t": "earliest"}) as member,
    ):
        await assigned(member)
        assert isinstance(member, KafkaMember)

        async def never(*_: object) -> object:
            await asyncio.sleep(3600)
            return {}

        member.source.consumer.receive = never  # type: ignore[method-assign, assignment]
        await anyio.sleep(1.1)  # the read that is under way ends
        await transport.append([record(1, partition=0)])
        await _fails(member, "is stuck")


@without_uvloop
async def test_a_full_window_is_not_taken_for_a_consumer_that_is_stuck(apache_kafka: str) -> None:
    async with (
        opened(apache_kafka, partitions=1, kafka_stuck_s=2 * STUCK_S) as transport,
        transport.join("g", {"t": "earliest"}) as member,
    ):
        await assigned(member)
        member.pause([("t", 0)])
        await transport.append([record(1, partition=0)])
        with anyio.move_on_after(4 * STUCK_S + 1.0):
            pytest.fail(f"received {await member.receive()!r}")
        await until(lambda: member.status().silent_s < 1.0, "the broker answers it")
        await until(lambda: member.status().lag == 1, "the lag is known")
        member.resume([("t", 0)])
        assert numbers(await some(member, 1)) == [1]


@without_uvloop
@pytest.mark.parametrize("seconds", [-3600.0, 3600.0])
async def test_a_clock_that_is_set_makes_no_consumer_stuck(
    embedded_kafka: str, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    from aiokafka.consumer import fetcher

    async with opened(embedded_kafka, partitions=1, kafka_stuck_s=STUCK_S) as transport, _both(transport) as both:
        await assigned(both[0])
        # aiokafka's notes of when the broker has answered, from now on: as if the clock had been set between them and a look at them.
        clock = SimpleNamespace(time=lambda: time.time() - seconds, monotonic=time.monotonic)
        monkeypatch.setattr(fetcher, "time", clock)
        began = time.monotonic()
        await until(lambda: time.monotonic() > began + 3 * STUCK_S, "they would have been replaced")
        assert max(found.status().silent_s for found in both) < STUCK_S
        await transport.append([record(1, partition=0)])
        for found in both:
            assert numbers(await some(found, 1)) == [1]


@without_uvloop
async def test_a_frozen_broker_shows_as_silence_which_ends_with_it(own_apache_kafka: BrokerProcess) -> None:
    async with (
        # A session that outlasts the silence, however slow the machine is: this is not about a member that its group has given up.
        opened(own_apache_kafka.server, partitions=1, kafka_session_s=30.0) as transport,
        _both(transport) as (member, reader),
    ):
        await assigned(member)
        await until(lambda: max(member.status().silent_s, reader.status().silent_s) < 1.5, "both are well")
        try:
            own_apache_kafka.stop()
            await until(lambda: min(member.status().silent_s, reader.status().silent_s) > 2.0, "silence is told")
        finally:
            own_apache_kafka.go_on()
        await until(lambda: max(member.status().silent_s, reader.status().silent_s) < 1.5, "both are well again")
        while True:
            try:
                await transport.append([record(1, partition=0)])
                break
            except Unavailable:
                await anyio.sleep(0.1)
        # What was not confirmed may be stored all the same, and then it is stored twice.
        assert set(numbers(await some(reader, 1))) == {1}
        assert set(numbers(await some(member, 1))) == {1}


@without_uvloop
async def test_who_is_silent_for_too_long_is_given_up(own_apache_kafka: BrokerProcess) -> None:
    async with opened(own_apache_kafka.server, partitions=1, kafka_stuck_s=STUCK_S, kafka_append_s=1.0) as transport:
        try:
            async with transport.join("g", {"t": "earliest"}) as member:
                await assigned(member)
                own_apache_kafka.stop()
                await _fails(member, "no answer for")
        finally:
            own_apache_kafka.go_on()
        await until_it_serves(transport)
        async with opened(own_apache_kafka.server, partitions=1, prefix=transport.options.prefix) as another:
            await until_one_is_assigned(another)


async def until_one_is_assigned(transport: KafkaTransport) -> None:
    """Join as the engine does, which replaces a member that fails: a group whose broker was frozen may fail the first one."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                async with transport.join("g", {"t": "earliest"}) as member:
                    await assigned(member)
                    return
            except Unavailable:
                await anyio.sleep(0.05)


async def until_it_serves(transport: KafkaTransport) -> None:
    """Wait until a broker that was frozen leads its partitions again: it may have fenced itself."""
    with anyio.fail_after(PATIENCE_S):
        while True:
            try:
                await transport.append([record(0, partition=0)])
            except (Unavailable, DeadlineExceeded):
                await anyio.sleep(0.05)
            else:
                return


@without_uvloop
async def test_a_reader_whose_position_has_expired_is_told_so(apache_kafka: str) -> None:
    from aiokafka import TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

    async with opened(apache_kafka, partitions=1) as transport, transport.read([("t", 0)], "earliest") as reader:
        assert isinstance(reader, KafkaReader)
        place = TopicPartition(f"{transport.options.prefix}t", 0)

        async def cut() -> None:
            _raw(reader).pause(place)
            admin = AIOKafkaAdminClient(bootstrap_servers=list(transport.options.servers))
            await admin.start()
            try:
                await asyncio.sleep(0.6)  # the fetch that is under way ends
                await transport._producers.current()._raw.send_and_wait(place.topic, b"1", partition=0)  # type: ignore[union-attr]
                await transport._producers.current()._raw.send_and_wait(place.topic, b"2", partition=0)  # type: ignore[union-attr]
                await admin.delete_records({place: RecordsToDelete(before_offset=2)})
            finally:
                await admin.close()
            _raw(reader).resume(place)

        await transport._bridge.call(cut)
        with anyio.fail_after(10.0), pytest.raises(PositionLost, match=r"t\[0\] at 0"):
            await reader.receive()
