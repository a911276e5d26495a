"""Clocks that are set back: what is due by the clock as it is now comes, and nothing rests until the time that was."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import anyio.to_thread
from sqlalchemy import create_engine, text

from fissile import App, Environment, Settings
from fissile.testing import ManualClock
from tests.effects.shop import Hooks, Note, Place, make
from tests.effects.test_schedules import app_of, until_planned

HOUR_S = 3600.0


class SetBack(ManualClock):
    """A clock that can be set back, as one is that was wrong."""

    def set_back(self, seconds: float) -> None:
        self._start -= timedelta(seconds=seconds)


def execute(settings: Settings, table: str, statement: str, **values: Any) -> int:  # Any: of several types
    """Execute a statement on the database of the shop, from outside; return how many rows it meets."""
    url = settings.database.replace("postgresql://", "postgresql+psycopg://")
    is_file = url.startswith("sqlite")
    engine = create_engine(f"{url}/shop.sqlite3" if is_file else url)
    name = table if is_file else f"{settings.database_prefix}shop.{table}"
    try:
        with engine.begin() as connection:
            return connection.execute(text(statement.format(name)), values).rowcount
    finally:
        engine.dispose()


async def until(condition: Callable[[], object], clock: ManualClock | None = None) -> None:
    """Wait for a condition while the time goes by."""
    with anyio.fail_after(20):
        while not condition():
            if clock is not None:
                clock.advance(0.3)
            await anyio.sleep(0.02)


async def test_what_another_replica_schedules_comes_although_the_clock_was_set_back(settings: Settings) -> None:
    hooks, clock = Hooks(), SetBack()
    async with App([make(hooks)], settings=settings, environment=Environment(clock=clock)) as app:
        hooks.before = lambda bus: bus.send_after(HOUR_S, Note("later"))
        await app.bus.execute(Place("now"))
        await until(lambda: hooks.seen, clock)
        clock.set_back(HOUR_S)
        # As if another replica had scheduled it: this process is not told.
        due_ms = int((clock.now() + timedelta(seconds=5)).timestamp() * 1000)
        change = "UPDATE {} SET due_ms = :due_ms WHERE due_ms IS NOT NULL"
        assert await anyio.to_thread.run_sync(lambda: execute(settings, "fissile_outbox", change, due_ms=due_ms)) == 1
        before = clock.now()
        assert hooks.noted == []
        await until(lambda: hooks.noted, clock)
        assert clock.now() - before < timedelta(minutes=10)


async def test_a_schedule_that_was_planned_by_a_clock_far_ahead_is_planned_anew(settings: Settings) -> None:
    hooks = Hooks()
    async with app_of(hooks, ManualClock(datetime(2036, 1, 1, tzinfo=UTC)), settings, "0 3 * * *", "UTC"):
        await until_planned(settings, "20360101T030000Z")
    async with app_of(hooks, ManualClock(datetime(2026, 1, 1, 1, tzinfo=UTC)), settings, "0 3 * * *", "UTC"):
        await until_planned(settings, "20260101T030000Z")
    # Clocks of replicas that differ a little, or a tick that has just come, are no such case.
    async with app_of(hooks, ManualClock(datetime(2026, 1, 1, 4, tzinfo=UTC)), settings, "0 3 * * *", "UTC"):
        await until_planned(settings, "20260102T030000Z")
    async with app_of(hooks, ManualClock(datetime(2026, 1, 1, 2, 59, tzinfo=UTC)), settings, "0 3 * * *", "UTC") as app:
        await app.bus.execute(Place("a"))
        await until(lambda: hooks.seen)
        await until_planned(settings, "20260102T030000Z")


async def test_a_lease_that_a_server_has_given_before_its_clock_was_set_back_holds_up_nothing(
    settings: Settings,
) -> None:
    hooks = Hooks()
    async with App([make(hooks)], settings=settings):
        pass
    if settings.database.startswith("postgresql"):  # on SQLite it is a lock on a file, without any time
        give = (
            "INSERT INTO {} (name, owner, until_ms) VALUES ('relay', 'gone', "
            "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) + 3600000)"
        )
        assert await anyio.to_thread.run_sync(lambda: execute(settings, "fissile_lease", give)) == 1
    async with App([make(hooks)], settings=settings) as app:
        await app.bus.execute(Place("a"))
        await until(lambda: hooks.seen)
