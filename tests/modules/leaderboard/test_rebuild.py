"""The leaderboard made anew from the topic: as the verdicts have made it, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from random import Random

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from sqlalchemy import Connection, delete, func, insert, select, update

from fissile import Forbidden, HandlerFailed, Settings
from fissile._clock import SystemClock
from fissile.testing import user
from fissile.transports.memory import MemoryLog
from modules.leaderboard import rebuild
from modules.leaderboard.contract import (
    GetSolvers,
    GetStandings,
    LeaderboardChanged,
    NoVerdictsKept,
    RebuildLeaderboard,
    changes,
)
from modules.leaderboard.store import columns_of
from modules.leaderboard.tables import gathered, people, rebuilds, solutions, verdicts
from tests.modules.leaderboard.board import (
    PATIENCE_S,
    Board,
    expected,
    judged,
    leaderboard,
    some_verdicts,
    tables_of,
)


@pytest.fixture
async def board(settings: Settings) -> AsyncGenerator[Board]:
    async with leaderboard(settings) as opened:
        yield opened


@pytest.fixture(params=[False, True], ids=["local", "loopback"])
async def placed_board(request: pytest.FixtureRequest, settings: Settings) -> AsyncGenerator[Board]:
    async with leaderboard(settings, is_loopback=request.param) as opened:
        yield opened


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rebuild takes many steps."""
    monkeypatch.setattr(rebuild, "BATCH", 3)


def damage(connection: Connection) -> None:
    """Lose some rows, change others, and add one that never was."""
    connection.execute(delete(people).where(people.c.name == "ann"))
    connection.execute(delete(solutions).where(solutions.c.challenge == "maze"))
    connection.execute(delete(verdicts).where(verdicts.c.author == "bob"))
    connection.execute(update(verdicts).where(verdicts.c.author == "cyd").values(verdict="accepted", judged_at=9e9))
    connection.execute(insert(verdicts).values(**columns_of(judged(90_000, "nobody")), round=0))
    connection.execute(insert(people).values(name="nobody", solved=99, attempts=99, last_solved_at=1.0))


def is_cleared(settings: Settings) -> bool:
    with tables_of(settings) as connection:
        return not any(
            connection.execute(select(func.count()).select_from(table)).scalar_one() for table in (gathered, rebuilds)
        )


async def test_a_rebuild_gives_what_the_verdicts_have_made_and_their_number(
    placed_board: Board, settings: Settings
) -> None:
    assert await placed_board.bus.execute(RebuildLeaderboard()) == 0
    events = some_verdicts(Random(1), 40)
    await placed_board.publish(events)
    before = await placed_board.shown()
    for _ in range(2):
        assert await placed_board.bus.execute(RebuildLeaderboard()) == 40
        assert await placed_board.shown() == before == expected(events)
    assert is_cleared(settings)


async def test_a_rebuild_repairs_what_was_damaged_and_is_seen_as_a_whole(
    settings: Settings, small_batches: None
) -> None:
    async with leaderboard(settings) as board:
        events = some_verdicts(Random(2), 30)
        await board.publish(events)
        with tables_of(settings) as connection:
            damage(connection)
        damaged, right = (await board.shown())[0], expected(events)
        assert damaged != right[0]
        seen = []
        async with anyio.create_task_group() as tasks:

            async def look() -> None:
                while True:
                    seen.append(await board.bus.ask(GetStandings(100)))
                    await anyio.lowlevel.checkpoint()

            tasks.start_soon(look)
            await board.bus.execute(RebuildLeaderboard())
            tasks.cancel_scope.cancel()
        assert await board.shown() == right
        assert len(seen) > 3
        assert seen[0] == damaged
        assert all(one in (damaged, right[0]) for one in seen)


async def test_verdicts_may_come_and_other_rebuilds_run_while_one_does(board: Board, small_batches: None) -> None:
    events = some_verdicts(Random(3), 60)
    await board.publish(events[:20])
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(board.bus.execute, RebuildLeaderboard())
        await board.publish(events[20:40])
        tasks.start_soon(board.bus.execute, RebuildLeaderboard())
        await board.publish(events[40:])
    assert await board.shown() == expected(events)


async def test_a_verdict_that_comes_during_a_rebuild_is_not_lost_by_it(settings: Settings, small_batches: None) -> None:
    async with leaderboard(settings) as board:
        events = [judged(number, "ann", f"challenge-{number}") for number in range(30)]
        await board.publish(events)
        ended = anyio.Event()
        count = 30

        async def rebuild_once() -> None:
            await board.bus.execute(RebuildLeaderboard())
            ended.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(rebuild_once)
            while not ended.is_set():
                await board.publish([judged(count, "ann", f"challenge-{count}")])
                count += 1
        assert (await board.bus.ask(GetStandings())).places[0].solved == count > 30


