"""Rule 12: a subscriber that fails is tried again, holding back its own key only, and at last its event is a dead letter."""

import json
from collections.abc import Callable, Sequence

import anyio
import pytest
from attrs import frozen

from fissile import App, Contract, Event, Module, Retry, Topic, Unavailable
from fissile.abc import Outgoing, Stored
from fissile.testing import ManualClock
from fissile.transports.memory import MemoryTransport
from tests.runtime.helpers import app_of, client_of, log_of, quick, settle, until


@frozen
class Happened(Event):
    number: int
    key: str = "k"


happened = Topic("maker.happened", Happened, key=lambda event: event.key)
maker = Module(Contract("maker", messages=[Happened], topics=[happened]))
WITHIN_S = 1000.0


class Fragile:
    """A subscriber that fails when told to, and remembers what it saw."""

    def __init__(self, fails: Callable[[Happened, int], BaseException | None], retry: Retry = Retry()) -> None:  # noqa: B008
        self.tries: list[int] = []
        self.done: list[int] = []
        self.module = Module(Contract("reader", messages=[]))

        @self.module.subscribe(happened, retry=retry)
        async def on_happened(event: Happened) -> None:
            self.tries.append(event.number)
            error = fails(event, self.tries.count(event.number))
            if error is not None:
                raise error
            self.done.append(event.number)


def dead(app: App) -> int:
    told = app.statistics()["reader"].consumer
    assert told is not None
    return told.dead


def fails_first(times: int) -> Callable[[Happened, int], BaseException | None]:
    return lambda event, tried: ValueError(f"try {tried}") if event.number == 1 and tried <= times else None


def always(event: Happened, tried: int) -> BaseException | None:
    return ValueError(f"try {tried}") if event.number == 1 else None


async def test_a_failed_event_is_tried_again() -> None:
    clock, reader = ManualClock(), Fragile(fails_first(2))
    async with app_of(maker, reader.module, clock=clock) as app:
        await app.bus.publish(Happened(1))
        for tries in (1, 2):
            await clock.wait_sleeping(at_most_s=WITHIN_S)
            assert len(reader.tries) == tries
            clock.advance(WITHIN_S)
        await until(lambda: reader.done == [1])
        assert dead(app) == 0
        assert app.statistics()["reader"].failed["maker.happened"] == 2
        assert app.statistics()["reader"].handled["maker.happened"] == 1


async def test_the_next_attempt_does_not_come_before_its_pause_is_over() -> None:
    clock, reader = ManualClock(), Fragile(fails_first(1), Retry(first_s=8.0, jitter=0.0))
    async with app_of(maker, reader.module, clock=clock) as app:
        await app.bus.publish(Happened(1))
        assert await clock.wait_sleeping(at_most_s=WITHIN_S) == 8.0
        clock.advance(7.9)
        await settle()
        assert reader.tries == [1]
        clock.advance(0.2)
        await until(lambda: reader.done == [1])


async def test_pauses_double_up_to_the_longest() -> None:
    clock, reader = ManualClock(), Fragile(always, Retry(attempts=5, first_s=1.0, longest_s=3.0, jitter=0.0))
    async with app_of(maker, reader.module, clock=clock) as app:
        await app.bus.publish(Happened(1))
        pauses: list[float] = []
        for _ in range(4):
            pauses.append(await clock.wait_sleeping(at_most_s=WITHIN_S))
            clock.advance(pauses[-1])
        await until(lambda: dead(app) == 1)
    assert pauses == [1.0, 2.0, 3.0, 3.0]


async def test_pauses_vary_by_the_jitter() -> None:
    clock, reader = ManualClock(), Fragile(always, Retry(attempts=9, first_s=1.0, longest_s=1.0, jitter=0.5))
    async with app_of(maker, reader.module, clock=clock) as app:
        await app.bus.publish(Happened(1))
        pauses: list[float] = []
        for _ in range(8):
            pauses.append(await clock.wait_sleeping(at_most_s=WITHIN_S))
            clock.advance(pauses[-1])
        await until(lambda: dead(app) == 1)
    assert len(set(pauses)) == 8
    assert all(0.5 <= pause <= 1.5 for pause in pauses)


