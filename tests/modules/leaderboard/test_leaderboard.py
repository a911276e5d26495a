"""What verdicts make of the leaderboard, in whatever order they come."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from random import Random

import anyio
import pytest

from fissile import InvalidMessage, Settings
from fissile.testing import PLACEMENTS, Placement
from modules.leaderboard.contract import (
    GetSolvers,
    GetStandings,
    LeaderboardChanged,
    Solver,
    Solvers,
    Standing,
    Standings,
    changes,
)
from tests.modules.leaderboard.board import (
    PATIENCE_S,
    Board,
    expected,
    judged,
    leaderboard,
    leaderboard_apart,
    some_verdicts,
)


@pytest.fixture
async def board(settings: Settings) -> AsyncGenerator[Board]:
    async with leaderboard(settings) as opened:
        yield opened


@pytest.fixture(params=PLACEMENTS)
def placement(request: pytest.FixtureRequest) -> Placement:
    found: Placement = request.param
    return found


@pytest.fixture
async def placed_board(placement: Placement, broker: str | None, settings: Settings) -> AsyncGenerator[Board]:
    if broker is not None:
        async with leaderboard_apart(settings, broker) as apart:
            yield apart
    else:
        async with leaderboard(settings, is_loopback=placement == "loopback") as opened:
            yield opened


async def test_who_has_solved_more_is_first_and_of_equals_who_was_earlier(board: Board) -> None:
    assert await board.bus.ask(GetStandings()) == Standings((), 0)
    assert await board.bus.ask(GetSolvers("maze")) == Solvers((), 0)
    await board.publish(
        [
            judged(1, "ann", verdict="wrong_answer"),
            judged(2, "bob"),
            judged(3, "ann"),
            judged(4, "bob", "queens"),
            judged(5, "ann", "queens", "time_limit"),
            judged(6, "ann", "queens", None),
            judged(7, "ann", "queens"),
            judged(8, "ann", "queens", "wrong_answer"),
            judged(9, "cyd"),
            judged(10, "dan", verdict="runtime_error"),
        ]
    )
    places = (Standing(1, "bob", 2, 2, 4.0), Standing(2, "ann", 2, 4, 7.0), Standing(3, "cyd", 1, 1, 9.0))
    assert await board.bus.ask(GetStandings()) == Standings(places, 3)


async def test_of_a_challenge_the_fastest_is_first_with_their_best_solution(board: Board) -> None:
    await board.publish(
        [
            judged(1, "ann", duration_ms=30.0),
            judged(2, "bob", verdict="wrong_answer", duration_ms=1.0),
            judged(3, "bob", duration_ms=20.0),
            judged(4, "ann", duration_ms=10.0, language="c"),
            judged(5, "ann", duration_ms=40.0, language="bash"),
            judged(6, "cyd", "queens", duration_ms=1.0),
        ]
    )
    places = (Solver(1, "ann", "c", 10.0, 1, 1.0), Solver(2, "bob", "python", 20.0, 2, 3.0))
    assert await board.bus.ask(GetSolvers("maze")) == Solvers(places, 2)
    assert (await board.bus.ask(GetSolvers("no-such-challenge"))).total == 0


async def test_equals_share_a_rank_and_pages_miss_and_repeat_nobody(board: Board) -> None:
    await board.publish([judged(number, f"name{number:02}", at=float(number // 3)) for number in range(10)])
    pages = [await board.bus.ask(GetStandings(4, offset)) for offset in (0, 4, 8, 12)]
    assert [[place.rank for place in page.places] for page in pages] == [[1, 1, 1, 4], [4, 4, 7, 7], [7, 10], []]
    assert [place.name for page in pages for place in page.places] == [f"name{number:02}" for number in range(10)]
    assert {page.total for page in pages} == {10}
    solvers = [await board.bus.ask(GetSolvers("maze", 7, offset)) for offset in (0, 7, 14)]
    assert [[place.rank for place in page.places] for page in solvers] == [[1] * 7, [1] * 3, []]
    assert [place.name for page in solvers for place in page.places] == [f"name{number:02}" for number in range(10)]
    assert {page.total for page in solvers} == {10}


async def test_what_is_out_of_its_range_is_refused(board: Board) -> None:
    for wrong in (GetStandings(0), GetStandings(101), GetStandings(1, -1), GetStandings(1, 100_001)):
        with pytest.raises(InvalidMessage):
            await board.bus.ask(wrong)
    for unfit in (GetSolvers("No Slug"), GetSolvers("x" * 65), GetSolvers("maze", 0), GetSolvers("maze", 1, -1)):
        with pytest.raises(InvalidMessage):
            await board.bus.ask(unfit)


@pytest.mark.split
@pytest.mark.parametrize("seed", range(2))
async def test_verdicts_may_come_in_any_order_and_again(placed_board: Board, seed: int) -> None:
    random = Random(seed)
    events = some_verdicts(random, 40)
    shuffled = [*events, *random.choices(events, k=10)]
    random.shuffle(shuffled)
    await placed_board.publish(shuffled)
    assert await placed_board.shown() == expected(events)


async def test_verdicts_of_one_author_that_are_taken_in_at_once_are_all_counted(settings: Settings) -> None:
    async with leaderboard(settings) as board:
        await board.publish([judged(number, "ann", f"challenge-{number}") for number in range(60)])
        assert (await board.bus.ask(GetStandings())).places == (Standing(1, "ann", 60, 60, 59.0),)


async def test_it_is_told_who_has_solved_a_challenge_for_the_first_time_or_faster(placed_board: Board) -> None:
    async with placed_board.bus.tap(changes) as tap:
        await placed_board.publish([judged(1, "ann", verdict="wrong_answer")])
        for event in (
            judged(2, "ann", duration_ms=50.0),
            judged(3, "ann", duration_ms=60.0),
            judged(3, "ann", duration_ms=60.0),
            judged(4, "ann", duration_ms=50.0),
            judged(5, "ann", duration_ms=40.0),
            judged(2, "ann", duration_ms=50.0),
            judged(6, "bob"),
        ):
            await placed_board.publish([event])
        told: list[LeaderboardChanged] = []
        with anyio.fail_after(PATIENCE_S):
            while len(told) < 3:
                told.append((await anext(tap)).event)
        assert told == [
            LeaderboardChanged("ann", "maze"),
            LeaderboardChanged("ann", "maze"),
            LeaderboardChanged("bob", "maze"),
        ]
