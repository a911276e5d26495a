"""Rules 5 and 6: ids that a repeat repeats, and nobody retries for a caller that waits."""

import pytest
from attrs import frozen

from fissile import (
    App,
    Bus,
    Caller,
    Command,
    Contract,
    DeclaredError,
    Event,
    HandlerFailed,
    Handling,
    Module,
    Query,
    Retry,
    StartupFailed,
    Topic,
)
from fissile.testing import ManualClock
from tests.runtime.helpers import NEVER_S, app_of, quick, settle, until


@frozen
class Full(DeclaredError):
    pass


@frozen
class Inner(Command[str], raises=(Full,)):
    fail: str = ""


@frozen
class InnerQuery(Query[str]):
    pass


@frozen
class Outer(Command[tuple[str, ...]]):
    pass


@frozen
class Happened(Event):
    number: int


happened = Topic("steps.happened", Happened, key=lambda event: str(event.number))
contract = Contract("steps", messages=[Inner, InnerQuery, Outer, Happened, Full], topics=[happened])


class Ids:
    """What handlers were told, in order."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    def note(self, name: str, caller: Caller) -> str:
        self.seen.append((name, caller.message_id, caller.attempt))
        return caller.message_id

    def of(self, name: str) -> list[str]:
        return [message_id for seen, message_id, _ in self.seen if seen == name]


def steps(ids: Ids, *, failures: int = 0) -> Module:
    module = Module(contract)

    @module.command(Inner, idempotent=True)
    async def inner(command: Inner, caller: Caller) -> str:
        ids.note("inner", caller)
        if command.fail == "declared":
            raise Full
        if command.fail or len(ids.of("inner")) <= failures:
            raise ValueError("no")
        return caller.message_id

    @module.query(InnerQuery)
    async def inner_query(query: InnerQuery, caller: Caller) -> str:
        return ids.note("query", caller)

    @module.command(Outer, idempotent=True)
    async def outer(command: Outer, bus: Bus, caller: Caller) -> tuple[str, ...]:
        ids.note("outer", caller)
        children = (await bus.execute(Inner()), await bus.ask(InnerQuery()), await bus.execute(Inner()))
        await bus.publish(Happened(1))
        return children

    @module.subscribe(happened, retry=Retry(attempts=5))
    async def on_happened(event: Happened, caller: Caller, bus: Bus) -> None:
        ids.note("event", caller)
        await bus.send(Inner())

    return module


async def test_two_commands_have_two_ids() -> None:
    async with app_of(steps(Ids())) as app:
        assert await app.bus.execute(Inner()) != await app.bus.execute(Inner())


async def test_a_caller_may_repeat_a_command_under_its_own_id() -> None:
    async with app_of(steps(Ids())) as app:
        assert await app.bus.execute(Inner(), id="mine") == "mine"


async def test_a_repeated_handler_repeats_the_ids_of_its_children() -> None:
    ids = Ids()
    async with app_of(steps(ids)) as app:
        first = await app.bus.execute(Outer(), id="mine")
        second = await app.bus.execute(Outer(), id="mine")
        other = await app.bus.execute(Outer(), id="another")
        await until(lambda: len(ids.of("event")) == 3)
    assert first == second
    assert len(set(first)) == 3
    assert not set(first) & set(other)
    assert all(child.startswith("mine.") for child in first)
    published = ids.of("event")
    assert published.count(next(each for each in published if each.startswith("mine."))) == 2


async def test_children_of_a_retried_delivery_keep_their_ids() -> None:
    ids, clock = Ids(), ManualClock()
    async with app_of(steps(ids, failures=1), clock=clock) as app:
        await app.bus.publish(Happened(1))
        await clock.wait_sleeping(at_most_s=10)
        clock.advance(10)
        await until(lambda: len(ids.of("inner")) == 2)
        assert len(set(ids.of("inner"))) == 1
        assert [attempt for name, _, attempt in ids.seen if name == "inner"] == [1, 2]
        assert ids.of("inner")[0].startswith(f"{ids.of('event')[0]}.")


async def test_a_sent_command_keeps_the_id_that_its_caller_gave() -> None:
    ids = Ids()
    async with app_of(steps(ids)) as app:
        await app.bus.send(Inner(), id="mine")
        await until(lambda: ids.of("inner"))
    assert ids.of("inner") == ["mine"]


async def test_a_command_that_does_not_say_how_it_bears_a_repeat_is_a_fault() -> None:
    module = Module(Contract("one", messages=[Inner, Full]))

    @module.command(Inner)
    async def inner(command: Inner) -> str:
        return ""

    with pytest.raises(StartupFailed, match="does not say how it bears a repeat") as raised:
        async with App([module]):
            pass
    (fault,) = raised.value.faults
    assert "idempotent=True" in fault.cure


async def test_with_a_waiting_caller_a_failure_is_not_retried() -> None:
    ids, clock = Ids(), ManualClock()
    async with app_of(steps(ids), clock=clock) as app:
        with pytest.raises(HandlerFailed):
            await app.bus.execute(Inner("failure"))
        clock.advance(NEVER_S / 2)
        await settle()
        assert len(ids.of("inner")) == 1
        assert await app.dead_letters() == ()


async def test_a_command_that_nobody_waits_for_is_retried() -> None:
    ids, clock = Ids(), ManualClock()
    async with app_of(steps(ids, failures=2), clock=clock) as app:
        await app.bus.send(Inner(), id="mine")
        for attempts in (1, 2):
            await until(lambda attempts=attempts: len(ids.of("inner")) == attempts)  # type: ignore[misc]
            await clock.wait_sleeping(at_most_s=100)
            clock.advance(100)
        await until(lambda: app.statistics()["steps"].handled["steps.inner"] == 1)
    assert ids.seen == [("inner", "mine", 1), ("inner", "mine", 2), ("inner", "mine", 3)]


async def test_a_command_that_nobody_waits_for_and_that_always_fails_goes_to_the_dead_letters() -> None:
    ids, clock = Ids(), ManualClock()
    async with app_of(steps(ids), clock=clock) as app:
        await app.bus.send(Inner("failure"), id="mine")
        for _ in range(4):
            await clock.wait_sleeping(at_most_s=100)
            clock.advance(100)
        await until(lambda: app.statistics()["steps"].consumer.dead == 1)  # type: ignore[union-attr]
        (letter,) = await app.dead_letters("steps")
    assert (letter.name, letter.message_id, letter.attempts) == ("steps.inner", "mine", 5)
    assert (letter.error_type, letter.reason) == ("ValueError", "no")
    assert letter.topic == "steps.requests"


async def test_a_declared_error_of_a_command_that_nobody_waits_for_is_final() -> None:
    ids, clock = Ids(), ManualClock()
    async with app_of(steps(ids), clock=clock) as app:
        await app.bus.send(Inner("declared"))
        await until(lambda: app.statistics()["steps"].consumer.dead == 1)  # type: ignore[union-attr]
        (letter,) = await app.dead_letters("steps")
    assert letter.error_type == "Full"
    assert letter.attempts == 1


async def test_a_handler_that_fails_sends_nothing() -> None:
    got: list[str] = []
    module = Module(Contract("sender", messages=[Inner, Outer, Full]))

    @module.command(Outer, idempotent=True)
    async def outer(command: Outer, bus: Bus) -> tuple[str, ...]:
        await bus.send(Inner())
        raise ValueError

    @module.command(Inner, idempotent=True)
    async def inner(command: Inner) -> str:
        got.append("it")
        return ""

    async with app_of(module) as app:
        with pytest.raises(HandlerFailed):
            await app.bus.execute(Outer())
        await settle()
    assert got == []


async def test_a_handler_that_succeeds_sends_when_it_has() -> None:
    order: list[str] = []
    module = Module(Contract("sender", messages=[Inner, Outer, Full]))

    @module.command(Outer, idempotent=True)
    async def outer(command: Outer, bus: Bus) -> tuple[str, ...]:
        await bus.send(Inner())
        await settle()
        order.append("outer ended")
        return ()

    @module.command(Inner, idempotent=True)
    async def inner(command: Inner) -> str:
        order.append("inner")
        return ""

    async with app_of(module) as app:
        await app.bus.execute(Outer())
        await until(lambda: len(order) == 2)
    assert order == ["outer ended", "inner"]


async def test_a_middleware_is_told_id_kind_and_attempt() -> None:
    told: list[tuple[str, str, str, int, str | None]] = []

    async def note(handling: Handling, call_next: object) -> object:
        told.append((handling.name, handling.kind, handling.message_id, handling.attempt, handling.caller))
        return await call_next()  # type: ignore[operator]

    ids = Ids()
    async with app_of(steps(ids), middleware=[note], settings=quick()) as app:
        await app.bus.execute(Outer(), id="mine")
        await until(lambda: len(told) == 6)
    assert told[:4] == [
        ("steps.outer", "command", "mine", 1, None),
        ("steps.inner", "command", "mine.1", 1, "steps"),
        ("steps.inner-query", "query", "mine.2", 1, "steps"),
        ("steps.inner", "command", "mine.3", 1, "steps"),
    ]
    assert told[4][:3] == ("steps.happened", "event", "mine.4")