async def test_a_failed_event_holds_back_its_own_key_only() -> None:
    clock, reader = ManualClock(), Fragile(fails_first(1))
    async with app_of(maker, reader.module, clock=clock, settings=quick(partitions=1)) as app:
        for event in (Happened(1), Happened(2), Happened(3, "other")):
            await app.bus.publish(event)
        await until(lambda: reader.done == [3])
        await settle()
        assert reader.done == [3]
        await clock.wait_sleeping(at_most_s=WITHIN_S)
        clock.advance(WITHIN_S)
        await until(lambda: reader.done == [3, 1, 2])


async def test_what_always_fails_is_a_dead_letter_with_reason_traceback_and_origin() -> None:
    clock, reader = ManualClock(), Fragile(always, Retry(attempts=3))
    async with app_of(maker, reader.module, clock=clock) as app:
        await app.bus.publish(Happened(1))
        for _ in range(2):
            await clock.wait_sleeping(at_most_s=WITHIN_S)
            clock.advance(WITHIN_S)
        await until(lambda: dead(app) == 1)
        (letter,) = await app.dead_letters()
        assert await app.dead_letters("reader") == (letter,)
        assert await app.dead_letters("maker") == ()
    assert (letter.module, letter.handler) == ("reader", "reader.on_happened")
    assert (letter.name, letter.key, json.loads(letter.body)) == ("maker.happened", "k", {"number": 1, "key": "k"})
    assert (letter.error_type, letter.reason, letter.attempts) == ("ValueError", "try 3", 3)
    assert "ValueError: try 3" in letter.traceback
    assert "on_happened" in letter.traceback
    assert (letter.topic, letter.offset) == ("maker.happened", 0)
    assert letter.message_id


async def test_after_a_dead_letter_its_key_and_its_partition_go_on() -> None:
    clock, reader = ManualClock(), Fragile(always, Retry(attempts=1))
    async with app_of(maker, reader.module, clock=clock, settings=quick(partitions=1)) as app:
        for event in (Happened(1), Happened(2), Happened(3, "other")):
            await app.bus.publish(event)
        await until(lambda: sorted(reader.done) == [2, 3])
        assert dead(app) == 1


async def test_an_error_for_which_there_is_no_point_is_not_tried_again() -> None:
    clock = ManualClock()
    reader = Fragile(lambda event, tried: KeyError("gone"), Retry(permanent=(LookupError,)))
    async with app_of(maker, reader.module, clock=clock) as app:
        await app.bus.publish(Happened(1))
        await until(lambda: dead(app) == 1)
    assert reader.tries == [1]


async def test_a_record_that_cannot_be_decoded_is_a_dead_letter_at_once_and_the_partition_goes_on() -> None:
    clock, log, reader = ManualClock(), log_of(), Fragile(lambda event, tried: None)
    async with app_of(maker, reader.module, clock=clock, transport=client_of(log)) as app:
        headers = (("ce_type", b"maker.happened"), ("ce_id", b"poison"))
        await client_of(log).append([Outgoing("maker.happened", b"k", b"{nonsense", headers)])
        await app.bus.publish(Happened(2))
        await until(lambda: reader.done == [2])
        (letter,) = await app.dead_letters()
    assert (letter.message_id, letter.body, letter.attempts) == ("poison", b"{nonsense", 1)
    assert reader.tries == [2]


@pytest.mark.parametrize("error", [SystemExit(1), ExceptionGroup("", [ValueError("x")])])
async def test_a_subscriber_cannot_end_its_process(error: BaseException) -> None:
    clock, reader = ManualClock(), Fragile(lambda event, tried: error if event.number == 1 else None, Retry(attempts=1))
    async with app_of(maker, reader.module, clock=clock) as app:
        await app.bus.publish(Happened(1))
        await app.bus.publish(Happened(2))
        await until(lambda: reader.done == [2])
        assert dead(app) == 1


