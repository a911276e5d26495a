"""What a handler publishes and sends goes through the outbox: with its effects or not at all, in order per key, after a stop too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import attrs
import pytest
from attrs import frozen
from sqlalchemy import create_engine, text

from fissile import (
    App,
    Bus,
    CallError,
    CallRefused,
    Command,
    Contract,
    Environment,
    Event,
    Module,
    Settings,
    Topic,
    Unavailable,
)
from fissile.abc import Outgoing, Stored
from fissile.database import Database, Schema
from fissile.testing import ManualClock
from fissile.transports.memory import MemoryLog, MemoryTransport
from tests.effects.shop import Hooks, Note, Place, Placed, make, metadata, placed
from tests.runtime.helpers import log_of, settle, until


class Gate(MemoryTransport):
    """A log that stores nothing while it is shut: as if the broker were away."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.is_shut = False
        self.refused = 0

    async def append(self, records: Sequence[Outgoing]) -> Stored:
        if self.is_shut:
            self.refused += 1
            raise Unavailable("The gate is shut.")
        return await super().append(records)


def rows(settings: Settings) -> list[Any]:
    """The outbox, seen from outside."""
    url = settings.database.replace("postgresql://", "postgresql+psycopg://")
    table = "fissile_outbox"
    if url.startswith("sqlite"):
        url = f"{url}/shop.sqlite3"
    else:
        table = f"{settings.database_prefix}shop.{table}"
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return list(connection.execute(text(f"SELECT seq, topic, due_ms FROM {table} ORDER BY seq")))
    finally:
        engine.dispose()


async def test_what_was_committed_is_published_in_order_once_the_log_is_back(settings: Settings) -> None:
    hooks, gate = Hooks(), Gate(log_of())
    async with App([make(hooks)], settings=settings, transport=gate) as app:
        gate.is_shut = True
        for number in range(30):
            await app.bus.execute(Place(f"key {number % 3}"))
        await until(lambda: gate.refused)
        assert any("the outbox cannot be sent" in (check.problem or "") for check in app.checks())
        gate.is_shut = False
        await until(lambda: len(hooks.seen) == 30)
        await until(lambda: all(check.problem is None for check in app.checks()))
    for key in range(3):
        assert [number for name, number in hooks.seen if name == f"key {key}"] == list(range(key + 1, 31, 3))


async def test_what_was_committed_before_a_stop_is_published_after_the_next_start(settings: Settings) -> None:
    hooks, gate = Hooks(), Gate(log_of())
    async with App([make(Hooks())], settings=settings, transport=gate) as app:
        gate.is_shut = True
        for _ in range(5):
            await app.bus.execute(Place("a"))
        await until(lambda: gate.refused)
    assert len(rows(settings)) == 5
    async with App([make(hooks)], settings=settings):
        await until(lambda: len(hooks.seen) == 5)
        await until(lambda: not rows(settings))
    assert hooks.seen == [("a", number) for number in range(1, 6)]


async def test_on_a_log_that_forgets_a_row_stays_until_every_subscriber_has_committed(settings: Settings) -> None:
    seen: list[str] = []
    may_go_on = anyio.Event()
    other = Module(Contract("other", messages=[], topics=[]))

    @other.subscribe(placed)
    async def on_placed(event: Placed) -> None:
        seen.append(event.name)
        await may_go_on.wait()

    brief = attrs.evolve(settings, drain_s=0.2)
    async with App([make(Hooks()), other], settings=brief) as app:
        await app.bus.execute(Place("a"))
        await until(lambda: seen == ["a"])
        await anyio.sleep(0.4)  # longer than a row that is done may stand
        assert len(rows(settings)) == 1
    may_go_on.set()
    async with App([make(Hooks()), other], settings=settings):
        await until(lambda: seen == ["a", "a"])
        await until(lambda: not rows(settings))


