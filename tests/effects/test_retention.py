"""What the inbox remembers, and for how long: a repeat within that time gets the first outcome, and after it is handled anew."""

from __future__ import annotations

from time import monotonic

import anyio.to_thread
import attrs
from sqlalchemy import Connection, create_engine, text

from fissile import App, Environment, Settings
from fissile.testing import ManualClock
from tests.effects.shop import Count, Hooks, Place, make

HOUR_S, WEEK_S = 3600.0, 7 * 86_400.0
PATIENCE_S = 60.0


def table(settings: Settings) -> str:
    return (
        "fissile_inbox" if settings.database.startswith("sqlite") else f"{settings.database_prefix}shop.fissile_inbox"
    )


def in_database(settings: Settings, statement: str, rows: list[dict[str, object]] | None = None) -> int:
    """Execute a statement on the database of the shop; return the number that it gives, or the number of its rows."""
    url = settings.database.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(f"{url}/shop.sqlite3" if url.startswith("sqlite") else url)

    def work(connection: Connection) -> int:
        done = connection.execute(text(statement.format(table(settings))), rows)
        return int(done.scalar_one()) if done.returns_rows else done.rowcount

    with engine.begin() as connection:
        found = work(connection)
    engine.dispose()
    return found


async def remembered(settings: Settings, which: str = "") -> int:
    return await anyio.to_thread.run_sync(in_database, settings, f"SELECT count(*) FROM {{}} {which}")


async def let_pass(clock: ManualClock, seconds: float) -> None:
    """Let the time pass, a minute at a time, so that whoever looks now and then has looked."""
    for _ in range(int(seconds / 60)):
        clock.advance(60)
        await clock.wait_sleeping(at_most_s=2.0)


async def test_a_repeat_within_the_time_gets_the_first_outcome_and_after_it_is_handled_anew(settings: Settings) -> None:
    hooks, clock = Hooks(), ManualClock()
    brief = attrs.evolve(settings, inbox_retention_s=HOUR_S)
    async with App([make(hooks)], settings=brief, environment=Environment(clock=clock)) as app:
        assert await app.bus.execute(Place("a"), id="one") == 1
        await let_pass(clock, 0.9 * HOUR_S)
        assert await app.bus.execute(Place("a"), id="one") == 1
        assert hooks.handled == ["a"]
        end = monotonic() + PATIENCE_S
        while await remembered(brief, "WHERE message_id = 'one'"):
            assert monotonic() < end
            await let_pass(clock, 60)
        assert await app.bus.execute(Place("a"), id="one") == 2
        assert await app.bus.ask(Count("a")) == 2
    assert hooks.handled == ["a", "a"]


async def test_of_many_rows_all_go_that_are_old_enough_and_no_others(settings: Settings) -> None:
    clock = ManualClock()
    brief = attrs.evolve(settings, inbox_retention_s=WEEK_S)
    hooks = Hooks()
    async with App([make(hooks)], settings=brief, environment=Environment(clock=clock)) as app:
        old_ms = int(clock.now().timestamp() * 1000) - 2 * int(WEEK_S * 1000)
        rows: list[dict[str, object]] = [{"id": f"old {number}", "at": old_ms} for number in range(2500)]
        insert = (
            "INSERT INTO {} (handler, message_id, digest, outcome, body, at_ms) VALUES ('shop.place', :id, 'x', 'done', '', :at)"
            if brief.database.startswith("sqlite")
            else "INSERT INTO {} (handler, message_id, digest, outcome, body, at_ms) VALUES ('shop.place', :id, '\\x00', 'done', '\\x00', :at)"
        )
        await anyio.to_thread.run_sync(in_database, brief, insert, rows)
        await app.bus.execute(Place("a"), id="new")
        end = monotonic() + PATIENCE_S
        while await remembered(brief, "WHERE message_id LIKE 'old%'"):
            assert monotonic() < end
            await let_pass(clock, 60)
        assert await remembered(brief, "WHERE message_id = 'new'") == 1


async def test_the_inbox_forgets_faster_than_a_thousand_a_second_though_nothing_is_sent(settings: Settings) -> None:
    """Else it would grow for ever where more is handled than that."""
    clock = ManualClock()
    brief = attrs.evolve(settings, inbox_retention_s=HOUR_S)
    async with App([make(Hooks())], settings=brief, environment=Environment(clock=clock)) as app:
        await app.bus.execute(Place("a"))
        old_ms = int(clock.now().timestamp() * 1000) - 2 * int(HOUR_S * 1000)
        nothing = "''" if brief.database.startswith("sqlite") else "'\\x00'"
        insert = (
            "INSERT INTO {} (handler, message_id, digest, outcome, body, at_ms) "
            f"VALUES ('shop.place', :id, {nothing}, 'done', {nothing}, :at)"
        )
        rows: list[dict[str, object]] = [{"id": f"old {number}", "at": old_ms} for number in range(12_000)]
        await anyio.to_thread.run_sync(in_database, brief, insert, rows)
        clock.advance(61)  # now it looks again
        begun, end = clock.monotonic(), monotonic() + PATIENCE_S
        while await remembered(brief, "WHERE message_id LIKE 'old%'"):
            assert monotonic() < end
            clock.advance(0.05)
            await anyio.sleep(0.02)
        assert clock.monotonic() - begun < 8
