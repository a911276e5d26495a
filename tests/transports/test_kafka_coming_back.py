"""A process that starts beside a broker that is just coming back: what passes is waited for, what does not is told at once."""

from __future__ import annotations

from collections.abc import Awaitable
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

import pytest
from attrs import define, field

from fissile import Settings, StartupFailed
from fissile._application import Application
from fissile._errors import Unavailable
from fissile.abc import TopicSpec
from fissile.cli._kafka_view import KafkaView, look
from tests.transports.helpers import assigned, kafka, numbers, opened, record, some, without_uvloop

SPEC = TopicSpec("t", 2, 3600.0)


@define(eq=False)
class Broker:
    """What clients see of a broker.

    Attributes:
        absent: How many more of its answers name no brokers, no controller and no leaders, as those of a broker do that was missed.
        asked: What it was asked, by the name of the request.
    """

    absent: float = 0
    asked: list[str] = field(factory=list[str])

    def changed(self, answer: Any) -> Any:  # Any: the library has no types, here and below
        """Return an answer as clients are to have it."""
        if self.absent <= 0 or not type(answer).__name__.startswith("MetadataResponse"):
            return answer
        self.absent -= 1
        answer.brokers, answer.controller_id = [], -1
        answer.topics = [(code, name, *more, list(map(_leaderless, all_))) for code, name, *more, all_ in answer.topics]
        return answer


def _leaderless(partition: tuple[Any, ...]) -> tuple[Any, ...]:
    _, number, _, *more = partition
    return (5, number, -1, *more)


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    from aiokafka.conn import AIOKafkaConnection

    found, send = Broker(), AIOKafkaConnection.send

    async def changed(answer: Awaitable[Any]) -> Any:
        return found.changed(await answer)

    def sent(connection: Any, request: Any, expect_response: bool = True) -> Any:
        found.asked.append(type(request).__name__)
        return changed(send(connection, request, expect_response))

    monkeypatch.setattr(AIOKafkaConnection, "send", sent)
    return found


@without_uvloop
async def test_a_process_that_starts_while_its_broker_comes_back_waits_for_it(
    apache_kafka: str, broker: Broker
) -> None:
    broker.absent = 3
    async with kafka(apache_kafka) as transport:
        assert broker.absent == 0
        for found in ("are made", "are there"):
            for absent in (1, 3):  # what is asked first, and what is asked in the middle
                broker.absent = absent
                await transport.ensure([SPEC])
                assert broker.absent == 0, f"topics {found}"


@without_uvloop
async def test_topics_that_have_no_leaders_for_a_moment_are_found(apache_kafka: str, broker: Broker) -> None:
    async with opened(apache_kafka) as first, kafka(apache_kafka, first.options.prefix) as second:
        find = second._find

        async def found_absent(topics: Any) -> dict[str, int]:
            broker.absent = 3
            return await find(topics)

        second._find = found_absent  # type: ignore[method-assign]
        await second.append([record(1, partition=0)])
        assert broker.absent == 0


@without_uvloop
async def test_members_and_readers_that_begin_while_their_broker_comes_back_wait_for_it(
    apache_kafka: str, broker: Broker
) -> None:
    async with opened(apache_kafka) as transport:
        await transport.append([record(1, partition=0)])
        broker.absent = 3
        async with transport.join("g", {"t": "earliest"}) as member:
            await assigned(member)
            assert numbers(await some(member, 1)) == [1]
        broker.absent = 3
        async with transport.read([("t", 0)], "earliest") as reader:
            assert numbers(await some(reader, 1)) == [1]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it takes seconds, all of them in asyncio's loop
async def test_a_broker_that_does_not_come_back_is_unavailable_in_time(apache_kafka: str, broker: Broker) -> None:
    async with kafka(apache_kafka, kafka_session_s=0.5, kafka_revoke_s=0.5) as transport:
        broker.absent = float("inf")
        began = monotonic()
        with pytest.raises(Unavailable, match=r"Topics cannot be made: .*it was tried again for"):
            await transport.ensure([SPEC])
        assert monotonic() - began > 2 * transport.options.request_s
        broker.absent = 0
        await transport.ensure([SPEC])


@without_uvloop
async def test_what_does_not_pass_is_not_tried_again(apache_kafka: str, broker: Broker) -> None:
    async with kafka(apache_kafka) as transport:
        with pytest.raises(StartupFailed, match="InvalidTopic"):
            await transport.ensure([TopicSpec("no topic", 1, 3600.0)])
        assert broker.asked.count("CreateTopicsRequest") == 1
    async with kafka(apache_kafka, kafka_replication=3) as transport:
        with pytest.raises(StartupFailed, match="InvalidReplicationFactor"):
            await transport.ensure([SPEC])
        assert broker.asked.count("CreateTopicsRequest") == 2


def test_commands_that_look_at_a_broker_that_comes_back_wait_for_it(apache_kafka: str, broker: Broker) -> None:
    settings = Settings(bus=f"kafka://{apache_kafka}")
    application = cast("Application", SimpleNamespace(settings=settings, name="shop"))
    refusals = 2

    async def ask(view: KafkaView) -> dict[str, int]:
        nonlocal refusals
        refusals -= 1
        if refusals >= 0:
            from aiokafka.errors import NodeNotReadyError

            raise NodeNotReadyError
        return await view.topics(["nowhere"])

    broker.absent = 3
    assert look(application, ask, "topics") == {}
    assert (broker.absent, refusals) == (0, -1)