async def test_what_is_older_than_the_oldest_verdict_in_the_log_stays(settings: Settings) -> None:
    old, new = [judged(number, "ann", f"old-{number}") for number in range(5)], judged(100, "bob")
    async with leaderboard(settings) as board:
        await board.publish(old)
    async with leaderboard(settings) as board:  # on another log: the one in memory begins with its process
        with pytest.raises(NoVerdictsKept):  # what is asked for has not happened, so it is not said that it has
            await board.bus.execute(RebuildLeaderboard())
        assert (await board.bus.ask(GetStandings())).places[0].solved == 5
        assert is_cleared(settings)
        await board.publish([new])
        with tables_of(settings) as connection:
            connection.execute(insert(verdicts).values(**columns_of(judged(101, "nobody")), round=0))
        assert await board.bus.execute(RebuildLeaderboard()) == 1
        assert await board.shown() == expected([*old, new])
        assert (await board.bus.ask(GetStandings())).places[0].solved == 5


async def test_what_some_partitions_have_let_go_stays(settings: Settings) -> None:
    log = MemoryLog(SystemClock(), 1500, 100_000)
    events = [judged(number, "ann", f"challenge-{number}") for number in range(60)]
    async with leaderboard(settings, log) as board:
        await board.publish(events)
        assert 3 <= await board.bus.execute(RebuildLeaderboard()) < 30
        assert await board.shown() == expected(events)


async def test_a_rebuild_tells_nobody_that_the_leaderboard_has_changed(board: Board, settings: Settings) -> None:
    async with board.bus.tap(changes) as tap:
        await board.publish([judged(1, "ann")])
        with tables_of(settings) as connection:
            for table in (people, solutions, verdicts):
                connection.execute(delete(table))
        assert await board.bus.execute(RebuildLeaderboard()) == 1
        await board.publish([judged(2, "bob")])
        with anyio.fail_after(PATIENCE_S):
            told = [(await anext(tap)).event for _ in range(2)]
        assert told == [LeaderboardChanged("ann", "maze"), LeaderboardChanged("bob", "maze")]


async def test_a_rebuild_is_for_who_may(board: Board) -> None:
    await board.publish([judged(1, "ann")])
    with pytest.raises(Forbidden, match="leaderboard:rebuild"):
        await board.bus.acting_as(user("ann", "submissions:write")).execute(RebuildLeaderboard())
    assert await board.bus.acting_as(user("root", "leaderboard:rebuild")).execute(RebuildLeaderboard()) == 1
    assert (await board.bus.acting_as(user("ann")).ask(GetSolvers("maze"))).total == 1


async def test_a_rebuild_that_is_given_up_leaves_nothing_behind(settings: Settings, small_batches: None) -> None:
    async with leaderboard(settings) as board:
        events = some_verdicts(Random(4), 40)
        await board.publish(events)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def cancel_when_begun() -> None:
                    while await anyio.to_thread.run_sync(is_cleared, settings):
                        await anyio.sleep(0.001)
                    scope.cancel()

                tasks.start_soon(cancel_when_begun)
                await board.bus.execute(RebuildLeaderboard())
        assert scope.cancelled_caught
        assert is_cleared(settings)
        assert await board.shown() == expected(events)


async def test_what_a_killed_rebuild_has_left_is_cleared_away_and_one_that_was_forgotten_does_not_take_effect(
    settings: Settings, small_batches: None
) -> None:
    async with leaderboard(settings) as board:
        events = some_verdicts(Random(5), 40)
        await board.publish(events)
        with tables_of(settings) as connection:
            connection.execute(insert(rebuilds).values(round=1000, alive_at=1.0))
            connection.execute(insert(gathered).values(**columns_of(judged(1, "nobody")), round=1000))
        await board.bus.execute(RebuildLeaderboard())
        assert is_cleared(settings)

        def forget() -> bool:
            with tables_of(settings) as connection:
                return bool(connection.execute(delete(rebuilds)).rowcount)

        async with anyio.create_task_group() as tasks:

            async def forget_when_begun() -> None:
                while not await anyio.to_thread.run_sync(forget):
                    await anyio.sleep(0.001)

            tasks.start_soon(forget_when_begun)

            async def rebuild_until_one_is_forgotten() -> None:
                while True:  # some are over before they are
                    await board.bus.execute(RebuildLeaderboard())

            with anyio.fail_after(PATIENCE_S), pytest.raises(HandlerFailed, match="stood still for an hour"):
                await rebuild_until_one_is_forgotten()
        assert await board.shown() == expected(events)
