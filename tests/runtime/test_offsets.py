"""Rules 13, 14 and 15: what is committed and when, where a subscriber starts, taps, and what is kept."""

import logging

import anyio
import pytest
from attrs import frozen

from fissile import (
    App,
    Contract,
    Event,
    Fault,
    Module,
    PositionLost,
    Retry,
    StartupFailed,
    Topic,
)
from fissile.abc import Assigned, Outgoing, Start
from fissile.testing import ManualClock
from fissile.transports.memory import MemoryLog, MemoryTransport
from tests.runtime.helpers import app_of, client_of, log_of, quick, settle, until


@frozen
class Happened(Event):
    number: int
    key: str = "k"


happened = Topic("maker.happened", Happened, key=lambda event: event.key)
maker = Module(Contract("maker", messages=[Happened], topics=[happened]))


class Reader:
    """A subscriber whose events wait at a door, if there is one."""

    def __init__(self, start: Start = "earliest", retry: Retry = Retry()) -> None:  # noqa: B008
        self.seen: list[int] = []
        self.began: list[int] = []
        self.failing: set[int] = set()
        self.doors: dict[int, anyio.Event] = {}
        self.module = Module(Contract("reader", messages=[]))

        @self.module.subscribe(happened, start=start, retry=retry)
        async def on_happened(event: Happened) -> None:
            self.began.append(event.number)
            if event.number in self.failing:
                raise ValueError
            if event.number in self.doors:
                await self.doors[event.number].wait()
            self.seen.append(event.number)


async def committed(log: MemoryLog) -> int:
    """The position from which the group of the reader goes on, of all partitions together."""
    async with client_of(log).join("reader", {"maker.happened": "earliest"}) as member:
        assigned = await member.receive()
        assert isinstance(assigned, Assigned)
        return sum(assigned.positions.values())


async def publish(app: App, *numbers: int, key: str | None = None) -> None:
    for number in numbers:
        await app.bus.publish(Happened(number, key or f"key {number}"))


# --- offsets ---------------------------------------------------------------------------------------------------------


async def test_what_was_handled_is_committed_when_the_process_stops_and_does_not_come_again() -> None:
    log, first, second = log_of(), Reader(), Reader()
    async with app_of(maker, first.module, transport=client_of(log)) as app:
        await publish(app, 1, 2, 3)
        await until(lambda: len(first.seen) == 3)
    assert await committed(log) == 3
    async with app_of(maker, second.module, transport=client_of(log)) as app:
        await publish(app, 4)
        await until(lambda: second.seen)
    assert second.seen == [4]


async def test_offsets_are_committed_regularly_and_not_one_by_one() -> None:
    log, reader, clock = log_of(), Reader(), ManualClock()
    settings = quick(commit_interval_s=5.0, partitions=1)
    async with app_of(maker, reader.module, clock=clock, transport=client_of(log), settings=settings) as app:
        await publish(app, 1, 2, 3)
        await until(lambda: len(reader.seen) == 3)
        assert log.group("reader").committed["maker.happened", 0] == 0
        await clock.wait_sleeping(at_most_s=5)
        clock.advance(5)
        await until(lambda: log.group("reader").committed["maker.happened", 0] == 3)


async def test_an_offset_is_not_committed_before_its_event_was_handled() -> None:
    log, reader, clock = log_of(), Reader(), ManualClock()
    reader.doors[2] = anyio.Event()
    settings = quick(commit_interval_s=5.0, partitions=1)
    async with app_of(maker, reader.module, clock=clock, transport=client_of(log), settings=settings) as app:
        await publish(app, 1, 2, 3)
        await until(lambda: sorted(reader.seen) == [1, 3])
        await clock.wait_sleeping(at_most_s=5)
        clock.advance(5)
        await until(lambda: log.group("reader").committed["maker.happened", 0] == 1)
        reader.doors[2].set()
        await until(lambda: len(reader.seen) == 3)
        await clock.wait_sleeping(at_most_s=5)
        clock.advance(5)
        await until(lambda: log.group("reader").committed["maker.happened", 0] == 3)


