"""The delivery engine on top of each transport: applications that share a log, and what their handlers saw, as histories per key."""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from attrs import define, field, frozen

from fissile import App, Bus, Caller, Command, Contract, Event, Module, Retry, Settings, Topic
from tests.conformance.conftest import Log
from tests.conformance.driver import settle, until

KEYS = 8


@frozen
class Moved(Event):
    key: str
    number: int


@frozen
class Do(Command[None], key="key"):
    key: str
    number: int


moved = Topic("robot.moved", Moved, key=lambda event: event.key)


def robot() -> Module:
    return Module(Contract("robot", messages=[Moved], topics=[moved]))


@define(eq=False)
class Recorder:
    """Writes down what handlers saw, per key, whichever process they were in."""

    histories: dict[str, list[int]] = field(factory=lambda: defaultdict(list))
    by_process: dict[str, int] = field(factory=lambda: defaultdict(int))
    running: set[str] = field(factory=set)
    overlaps: list[str] = field(factory=list)
    gate: Callable[[Moved], object] | None = None
    door: anyio.Event = field(factory=anyio.Event)
    failing: set[tuple[str, int]] = field(factory=set)

    def module(self, process: str, retry: Retry = Retry()) -> Module:  # noqa: B008 -- frozen
        module = Module(Contract("reader", messages=[]))

        @module.subscribe(moved, retry=retry)
        async def on_moved(event: Moved) -> None:
            if event.key in self.running:
                self.overlaps.append(event.key)
            self.running.add(event.key)
            try:
                await anyio.lowlevel.checkpoint()
                if (event.key, event.number) in self.failing:
                    raise ValueError(f"{event.key} {event.number}")
                if self.gate is not None and self.gate(event):
                    await self.door.wait()
                self.histories[event.key].append(event.number)
                self.by_process[process] += 1
            finally:
                self.running.discard(event.key)

        return module

    @property
    def count(self) -> int:
        return sum(map(len, self.histories.values()))

    def first_occurrences(self) -> dict[str, list[int]]:
        """The histories without what came again."""
        return {key: list(dict.fromkeys(numbers)) for key, numbers in self.histories.items()}


def quick(**values: object) -> Settings:
    return Settings(**{"partitions": 4, "commit_interval_s": 0.01, "drain_s": 5.0, **values})  # type: ignore[arg-type]


@asynccontextmanager
async def process(log: Log, *modules: Module, settings: Settings | None = None) -> AsyncIterator[App]:
    """One process of an application, with a client of the log."""
    async with App([robot(), *modules], settings=settings or quick(), transport=log.unopened()) as app:
        yield app


async def publish(app: App, numbers: range, keys: int = KEYS) -> None:
    for number in numbers:
        await app.bus.publish(Moved(f"key {number % keys}", number))


def expected(numbers: range, keys: int = KEYS) -> dict[str, list[int]]:
    return {f"key {key}": [number for number in numbers if number % keys == key] for key in range(keys)}


async def test_each_key_has_the_history_of_its_publication(log: Log) -> None:
    recorder = Recorder()
    async with process(log, recorder.module("one")) as app:
        await publish(app, range(100))
        await until(lambda: recorder.count == 100)
    assert recorder.histories == expected(range(100))
    assert recorder.overlaps == []


async def test_two_processes_of_one_module_share_the_keys_and_keep_their_order(log: Log) -> None:
    recorder = Recorder()
    async with process(log, recorder.module("one")) as first, process(log, recorder.module("two")):
        await publish(first, range(200))
        await until(lambda: recorder.count >= 200)
        await settle()
    assert recorder.histories == expected(range(200))
    assert recorder.overlaps == []
    assert set(recorder.by_process) == {"one", "two"}


async def test_nothing_is_lost_or_out_of_order_while_processes_come_and_go(log: Log) -> None:
    recorder = Recorder()
    count = 300

    async def flow(app: App) -> None:
        await publish(app, range(count))

    async with process(log, recorder.module("one")) as first, anyio.create_task_group() as tasks:
        tasks.start_soon(flow, first)
        for number in range(3):
            before = recorder.count
            async with process(log, recorder.module(f"guest {number}")):
                await until(lambda before=before: recorder.count > min(before + 20, count - 1))  # type: ignore[misc]
        await until(lambda: sum(map(len, recorder.first_occurrences().values())) == count)
    assert recorder.first_occurrences() == expected(range(count))
    assert recorder.overlaps == []


async def test_a_drain_hands_over_without_repeating_anything(log: Log) -> None:
    recorder = Recorder()
    async with process(log, recorder.module("one")) as first:
        async with process(log, recorder.module("two")):
            await publish(first, range(100))
            await until(lambda: recorder.count >= 50)
        await until(lambda: recorder.count >= 100)
        await settle()
    assert recorder.histories == expected(range(100))


