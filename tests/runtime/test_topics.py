"""Rules 10 and 11: when events are published, and in which order they are handled."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio
import pytest
from attrs import frozen

from fissile import (
    Bus,
    Caller,
    CallRefused,
    Command,
    Contract,
    Event,
    HandlerFailed,
    InvalidMessage,
    Module,
    Query,
    Retry,
    Topic,
    Unavailable,
    UnknownMessage,
)
from fissile.abc import Outgoing, Stored
from fissile.testing import ManualClock
from fissile.transports.memory import MemoryTransport
from tests.runtime.helpers import app_of, client_of, log_of, quick, settle, until


@frozen
class Act(Command[None]):
    pass


@frozen
class Look(Query[str]):
    pass


@frozen
class Happened(Event):
    number: int
    key: str = "k"


@frozen
class Progressed(Event):
    number: int


@frozen
class Unlisted(Event):
    pass


happened = Topic("maker.happened", Happened, Progressed, key=lambda event: getattr(event, "key", "p"))
maker_contract = Contract("maker", messages=[Act, Happened, Progressed], topics=[happened])
Acting = Callable[[Bus], Coroutine[Any, Any, None]]
Subscriber = Callable[[Happened], Coroutine[Any, Any, None]]


async def nothing(bus: Bus) -> None:
    """Do nothing."""


def maker(acting: Acting = nothing) -> Module:
    module = Module(maker_contract)

    @module.command(Act, idempotent=True)
    async def act(command: Act, bus: Bus) -> None:
        await acting(bus)

    return module


def reader(subscriber: Subscriber, name: str = "reader", retry: Retry = Retry()) -> Module:  # noqa: B008 -- frozen
    module = Module(Contract(name, messages=[], topics=[]))

    @module.subscribe(happened, Happened, retry=retry)
    async def on_happened(event: Happened) -> None:
        await subscriber(event)

    return module


class Seen:
    def __init__(self) -> None:
        self.events: list[Happened] = []

    async def __call__(self, event: Happened) -> None:
        self.events.append(event)

    @property
    def numbers(self) -> list[int]:
        return [event.number for event in self.events]


# --- publish ---------------------------------------------------------------------------------------------------------


async def test_an_event_of_a_handler_is_sent_when_the_handler_succeeds() -> None:
    inside, door, seen = anyio.Event(), anyio.Event(), Seen()

    async def acting(bus: Bus) -> None:
        await bus.publish(Happened(1))
        inside.set()
        await door.wait()

    async with app_of(maker(acting), reader(seen)) as app, anyio.create_task_group() as tasks:
        tasks.start_soon(app.bus.execute, Act())
        await inside.wait()
        await settle()
        assert seen.numbers == []
        door.set()
        await until(lambda: seen.numbers == [1])


async def test_a_handler_that_fails_publishes_nothing() -> None:
    seen = Seen()

    async def acting(bus: Bus) -> None:
        await bus.publish(Happened(1))
        raise ValueError

    async with app_of(maker(acting), reader(seen)) as app:
        with pytest.raises(HandlerFailed):
            await app.bus.execute(Act())
        await settle()
        assert seen.numbers == []


async def test_a_handler_that_is_cancelled_publishes_nothing() -> None:
    seen = Seen()

    async def acting(bus: Bus) -> None:
        await bus.publish(Happened(1))
        await anyio.sleep_forever()

    async with app_of(maker(acting), reader(seen)) as app:
        with anyio.move_on_after(0.02):
            await app.bus.execute(Act())
        await settle()
        assert seen.numbers == []


async def test_a_handler_whose_reply_cannot_be_sent_publishes_nothing() -> None:
    seen = Seen()
    module = Module(Contract("bad", messages=[Look]))
    other = Module(maker_contract)

    @module.query(Look)
    async def look(query: Look) -> str:
        return 1  # type: ignore[return-value]

    @other.command(Act, idempotent=True)
    async def act(command: Act, bus: Bus) -> None:
        await bus.publish(Happened(1))
        return 1  # type: ignore[return-value]

    async with app_of(other, module, reader(seen)) as app:
        with pytest.raises(HandlerFailed):
            await app.bus.execute(Act())
        await settle()
        assert seen.numbers == []


async def test_publish_now_does_not_wait_for_the_handler() -> None:
    seen = Seen()

    async def acting(bus: Bus) -> None:
        await bus.publish_now(Happened(1))
        await until(lambda: seen.numbers == [1])
        raise ValueError

    async with app_of(maker(acting), reader(seen)) as app:
        with pytest.raises(HandlerFailed, match="ValueError"):
            await app.bus.execute(Act())
        assert seen.numbers == [1]


async def test_events_of_a_handler_keep_the_order_of_their_publication() -> None:
    seen = Seen()

    async def acting(bus: Bus) -> None:
        for number in range(5):
            await bus.publish(Happened(number))

    async with app_of(maker(acting), reader(seen)) as app:
        await app.bus.execute(Act())
        await until(lambda: seen.numbers == [0, 1, 2, 3, 4])


async def test_outside_of_a_handler_publish_returns_when_the_event_is_stored() -> None:
    log = log_of()
    async with (
        app_of(maker(), transport=client_of(log)) as app,
        client_of(log).read([("maker.happened", n) for n in range(4)], "earliest") as stored,
    ):
        await app.bus.publish(Happened(1))
        assert stored.status().lag == 1


async def test_publish_never_runs_a_subscriber_inline() -> None:
    door, seen = anyio.Event(), Seen()

    async def waits(event: Happened) -> None:
        await door.wait()
        await seen(event)

    async with app_of(maker(), reader(waits)) as app:
        with anyio.fail_after(5):
            await app.bus.publish(Happened(1))
        await settle()
        assert seen.numbers == []
        door.set()
        await until(lambda: seen.numbers == [1])


async def test_publish_never_raises_the_error_of_a_subscriber() -> None:
    async def fails(event: Happened) -> None:
        raise ValueError

    clock = ManualClock()
    async with app_of(maker(), reader(fails, retry=Retry(attempts=1)), clock=clock) as app:
        await app.bus.publish(Happened(1))
        await until(lambda: app.statistics()["reader"].consumer.dead == 1)  # type: ignore[union-attr]


async def test_a_bus_that_outlives_its_handler_publishes_nothing() -> None:
    kept: list[Bus] = []

    async def acting(bus: Bus) -> None:
        kept.append(bus)

    async with app_of(maker(acting)) as app:
        await app.bus.execute(Act())
        with pytest.raises(CallRefused, match="has ended"):
            await kept[0].publish(Happened(1))


async def test_an_event_that_no_topic_carries_is_refused() -> None:
    async with app_of(maker()) as app:
        with pytest.raises(UnknownMessage, match="No topic of the application carries"):
            await app.bus.publish(Unlisted())


async def test_an_event_whose_key_cannot_be_made_is_refused() -> None:
    broken = Topic("broken.events", Unlisted, key=lambda event: event.nothing)  # type: ignore[attr-defined]
    module = Module(Contract("broken", messages=[Unlisted], topics=[broken]))
    async with app_of(module) as app:
        with pytest.raises(InvalidMessage, match="its key cannot be made"):
            await app.bus.publish(Unlisted())


async def test_an_event_whose_key_is_too_long_is_refused() -> None:
    long = Topic("broken.events", Unlisted, key=lambda event: "k" * 4097)
    module = Module(Contract("broken", messages=[Unlisted], topics=[long]))
    async with app_of(module) as app:
        with pytest.raises(InvalidMessage, match="4097 bytes and the limit is 4096"):
            await app.bus.publish(Unlisted())


async def test_every_subscribed_module_gets_every_event() -> None:
    first, second = Seen(), Seen()
    async with app_of(maker(), reader(first, "first"), reader(second, "second")) as app:
        await app.bus.publish(Happened(1))
        await until(lambda: first.numbers == second.numbers == [1])


async def test_a_subscriber_of_one_event_class_does_not_get_the_others_of_the_topic() -> None:
    seen = Seen()
    async with app_of(maker(), reader(seen)) as app:
        await app.bus.publish(Progressed(1))
        await app.bus.publish(Happened(2))
        await until(lambda: seen.numbers)
        await settle()
    assert seen.events == [Happened(2)]


async def test_a_subscriber_learns_who_published() -> None:
    callers: list[Caller] = []
    module = Module(Contract("curious", messages=[]))

    @module.subscribe(happened, Happened)
    async def on_happened(event: Happened, caller: Caller) -> None:
        callers.append(caller)

    async def acting(bus: Bus) -> None:
        await bus.publish(Happened(1))

    async with app_of(maker(acting), module) as app:
        await app.bus.execute(Act(), id="the-act")
        await until(lambda: callers)
    assert (callers[0].module, callers[0].message_id) == ("maker", "the-act.1")


async def test_unknown_fields_of_a_message_are_passed_over() -> None:
    """A newer publisher may have added one."""
    log, seen = log_of(), Seen()
    async with app_of(maker(), reader(seen), transport=client_of(log)):
        record = Outgoing(
            "maker.happened",
            b"k",
            b'{"number": 7, "key": "k", "added": {"later": [1]}}',
            (("ce_type", b"maker.happened"), ("ce_id", b"x")),
        )
        await client_of(log).append([record])
        await until(lambda: seen.events == [Happened(7, "k")])


@pytest.mark.parametrize("header", ["fissile-correlation", "fissile-cancel"])
async def test_what_stands_in_a_topic_is_an_event_whatever_else_its_headers_say(header: str) -> None:
    """Who writes to a topic may be no fissile."""
    log, seen = log_of(), Seen()
    async with app_of(maker(), reader(seen), transport=client_of(log)):
        headers = (("ce_type", b"maker.happened"), (header, b"1"), ("fissile-reply-to", b"replies/0"))
        body = b'{"number": 7, "key": "k"}'
        record = Outgoing("maker.happened", b"k", body, (*headers, ("fissile-budget-ms", b"1000")))
        await client_of(log).append([record])
        await until(lambda: seen.events == [Happened(7, "k")])


async def test_a_handler_whose_events_cannot_be_stored_has_failed() -> None:
    class Refusing(MemoryTransport):
        async def append(self, records: Sequence[Outgoing]) -> Stored:
            raise Unavailable("the log is away")

    async def acting(bus: Bus) -> None:
        await bus.publish(Happened(1))

    async with app_of(maker(acting), transport=Refusing(log_of())) as app:
        with pytest.raises(HandlerFailed, match="the log is away"):
            await app.bus.execute(Act())
        with pytest.raises(Unavailable):
            await app.bus.publish(Happened(1))


async def test_a_cancellation_that_comes_when_the_handler_has_succeeded_does_not_tear_its_events() -> None:
    seen, scope = Seen(), anyio.CancelScope()

    class Slow(MemoryTransport):
        async def append(self, records: Sequence[Outgoing]) -> Stored:
            scope.cancel()
            await settle()
            return await super().append(records)

    async def acting(bus: Bus) -> None:
        await bus.publish(Happened(1))
        await bus.publish(Happened(2))

    async with app_of(maker(acting), reader(seen), transport=Slow(log_of())) as app:
        with scope:
            await app.bus.execute(Act())
        await until(lambda: seen.numbers == [1, 2])


# --- order -----------------------------------------------------------------------------------------------------------


async def test_events_of_one_key_are_handled_one_after_the_other_in_their_order() -> None:
    seen, running, peak = Seen(), 0, 0

    async def slow(event: Happened) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        for _ in range(5 - event.number):
            await anyio.lowlevel.checkpoint()
        running -= 1
        await seen(event)

    async with app_of(maker(), reader(slow)) as app:
        for number in range(5):
            await app.bus.publish(Happened(number))
        await until(lambda: len(seen.events) == 5)
    assert seen.numbers == [0, 1, 2, 3, 4]
    assert peak == 1


async def test_a_slow_key_does_not_hold_back_the_other_keys_of_its_partition() -> None:
    door, seen = anyio.Event(), Seen()

    async def slow(event: Happened) -> None:
        if event.key == "slow":
            await door.wait()
        await seen(event)

    async with app_of(maker(), reader(slow), settings=quick(partitions=1)) as app:
        await app.bus.publish(Happened(1, "slow"))
        await app.bus.publish(Happened(2, "slow"))
        await app.bus.publish(Happened(3, "quick"))
        await until(lambda: seen.numbers == [3])
        door.set()
        await until(lambda: seen.numbers == [3, 1, 2])


async def test_no_more_of_a_partition_is_in_hand_than_the_window() -> None:
    door, running, peak, seen = anyio.Event(), 0, 0, Seen()

    async def waits(event: Happened) -> None:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await door.wait()
        running -= 1
        await seen(event)

    async with app_of(maker(), reader(waits), settings=quick(partitions=1, window=3)) as app:
        await app.bus.execute(Act())
        for number in range(10):
            await app.bus.publish(Happened(number, f"key {number}"))
        await until(lambda: running == 3)
        await settle()
        told = app.statistics()["reader"].consumer
        assert told is not None
        assert running == 3
        assert told.in_hand == 3
        assert told.pauses >= 1
        door.set()
        await until(lambda: len(seen.events) == 10)
    assert peak <= 3


async def test_a_full_window_of_one_partition_does_not_hold_back_another() -> None:
    from fissile._partitioner import partition_of

    door, seen = anyio.Event(), Seen()

    async def waits(event: Happened) -> None:
        if event.number == 0:
            await door.wait()
        await seen(event)

    names = [f"key {number}" for number in range(50)]
    first = [name for name in names if partition_of(name.encode(), 2) == 0][:3]
    second = next(name for name in names if partition_of(name.encode(), 2) == 1)
    async with app_of(maker(), reader(waits), settings=quick(partitions=2, window=2)) as app:
        for name in first:
            await app.bus.publish(Happened(0, name))
        await app.bus.publish(Happened(1, second))
        await until(lambda: seen.numbers == [1])
        door.set()
        await until(lambda: len(seen.events) == 4)