async def test_an_event_that_waits_for_its_next_attempt_holds_back_the_offset() -> None:
    log, reader, clock = log_of(), Reader(), ManualClock()
    reader.failing.add(1)
    async with app_of(maker, reader.module, clock=clock, transport=client_of(log), settings=quick(partitions=1)) as app:
        await publish(app, 1, 2)
        await until(lambda: reader.seen == [2])
    second = Reader()
    async with app_of(maker, second.module, transport=client_of(log), settings=quick(partitions=1)):
        await until(lambda: 1 in second.seen)


async def test_what_a_process_had_in_hand_when_it_was_killed_comes_again() -> None:
    log, first, second = log_of(), Reader(), Reader()
    first.doors[2] = anyio.Event()
    settings = quick(partitions=1)
    with anyio.CancelScope() as life:
        async with app_of(maker, first.module, transport=client_of(log), settings=settings) as app:
            await publish(app, 1, 2, 3, key="k")
            await until(lambda: first.began == [1, 2])
            life.cancel()
            await anyio.sleep_forever()
    async with app_of(maker, second.module, transport=client_of(log), settings=settings):
        await until(lambda: second.seen == [1, 2, 3])


class Durable(MemoryTransport):
    """What waits in its log is there after a stop, so that a drain need not handle it."""

    durable = True


@pytest.mark.parametrize("client", [MemoryTransport, Durable])
async def test_a_drain_finishes_what_is_being_handled_and_commits_it(client: type[MemoryTransport]) -> None:
    log, reader, stop, ready = log_of(), Reader(), anyio.Event(), anyio.Event()
    reader.doors[1] = anyio.Event()
    app = app_of(maker, reader.module, transport=client(log))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: app.run(stop=stop, on_ready=lambda _: ready.set()))
        await ready.wait()
        headers = (("ce_type", b"maker.happened"),)
        await client_of(log).append([Outgoing("maker.happened", b"k", b'{"number": 1}', headers)])
        await until(lambda: reader.began == [1])
        stop.set()
        await settle()
        assert reader.seen == []
        reader.doors[1].set()
    assert reader.seen == [1]
    assert await committed(log) == 1


async def test_a_drain_of_a_durable_log_leaves_what_has_not_begun_for_later() -> None:
    log, reader, second = log_of(), Reader(), Reader()
    reader.doors[1] = anyio.Event()
    settings = quick(partitions=1)
    async with app_of(maker, reader.module, transport=Durable(log), settings=settings) as app:
        await publish(app, 1, 2, 3, key="k")
        await until(lambda: reader.began == [1])
        reader.doors[1].set()
    async with app_of(maker, second.module, transport=Durable(log), settings=settings):
        await until(lambda: reader.seen + second.seen == [1, 2, 3])


async def test_a_drain_that_takes_too_long_gives_up_and_commits_nothing_of_it() -> None:
    log, reader, second = log_of(), Reader(), Reader()
    reader.doors[1] = anyio.Event()
    async with app_of(maker, reader.module, transport=client_of(log), settings=quick(drain_s=0.05)) as app:
        await publish(app, 1)
        await until(lambda: reader.began == [1])
    assert reader.seen == []
    async with app_of(maker, second.module, transport=client_of(log)):
        await until(lambda: second.seen == [1])