async def test_what_was_not_committed_comes_again_after_a_crash(log: Log) -> None:
    recorder = Recorder()
    recorder.gate = lambda event: event.number >= 40
    with anyio.CancelScope() as life:
        async with process(log, recorder.module("one")) as app:
            await publish(app, range(80))
            await until(lambda: recorder.count == 40)
            life.cancel()
            await anyio.sleep_forever()
    recorder.gate = None
    async with process(log, recorder.module("two")):
        await until(lambda: sum(map(len, recorder.first_occurrences().values())) == 80)
    assert recorder.first_occurrences() == expected(range(80))


async def test_a_crash_while_another_process_lives_hands_its_work_over(log: Log) -> None:
    recorder = Recorder()
    async with process(log, recorder.module("survivor")) as survivor:
        with anyio.CancelScope() as life:
            async with process(log, recorder.module("victim")):
                await publish(survivor, range(100))
                await until(lambda: recorder.count >= 30)
                life.cancel()
                await anyio.sleep_forever()
        await until(lambda: sum(map(len, recorder.first_occurrences().values())) == 100)
    assert recorder.first_occurrences() == expected(range(100))


async def test_a_full_window_pauses_its_partition_and_is_counted(log: Log) -> None:
    recorder = Recorder()
    recorder.gate = lambda event: True
    async with process(log, recorder.module("one"), settings=quick(partitions=1, window=4)) as app:
        await publish(app, range(30))
        told = app.statistics()["reader"].consumer
        await until(lambda: len(recorder.running) == 4)
        await settle()
        told = app.statistics()["reader"].consumer
        assert told is not None
        assert told.in_hand == 4
        assert told.pauses >= 1
        recorder.door.set()
        await until(lambda: recorder.count == 30)
    assert recorder.histories == expected(range(30))


async def test_a_poison_message_is_a_dead_letter_and_its_partition_goes_on(log: Log) -> None:
    recorder = Recorder()
    recorder.failing = {("key 1", 1)}
    retry = Retry(attempts=2, first_s=0.001, jitter=0.0)
    async with process(log, recorder.module("one", retry), settings=quick(partitions=1)) as app:
        await publish(app, range(40))
        await until(lambda: recorder.count == 39)
        await until(lambda: app.statistics()["reader"].consumer.dead == 1)  # type: ignore[union-attr]
        (letter,) = await app.dead_letters("reader")
    assert recorder.histories == {**expected(range(40)), "key 1": [9, 17, 25, 33]}
    assert (letter.key, letter.reason, letter.attempts) == ("key 1", "key 1 1", 2)


async def test_a_dead_letter_is_stored_before_its_offset_is_committed(log: Log) -> None:
    recorder = Recorder()
    recorder.failing = {("key 0", 0)}
    async with process(log, recorder.module("one", Retry(attempts=1))) as app:
        await publish(app, range(1))
        await until(lambda: app.statistics()["reader"].consumer.dead == 1)  # type: ignore[union-attr]
    async with process(log, recorder.module("two")) as app:
        await settle()
        assert len(await app.dead_letters("reader")) == 1
    assert recorder.count == 0


async def test_a_message_that_fails_while_its_partition_is_taken_is_handled_by_the_next_owner_in_order(
    log: Log,
) -> None:
    recorder = Recorder()
    recorder.failing = {("key 0", 0)}
    retry = Retry(attempts=50, first_s=0.01, jitter=0.0)
    async with process(log, recorder.module("one", retry), settings=quick(partitions=1)) as first:
        await publish(first, range(3), keys=1)
        await until(lambda: first.statistics()["reader"].consumer.retried >= 1)  # type: ignore[union-attr]
        async with process(log, recorder.module("two", retry), settings=quick(partitions=1)):
            await settle()
            recorder.failing.clear()
            await until(lambda: recorder.count >= 3)
    assert recorder.first_occurrences() == expected(range(3), keys=1)
    assert recorder.overlaps == []


@pytest.mark.parametrize("members", [1, 2])
async def test_sent_commands_of_one_key_keep_their_order(log: Log, members: int) -> None:
    histories: dict[str, list[int]] = defaultdict(list)

    def doer() -> Module:
        module = Module(Contract("doer", messages=[Do]))

        @module.command(Do, idempotent=True)
        async def do(command: Do, bus: Bus, caller: Caller) -> None:
            await anyio.lowlevel.checkpoint()
            histories[command.key].append(command.number)
            await bus.publish(Moved(command.key, command.number))

        return module

    recorder = Recorder()
    async with process(log, doer(), recorder.module("one")) as app:
        if members == 1:
            for number in range(40):
                await app.bus.send(Do(f"key {number % KEYS}", number))
            await until(lambda: recorder.count == 40)
        else:
            async with process(log, doer(), recorder.module("two")):
                for number in range(40):
                    await app.bus.send(Do(f"key {number % KEYS}", number))
                await until(lambda: recorder.count >= 40)
    assert histories == expected(range(40))
    assert recorder.first_occurrences() == expected(range(40))
