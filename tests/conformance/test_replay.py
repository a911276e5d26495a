"""A topic read from its beginning up to now, on each transport."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import pytest
from attrs import frozen

from fissile import App, Bus, Command, Contract, Event, Module, PositionLost, Settings, Topic
from fissile.abc import Outgoing, Transport
from fissile.testing import ManualClock
from tests.conformance.conftest import Log
from tests.conformance.driver import PATIENCE_S, out, spec


@frozen
class Counted(Event):
    key: str
    number: int


@frozen
class CountAll(Command[Mapping[str, tuple[int, ...]]]):
    """Read the topic in a handler."""


counted = Topic("counter.counted", Counted, key=lambda event: event.key)


def counter() -> Module:
    module = Module(Contract("counter", messages=[Counted, CountAll], topics=[counted]))

    @module.command(CountAll, idempotent=True)
    async def count_all(command: CountAll, bus: Bus) -> Mapping[str, tuple[int, ...]]:
        return {key: tuple(numbers) for key, numbers in (await replayed(bus)).items()}

    return module


@asynccontextmanager
async def process(log: Log, *, partitions: int = 3, is_loopback: bool = False) -> AsyncIterator[App]:
    settings = Settings(partitions=partitions, reply_partitions=2, commit_interval_s=0.01)
    async with App(
        [counter()], settings=settings, transport=log.unopened(), is_loopback=is_loopback, repeats=False
    ) as app:
        yield app


async def publish(app: App, *numbers: int, keys: int = 5) -> None:
    for number in numbers:
        await app.bus.publish(Counted(f"k{number % keys}", number))


def histories(*numbers: int, keys: int = 5) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for number in numbers:
        found[f"k{number % keys}"].append(number)
    return dict(found)


async def replayed(bus: Bus, key: str | None = None) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    with anyio.fail_after(PATIENCE_S):
        async with bus.replay(counted, key=key) as events:
            async for kept in events:
                found[kept.event.key].append(kept.event.number)
    return dict(found)


async def test_a_replay_gives_each_event_that_is_kept_once_in_order_per_key_and_ends(log: Log) -> None:
    async with process(log) as app:
        assert await replayed(app.bus) == {}
        await publish(app, *range(60))
        assert await replayed(app.bus) == histories(*range(60))
        assert await replayed(app.bus, "k2") == {"k2": histories(*range(60))["k2"]}
        async with process(log) as other:
            assert await replayed(other.bus) == histories(*range(60))


async def test_a_replay_ends_with_what_was_there_when_it_was_opened_and_a_tap_goes_on_after_it(log: Log) -> None:
    async with process(log) as app:
        await publish(app, *range(20))
        with anyio.fail_after(PATIENCE_S):
            async with app.bus.replay(counted) as events:
                await publish(app, *range(20, 30))
                found = [kept.event.number async for kept in events]
                assert [kept async for kept in events] == []
            assert sorted(found) == [*range(20)]
            async with app.bus.tap(counted, after=events.position) as tap:
                assert sorted([(await anext(tap)).event.number for _ in range(10)]) == [*range(20, 30)]
            async with app.bus.replay(counted, after=events.position) as rest:
                assert sorted([kept.event.number async for kept in rest]) == [*range(20, 30)]


@pytest.mark.parametrize("is_loopback", [False, True], ids=["local", "through the log"])
async def test_the_handler_of_a_command_can_replay_a_topic(log: Log, is_loopback: bool) -> None:
    async with process(log, is_loopback=is_loopback) as app:
        await publish(app, *range(10))
        assert await app.bus.execute(CountAll()) == {key: tuple(each) for key, each in histories(*range(10)).items()}


# --- on logs whose clock a test owns ---------------------------------------------------------------------------------

OnAClock = Callable[[ManualClock, int], Log]


async def test_a_replay_tells_when_an_event_was_published(log_on_a_clock: OnAClock) -> None:
    clock = ManualClock()
    log = log_on_a_clock(clock, 100_000)
    async with process(log) as app, log.open() as other:
        await other.ensure([spec(counted.name, 3)])
        described = (("ce_type", b"counter.counted"), ("ce_time", b"2024-05-06T07:08:09.010Z"))
        body = b'{"key":"k","number":1}'
        silent = Outgoing(counted.name, b"k", body, described[:1])
        await other.append([Outgoing(counted.name, b"k", body, described), silent])
        async with app.bus.replay(counted) as events:
            first, second = [kept async for kept in events]
    assert first.published_at == datetime(2024, 5, 6, 7, 8, 9, 10_000, tzinfo=UTC)
    assert second.published_at == datetime.fromtimestamp(first.timestamp_ms / 1000, UTC)


async def until_only_one_is_kept(transport: Transport) -> None:
    with anyio.fail_after(PATIENCE_S):
        while True:
            async with transport.read([(counted.name, 0)], "earliest") as reader:
                if reader.ends[counted.name, 0] - reader.begins[counted.name, 0] == 1:
                    return
            await anyio.sleep(0.001)


async def test_what_expires_before_a_replay_has_read_it_is_passed_over(log_on_a_clock: OnAClock) -> None:
    # More than a reader holds of it, so that it has something to read when the log has let go of the beginning.
    clock, log_size = ManualClock(), 100_000_000
    log = log_on_a_clock(clock, log_size)
    async with process(log, partitions=1) as app, log.open() as other:
        await other.ensure([spec(counted.name, 1)])
        filler = [out(counted.name, "x" * 9000) for _ in range(1500)]
        await other.append(filler)
        await publish(app, 1)
        async with (
            app.bus.replay(counted) as events,
            app.bus.replay(counted, after="0:0") as strict,
        ):
            clock.advance(8 * 86_400)
            await publish(app, 2)
            await until_only_one_is_kept(other)
            with anyio.fail_after(PATIENCE_S):
                assert [kept.event.number async for kept in events] == []
                with pytest.raises(PositionLost):
                    [kept async for kept in strict]
        assert await replayed(app.bus) == {"k2": [2]}