async def test_a_message_that_came_back_failed_after_its_partition_was_taken_is_not_tried_here_again() -> None:
    log, clock = log_of(), ManualClock()
    failed = anyio.Event()
    tries: list[str] = []

    def module(name: str, door: anyio.Event | None) -> Module:
        it = Module(Contract("reader", messages=[]))

        @it.subscribe(happened)
        async def on_happened(event: Happened) -> None:
            tries.append(name)
            if door is not None:
                await door.wait()
                failed.set()
                raise ValueError

        return it

    settings = quick(partitions=1)
    async with app_of(
        maker, module("first", door := anyio.Event()), transport=client_of(log), settings=settings, clock=clock
    ) as app:
        await publish(app, 1)
        await until(lambda: tries == ["first"])
        async with anyio.create_task_group() as tasks:
            # Another member: everything is taken from the first one, which lets its handler finish; it fails.
            async def other() -> None:
                async with client_of(log).join("reader", {"maker.happened": "earliest"}) as member:
                    await member.receive()

            tasks.start_soon(other)
            await settle()
            door.set()
            await failed.wait()
            await settle()
        before = len(tries)
        clock.advance(1000)
        await settle()
        # Once for the redelivery to this member, and no second time for the attempt that was due.
        assert len(tries) <= before + 1
        told = app.statistics()["reader"].consumer
        assert told is not None
        assert told.in_hand <= 1


# --- where a subscriber starts ---------------------------------------------------------------------------------------


async def test_a_new_subscriber_starts_at_the_earliest_event_that_is_kept() -> None:
    log, reader = log_of(), Reader()
    async with app_of(maker, transport=client_of(log)) as app:
        await publish(app, 1, 2)
    async with app_of(maker, reader.module, transport=client_of(log)):
        await until(lambda: sorted(reader.seen) == [1, 2])


async def test_a_new_subscriber_that_asks_for_the_latest_does_not_get_what_was_before() -> None:
    log, reader = log_of(), Reader("latest")
    async with app_of(maker, transport=client_of(log)) as app:
        await publish(app, 1, 2)
    async with app_of(maker, reader.module, transport=client_of(log)) as app:
        await publish(app, 3)
        await until(lambda: reader.seen == [3])


async def test_a_subscriber_that_started_at_the_latest_misses_nothing_while_it_is_away() -> None:
    log, first, second = log_of(), Reader("latest"), Reader("latest")
    async with app_of(maker, first.module, transport=client_of(log)):
        pass
    async with app_of(maker, transport=client_of(log)) as app:
        await publish(app, 1)
    async with app_of(maker, second.module, transport=client_of(log)):
        await until(lambda: second.seen == [1])


# --- taps ------------------------------------------------------------------------------------------------------------


async def test_a_tap_reads_from_now_on() -> None:
    async with app_of(maker) as app:
        await publish(app, 1)
        async with app.bus.tap(happened) as tap:
            await publish(app, 2, 3, key="k")
            assert [(await anext(tap)).event.number, (await anext(tap)).event.number] == [2, 3]


async def test_a_tap_tells_name_id_key_and_time() -> None:
    clock = ManualClock()
    async with app_of(maker, clock=clock) as app, app.bus.tap(happened) as tap:
        await publish(app, 1, key="k")
        tapped = await anext(tap)
    assert (tapped.event, tapped.name, tapped.key) == (Happened(1, "k"), "maker.happened", "k")
    assert tapped.id.startswith("id-")
    assert tapped.timestamp_ms == int(clock.now().timestamp() * 1000)


async def test_a_tap_goes_on_after_the_position_of_a_former_one() -> None:
    async with app_of(maker) as app:
        async with app.bus.tap(happened) as tap:
            await publish(app, 1, 2, 3)
            first = await anext(tap)
        async with app.bus.tap(happened, after=first.position) as tap:
            rest = {(await anext(tap)).event.number for _ in range(2)}
    assert {first.event.number} | rest == {1, 2, 3}


async def test_the_position_of_a_tap_that_has_read_nothing_is_where_it_began() -> None:
    async with app_of(maker) as app:
        async with app.bus.tap(happened) as tap:
            position = tap.position
            await publish(app, 1)
        async with app.bus.tap(happened, after=position) as tap:
            assert (await anext(tap)).event.number == 1


async def test_a_tap_of_one_key_reads_only_its_events() -> None:
    async with app_of(maker, settings=quick(partitions=1)) as app, app.bus.tap(happened, key="b") as tap:
        for number, key in enumerate("abab"):
            await publish(app, number, key=key)
        assert [(await anext(tap)).event.number, (await anext(tap)).event.number] == [1, 3]


