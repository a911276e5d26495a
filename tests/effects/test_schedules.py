"""Schedules in their own time zone: over the changes of daylight saving, and when they are changed themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from time import monotonic

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import create_engine, text

from fissile import App, Environment, Module, Settings
from fissile.testing import ManualClock
from tests.effects.shop import Hooks, Note, make

BERLIN = "Europe/Berlin"
PATIENCE_S = 30.0


def app_of(hooks: Hooks, clock: ManualClock, settings: Settings, expression: str, time_zone: str) -> App:
    module: Module = make(hooks)
    module.schedule("nightly", expression, Note("tick"), time_zone=time_zone)
    return App([module], settings=settings, environment=Environment(clock=clock))


def planned(settings: Settings) -> str:
    """When the schedule is due next, as the database has it."""
    url, prefix = settings.database.replace("postgresql://", "postgresql+psycopg://"), settings.database_prefix
    is_file = url.startswith("sqlite")
    engine = create_engine(f"{url}/shop.sqlite3" if is_file else url)
    with engine.connect() as connection:
        table = "fissile_schedule" if is_file else f"{prefix}shop.fissile_schedule"
        row = connection.execute(text(f"SELECT next_ms FROM {table}")).one_or_none()
    engine.dispose()
    return "" if row is None else datetime.fromtimestamp(row[0] / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")


async def until_planned(settings: Settings, moment: str) -> None:
    end = monotonic() + PATIENCE_S
    while (found := await anyio.to_thread.run_sync(planned, settings)) != moment:
        assert monotonic() < end, f"it is due at {found}, and not at {moment}"


async def reach(clock: ManualClock, moment: str, hooks: Hooks, count: int) -> None:
    """Let the time go by until a moment is over, and then a little, until there are so many ticks."""
    clock.advance((datetime.strptime(moment, "%Y%m%dT%H%M%S%z") - clock.now()).total_seconds())
    end = monotonic() + PATIENCE_S
    while len(hooks.noted) < count:
        assert monotonic() < end, f"no tick at {moment}"
        clock.advance(0.3)  # the relay may just have begun a pause of a second
        await anyio.sleep(0.02)  # and not so often that the next tick comes, however slow the machine is


def moments(hooks: Hooks) -> list[str]:
    """When the ticks were due: that is in their ids."""
    return [note.rsplit("/", 1)[1] for note in hooks.noted]


@pytest.mark.parametrize(
    ("expression", "start", "wanted"),
    [
        # On the 29th of March the clocks in Berlin go from 2:00 to 3:00, which is 1:00 in UTC.
        ("30 2 * * *", datetime(2026, 3, 28, 20, tzinfo=UTC), ("20260329T010000Z", "20260330T003000Z")),
        # On the 25th of October they go from 3:00 back to 2:00, so that 2:30 is there twice: at 0:30 and at 1:30 in UTC.
        ("30 2 * * *", datetime(2026, 10, 24, 20, tzinfo=UTC), ("20261025T003000Z", "20261026T013000Z")),
        (
            "0 * * * *",
            datetime(2026, 3, 28, 23, 30, tzinfo=UTC),
            ("20260329T000000Z", "20260329T010000Z", "20260329T020000Z"),
        ),
        (
            "0 * * * *",
            datetime(2026, 10, 24, 23, 30, tzinfo=UTC),
            ("20261025T000000Z", "20261025T010000Z", "20261025T020000Z"),
        ),
    ],
    ids=["skipped", "repeated", "hourly over the gap", "hourly over the repeat"],
)
async def test_over_a_change_of_daylight_saving_a_time_of_day_comes_once_and_every_hour_goes_on(
    settings: Settings, expression: str, start: datetime, wanted: Sequence[str]
) -> None:
    hooks, clock = Hooks(), ManualClock(start)
    async with app_of(hooks, clock, settings, expression, BERLIN):
        for number, moment in enumerate(wanted):
            await until_planned(settings, moment)
            await reach(clock, moment, hooks, number + 1)
    assert moments(hooks) == list(wanted)


@pytest.mark.parametrize(
    ("old", "before", "new", "wanted"),
    [
        (("0 3 * * *", "UTC"), "20260101T030000Z", ("0 3 * * *", BERLIN), "20260101T020000Z"),
        (("0 3 * * *", BERLIN), "20260101T020000Z", ("0 3 * * *", "UTC"), "20260101T030000Z"),
        (("0 3 * * *", "UTC"), "20260101T030000Z", ("0 1 * * *", "UTC"), "20260101T010000Z"),
    ],
    ids=["into a time zone", "out of it", "another expression"],
)
async def test_a_schedule_that_was_changed_is_planned_anew(
    settings: Settings, old: tuple[str, str], before: str, new: tuple[str, str], wanted: str
) -> None:
    hooks, clock = Hooks(), ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with app_of(hooks, clock, settings, *old):
        await until_planned(settings, before)
    async with app_of(hooks, clock, settings, *new):
        await until_planned(settings, wanted)
        await reach(clock, wanted, hooks, 1)
    assert moments(hooks) == [wanted]


async def test_what_is_due_right_after_the_start_is_not_missed(settings: Settings) -> None:
    """The clock goes on before anybody has had time to look at the schedules, which are new."""
    hooks, clock = Hooks(), ManualClock(datetime(2026, 1, 1, 0, 30, tzinfo=UTC))
    async with app_of(hooks, clock, settings, "0 * * * *", "UTC"):
        await reach(clock, "20260101T010000Z", hooks, 1)
    assert moments(hooks) == ["20260101T010000Z"]