async def test_a_row_that_cannot_be_sent_does_not_hold_up_those_behind_it(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    hooks, gate = Hooks(), Gate(log_of())
    gone = Module(
        Contract("shop", messages=[Gone, OldPlace], topics=[gone_topic]), database=Schema(metadata, migrations=None)
    )

    @gone.command(OldPlace)
    async def place(command: OldPlace, database: Database) -> None:
        async with database.transaction() as tx:
            tx.publish(Gone("x"))

    async with App([gone], settings=settings, transport=gate) as app:
        gate.is_shut = True
        await app.bus.execute(OldPlace())
        await until(lambda: gate.refused)
    async with App([make(hooks)], settings=settings) as app:
        await app.bus.execute(Place("a"))
        await until(lambda: hooks.seen == [("a", 1)])
    assert "no module of the application declares the topic" in caplog.text
    assert [topic for _, topic, due_ms in rows(settings) if due_ms] == ["shop.gone"]


@frozen
class Gone(Event):
    name: str


@frozen
class OldPlace(Command[None]):
    """The command of an older version of the shop."""


gone_topic = Topic("shop.gone", Gone, key=lambda event: event.name)


# --- later -----------------------------------------------------------------------------------------------------------


def app_on(clock: ManualClock, hooks: Hooks, settings: Settings, **more: Any) -> App:
    return App([make(hooks, **more)], settings=settings, environment=Environment(clock=clock))


async def after(clock: ManualClock, seconds: float, condition: Callable[[], object]) -> None:
    """Let time go by in small steps until something holds."""
    for _ in range(200):
        if condition():
            return
        clock.advance(seconds / 200)
        await settle()
        await anyio.sleep(0.002)

    def holds_a_moment_later() -> bool:
        clock.advance(0.3)  # what it waits for may take several turns, each with a pause of its own
        return bool(condition())

    await until(holds_a_moment_later)


async def test_what_is_scheduled_is_sent_when_it_is_due_and_not_before(settings: Settings) -> None:
    hooks, clock = Hooks(), ManualClock()

    async def later(bus: Bus) -> None:
        await bus.send_after(3600.0, Note("later"))
        await bus.publish_at(clock.now() + timedelta(seconds=7200), Placed("later", 7))

    hooks.after = later
    async with app_on(clock, hooks, settings) as app:
        await app.bus.execute(Place("a"))
        await after(clock, 3500, lambda: hooks.seen == [("a", 1)])
        assert hooks.noted == []
        await after(clock, 3700, lambda: hooks.noted)
        assert hooks.seen == [("a", 1)]
        assert clock.now() >= datetime(2026, 1, 1, 1, tzinfo=UTC)
    # What is left of it survives the stop.
    hooks.after = None
    clock = ManualClock(clock.now())
    async with app_on(clock, hooks, settings):
        await after(clock, 3700, lambda: ("later", 7) in hooks.seen)
        await after(clock, 10, lambda: not rows(settings))


async def test_a_handler_that_fails_schedules_nothing(settings: Settings) -> None:
    hooks = Hooks()

    async def later(bus: Bus) -> None:
        await bus.send_after(0.0, Note("later"))

    hooks.after = later
    async with App([make(hooks)], settings=settings) as app:
        with pytest.raises(CallError):
            await app.bus.execute(Place("a", "fail after"))
        assert rows(settings) == []


async def test_who_has_no_database_cannot_schedule_and_is_told_what_to_do(settings: Settings) -> None:
    async with App([make(Hooks())], settings=settings) as app:
        with pytest.raises(CallRefused, match=r"outside of all modules.*Module\(contract, database="):
            await app.bus.send_after(1.0, Note("x"))


async def test_a_time_without_a_zone_is_refused(settings: Settings) -> None:
    hooks, problems = Hooks(), list[str]()

    async def later(bus: Bus) -> None:
        try:
            await bus.send_at(datetime(2030, 1, 1), Note("x"))
        except CallRefused as refused:
            problems.append(str(refused))

    hooks.after = later
    async with App([make(hooks)], settings=settings) as app:
        await app.bus.execute(Place("a"))
    assert "has no time zone" in problems[0]


async def test_a_schedule_is_run_once_across_replicas_and_made_up_for_once(settings: Settings) -> None:
    clock, hooks = ManualClock(datetime(2026, 1, 1, 0, 30, tzinfo=UTC)), Hooks()

    def scheduled() -> Module:
        module = make(hooks)
        module.schedule("hourly", "0 * * * *", Note("tick"))
        return module

    async def hours(count: int) -> None:
        await after(clock, 3700, lambda: len(hooks.noted) == count)

    environment = Environment(clock=clock)
    async with App([scheduled()], settings=settings, environment=environment):
        async with App([scheduled()], settings=settings, environment=environment):
            await hours(1)
            await hours(2)
        await hours(3)
    assert [note.split()[1] for note in hooks.noted] == [f"shop/hourly/20260101T0{hour}0000Z" for hour in (1, 2, 3)]
    # Nobody runs for five hours.
    clock = ManualClock(clock.now() + timedelta(hours=5))
    async with App([scheduled()], settings=settings, environment=Environment(clock=clock)):
        await after(clock, 60, lambda: len(hooks.noted) == 4)
        await after(clock, 3600, lambda: len(hooks.noted) == 5)


def test_a_schedule_that_cannot_be_understood_is_a_fault_at_start(tmp_path: Path) -> None:
    module = make(Hooks())
    module.schedule("nightly", "0 3 * *", Note("x"))
    module.schedule("nightly", "0 3 * * *", Note("x"), time_zone="Europe/Nowhere")
    (first, second) = App([module]).check()
    assert "'0 3 * *'" in first.what
    assert "two schedules that are called 'nightly'" in second.what


async def test_more_than_a_batch_that_is_due_at_once_goes_without_waiting_for_the_next_look(settings: Settings) -> None:
    hooks, clock = Hooks(), ManualClock()

    async def later(bus: Bus) -> None:
        for number in range(12):  # four of them are a batch
            await bus.send_after(3600.0, Note(f"{number}".ljust(1_000_000)))

    hooks.after = later
    async with app_on(clock, hooks, settings) as app:
        await app.bus.execute(Place("a"))
        await after(clock, 10, lambda: hooks.seen)
        await anyio.sleep(0.1)  # the relay has come to rest, until the clock moves
        clock.advance(3600)
        await until(lambda: len(hooks.noted) == 12)  # the clock stands still again