async def test_every_tap_gets_every_event_and_commits_nothing() -> None:
    log = log_of()
    async with (
        app_of(maker, transport=client_of(log)) as one,
        app_of(maker, transport=client_of(log)) as two,
        one.bus.tap(happened) as first,
        two.bus.tap(happened) as second,
        two.bus.tap(happened) as third,
    ):
        await publish(one, 1)
        assert [(await anext(tap)).event.number for tap in (first, second, third)] == [1, 1, 1]
        assert not any(group.startswith("maker") and log.group(group).committed for group in ("maker",))


async def test_a_cancelled_tap_loses_nothing() -> None:
    async with app_of(maker, settings=quick(partitions=1)) as app, app.bus.tap(happened) as tap:
        got: list[int] = []
        for number in range(20):
            with anyio.move_on_after(0):
                got.append((await anext(tap)).event.number)
            await publish(app, number)
        while len(got) < 20:
            got.append((await anext(tap)).event.number)
    assert got == list(range(20))


async def test_a_tap_passes_over_what_it_cannot_decode() -> None:
    log = log_of()
    async with (
        app_of(maker, transport=client_of(log), settings=quick(partitions=1)) as app,
        app.bus.tap(happened) as tap,
    ):
        await client_of(log).append(
            [
                Outgoing("maker.happened", b"k", b"{nonsense", (("ce_type", b"maker.happened"),)),
                Outgoing("maker.happened", b"k", b"{}", (("ce_type", b"maker.something-else"),)),
            ]
        )
        await publish(app, 3)
        assert (await anext(tap)).event.number == 3


@pytest.mark.parametrize("position", ["nonsense", "1", "0:x", "0:-1", "0:999"])
async def test_a_position_that_the_log_does_not_have_is_lost(position: str) -> None:
    async with app_of(maker) as app:
        with pytest.raises(PositionLost):
            async with app.bus.tap(happened, after=position):
                pass


async def test_a_tap_that_was_too_slow_is_told() -> None:
    log = log_of(retention_bytes=100)
    async with (
        app_of(maker, transport=client_of(log), settings=quick(partitions=1)) as app,
        app.bus.tap(happened) as tap,
    ):
        await publish(app, *range(50))
        with pytest.raises(PositionLost, match="expired"):
            await anext(tap)


# --- what is kept ----------------------------------------------------------------------------------------------------


async def test_memory_says_at_start_that_it_keeps_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with App([maker]):
            pass
    assert any("keeps nothing across a stop" in record.getMessage() for record in caplog.records)


async def test_memory_keeps_nothing_across_a_stop() -> None:
    reader = Reader()
    async with app_of(maker) as app:
        await publish(app, 1)
    async with app_of(maker, reader.module):
        await settle()
    assert reader.seen == []


async def test_a_stop_with_memory_first_handles_what_is_in_the_log() -> None:
    reader = Reader()
    async with app_of(maker, reader.module) as app:
        await publish(app, *range(30))
    assert sorted(reader.seen) == list(range(30))


def test_memory_with_more_than_one_process_is_refused() -> None:
    from fissile._placement import placement_faults

    placements = {"split": {"one": ("a",), "two": ("b",)}}
    (fault,) = placement_faults("split", placements, ("a", "b"), "pyproject.toml", log_is_shared=False)
    assert fault == Fault(
        "The placement 'split' has 2 processes, and the bus is in the memory of one.",
        "FISSILE_BUS",
        "Use a bus that processes share, or the placement 'monolith'.",
    )
    assert list(placement_faults("split", placements, ("a", "b"), "pyproject.toml", log_is_shared=True)) == []


async def test_a_bus_that_no_transport_serves_is_a_fault() -> None:
    with pytest.raises(StartupFailed, match="There is no transport for 'pigeon://'") as raised:
        async with app_of(maker, settings=quick(bus="pigeon://")):
            pass
    assert "memory://" in raised.value.faults[0].cure
