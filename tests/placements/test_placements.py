"""Moving a module to another process changes nothing that its code or its tests can see, except time."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import anyio
import attrs
import pytest
from attrs import frozen

from fissile import Bus, CallRefused, HandlerFailed, InvalidMessage, MessageTooLarge, Settings
from fissile.testing import PLACEMENTS, Placement, placed
from tests.figures import figure
from tests.placements import sides
from tests.placements.history import History, differences, perform
from tests.placements.modules import (
    Act,
    Answer,
    AskFront,
    CallFront,
    Happened,
    Reflect,
    Reflection,
    Refused,
    back,
    events,
    front,
)
from tests.placements.workload import Operation, generate

SEEDS = int(os.environ.get("FISSILE_TEST_SEEDS", "100"))
FEW = 10
"""How many times fewer seeds run on the embedded broker: it shares the code with Apache Kafka, and grows with its history."""
PATIENCE_S = 20.0
SETTINGS = Settings(partitions=4, reply_partitions=4, commit_interval_s=0.1, chain_depth=8)


@frozen
class Where:
    """A placement, and the fixture of the broker of `split`."""

    placement: Placement
    broker: str = ""

    def __str__(self) -> str:
        return f"{self.placement}-{self.broker.partition('_')[0]}".rstrip("-")


BROKERS = ("embedded_kafka", "apache_kafka")
EVERYWHERE = (*(Where(one) for one in PLACEMENTS if one != "split"), *(Where("split", broker) for broker in BROKERS))


@pytest.fixture(params=EVERYWHERE, ids=str)
def where(request: pytest.FixtureRequest) -> Where:
    found: Where = request.param
    return found


@pytest.fixture
def broker(request: pytest.FixtureRequest, where: Where, anyio_backend: Any) -> str | None:
    """The broker of the placement `split`; None for the others."""
    if where.placement != "split":
        return None
    if anyio_backend[1].get("use_uvloop"):
        pytest.skip("the processes of a split choose their event loop themselves")
    if where.broker == "embedded_kafka" and anyio_backend[0] == "trio":
        pytest.skip("what Trio has of its own is tried on Apache Kafka")
    return f"kafka://{request.getfixturevalue(where.broker)}"


@asynccontextmanager
async def running(where: Where, broker: str | None, backend: Any) -> AsyncGenerator[Bus]:
    settings = attrs.evolve(SETTINGS, backend=backend[0])
    async with placed(where.placement, [front, back], broker=broker, settings=settings) as bus:
        yield bus


@pytest.fixture
async def bus(where: Where, broker: str | None, anyio_backend: Any) -> AsyncGenerator[Bus]:
    async with running(where, broker, anyio_backend) as opened:
        yield opened


async def test_a_reply_arrives_as_it_was_given(bus: Bus) -> None:
    reply = await bus.ask(Reflect("é🦆", (2**63 - 1,), {"a": None, "b": 0.5}))
    assert reply == Reflection("é🦆", (2**63 - 1,), {"a": None, "b": 0.5}, (), None)


async def test_a_handler_knows_the_chain_that_led_to_it(bus: Bus) -> None:
    reply = await bus.ask(AskFront("x"))
    assert (reply.chain, reply.caller) == (("back.ask-front",), "back")


async def test_a_declared_error_arrives_with_its_fields_and_without_a_cause(bus: Bus) -> None:
    with pytest.raises(Refused) as refused:
        await bus.execute(Act("k", ("turn", "refuse:because")))
    assert refused.value == Refused("because", (1,))
    assert (refused.value.__cause__, refused.value.__context__) == (None, None)


async def test_any_other_error_is_a_failed_handler_without_its_traceback(bus: Bus) -> None:
    with pytest.raises(HandlerFailed) as failed:
        await bus.execute(CallFront("k", ("fail:broken",)))
    assert (failed.value.message_name, failed.value.error_type) == ("back.call-front", "HandlerFailed")
    assert "front.act failed with ValueError: broken" in failed.value.error_text
    assert failed.value.__cause__ is None


async def test_a_message_that_does_not_fit_is_refused_before_it_is_sent(bus: Bus) -> None:
    with pytest.raises(InvalidMessage):
        await bus.execute(Answer(2**70))
    with pytest.raises(MessageTooLarge):
        await bus.execute(Act("x" * 2_000_000, ()))


async def test_a_chain_that_is_too_deep_is_refused(bus: Bus) -> None:
    assert SETTINGS.chain_depth == 8
    with pytest.raises((CallRefused, HandlerFailed)):
        await bus.execute(CallFront("k", ("call:1",) * 2 + ("fail:deep",)))


async def test_a_handler_that_fails_publishes_nothing(bus: Bus) -> None:
    async with bus.tap(events) as tap:
        with pytest.raises(HandlerFailed):
            await bus.execute(Act("k", ("publish:lost", "fail:broken")))
        await bus.execute(Act("k", ("publish:kept",)))
        with anyio.fail_after(20):
            tapped = await anext(tap)
    assert tapped.event == Happened("k", "kept")


async def test_who_gives_up_stops_the_handler(bus: Bus) -> None:
    with anyio.move_on_after(0.1) as scope:
        await bus.execute(Act("k", ("wait",)))
    assert scope.cancelled_caught
    # The module is as responsive as before.
    assert await bus.execute(Answer(1)) == 1


@pytest.mark.timeout(max(300, 3 * SEEDS))
@pytest.mark.parametrize("where", EVERYWHERE[1:], ids=str)
async def test_generated_workloads_come_to_the_same_in_every_placement(
    where: Where, broker: str | None, anyio_backend: Any
) -> None:
    first = SEEDS if anyio_backend[0] == "trio" else 0  # other seeds on the other loop
    settings = attrs.evolve(sides.SETTINGS, backend=anyio_backend[0], kafka_prefix=f"t{uuid4().hex[:8]}.")
    is_embedded = where.broker == "embedded_kafka"  # it is no match for several members of a group
    replicas = 1 if is_embedded else 2
    other = sides.in_process("repeats") if broker is None else sides.split(broker, settings, replicas=replicas)
    count = SEEDS if broker is not None else max(1, SEEDS // 4)  # loopback is also what test_planted.py begins with
    count = max(1, SEEDS // FEW) if is_embedded else count
    async with sides.in_process("local") as here, other as there:
        assert there.early == here.early == ["one", "two"]
        for seed in range(first, first + count):
            operations = generate(seed, 8, crashes=broker is None, strays=broker is not None)
            if broker is None:  # the modules of both count what runs in this process
                histories = [await perform(side, operations, seed, PATIENCE_S) for side in (here, there)]
            else:
                histories = await _at_once((here, there), operations, seed)
            assert differences(*histories) == [], f"seed {seed}: {operations}"
    figure(f"{count} generated workloads in one process and in {where}, {anyio_backend[0]}: no difference")


async def _at_once(placements: Sequence[sides.Side], operations: list[Operation], seed: int) -> list[History]:
    histories = [History() for _ in placements]

    async def one(number: int) -> None:
        histories[number] = await perform(placements[number], operations, seed, PATIENCE_S)

    async with anyio.create_task_group() as tasks:
        for number in range(len(placements)):
            tasks.start_soon(one, number)
    return histories