async def test_two_subscribers_of_one_event_fail_each_on_its_own() -> None:
    clock, log = ManualClock(), log_of()
    fine: list[int] = []
    reader = Fragile(always, Retry(attempts=2))

    @reader.module.subscribe(happened)
    async def also(event: Happened) -> None:
        fine.append(event.number)

    async with app_of(maker, reader.module, clock=clock, transport=client_of(log)) as app:
        await app.bus.publish(Happened(1))
        await clock.wait_sleeping(at_most_s=WITHIN_S)
        clock.advance(WITHIN_S)
        await until(lambda: dead(app) == 1)
        (letter,) = await app.dead_letters()
    assert fine == [1]
    assert letter.handler == "reader.on_happened"


async def test_a_failed_handler_is_not_cut_short_by_the_pause_of_another_key() -> None:
    clock, reader = ManualClock(), Fragile(lambda event, tried: ValueError() if tried == 1 else None)
    async with app_of(maker, reader.module, clock=clock, settings=quick(partitions=1)) as app:
        for number in range(4):
            await app.bus.publish(Happened(number, f"key {number}"))
        await clock.wait_sleeping(at_most_s=WITHIN_S, count=4)
        clock.advance(WITHIN_S)
        await until(lambda: sorted(reader.done) == [0, 1, 2, 3])


async def test_a_subscriber_whose_task_group_fails_is_tried_again() -> None:
    clock = ManualClock()
    tries: list[int] = []
    module = Module(Contract("reader", messages=[]))

    @module.subscribe(happened)
    async def on_happened(event: Happened) -> None:
        async def child() -> None:
            tries.append(event.number)
            if len(tries) == 1:
                raise ValueError

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            tasks.start_soon(anyio.sleep, 0)

    async with app_of(maker, module, clock=clock) as app:
        await app.bus.publish(Happened(1))
        await clock.wait_sleeping(at_most_s=WITHIN_S)
        clock.advance(WITHIN_S)
        await until(lambda: app.statistics()["reader"].handled["maker.happened"] == 1)
    assert tries == [1, 1]


async def test_an_event_is_not_done_before_its_dead_letter_is_stored() -> None:
    clock, log, reader = ManualClock(), log_of(), Fragile(always, Retry(attempts=1))
    refusals = 2

    class Refusing(MemoryTransport):
        async def append(self, records: Sequence[Outgoing]) -> Stored:
            nonlocal refusals
            if records[0].topic == "reader.dead-letters" and refusals:
                refusals -= 1
                raise Unavailable("the log is away")
            return await super().append(records)

    settings = quick(partitions=1)
    async with app_of(maker, reader.module, clock=clock, transport=Refusing(log), settings=settings) as app:
        await app.bus.publish(Happened(1))
        for _ in range(2):
            await clock.wait_sleeping(at_most_s=WITHIN_S)
            told = app.statistics()["reader"].consumer
            assert told is not None
            assert (told.dead, told.in_hand) == (0, 1)
            clock.advance(WITHIN_S)
        await until(lambda: dead(app) == 1)
        assert len(await app.dead_letters()) == 1
    assert reader.tries == [1]


async def test_an_event_whose_dead_letter_was_never_stored_comes_again() -> None:
    clock, log, reader = ManualClock(), log_of(), Fragile(always, Retry(attempts=1))

    class Refusing(MemoryTransport):
        async def append(self, records: Sequence[Outgoing]) -> Stored:
            if records[0].topic == "reader.dead-letters":
                raise Unavailable("the log is away")
            return await super().append(records)

    settings = quick(partitions=1, drain_s=0.05)
    async with app_of(maker, reader.module, clock=clock, transport=Refusing(log), settings=settings) as app:
        await app.bus.publish(Happened(1))
        await clock.wait_sleeping(at_most_s=WITHIN_S)
    second = Fragile(lambda event, tried: None)
    async with app_of(maker, second.module, transport=client_of(log), settings=quick(partitions=1)):
        await until(lambda: second.done == [1])
