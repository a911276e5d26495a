"""How the page follows the leaderboard while many solve challenges at once."""

from __future__ import annotations

import json
from collections.abc import Callable

from playwright.sync_api import Route, expect

from tests.playground.browsing import Visitor, answering, module

Come = Callable[..., Visitor]


def changed(*pairs: tuple[str, str]) -> str:
    """Make a stream of who has solved which challenge."""
    told = [json.dumps({"name": name, "challenge": challenge}) for name, challenge in pairs]
    return "".join(f"event: leaderboard-changed\ndata: {each}\n\n" for each in told)


def solver(name: str) -> dict[str, object]:
    return {"rank": 1, "name": name, "duration_ms": 12.0, "language": "python", "attempts": 1}


def test_a_board_changes_though_another_challenge_was_solved_a_moment_later(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    streams, boards = 0, 0

    def stream(route: Route) -> None:
        nonlocal streams
        streams += 1
        if streams == 1:
            told = changed(("ada", "sum-of-two"), ("bob", "maze"))
            route.fulfill(content_type="text/event-stream", body=told)
        else:
            route.fulfill(status=204)

    def board(route: Route) -> None:
        nonlocal boards
        boards += 1
        places = [] if boards == 1 else [solver("ada")]
        answering({"places": places, "total": len(places)})(route)

    visitor.page.route("**/leaderboard/topics/changes", stream)
    visitor.page.route("**/leaderboard/get-solvers*", board)
    page = visitor.go("/leaderboard/sum-of-two")
    expect(page.get_by_role("row", name="ada")).to_have_count(1)
    expect(page.get_by_role("status").filter(has_text="ada has solved a challenge.")).to_have_count(1)


def test_changes_that_come_without_a_pause_are_told_meanwhile_and_none_is_lost(come: Come, monolith: str) -> None:
    page = come(monolith).go("/challenges")
    sent, calls = module(
        page,
        "live.js",
        """const encoder = new TextEncoder();
        const real = window.fetch;
        const ending = new AbortController();
        const calls = [];
        let sent = 0, timer;
        const body = new ReadableStream({
            start(controller) {
                timer = setInterval(() => {
                    if (sent === 1000) return clearInterval(timer), controller.close(); // too late
                    const data = JSON.stringify({ name: `n${sent++}`, challenge: sent % 2 ? "maze" : "sum-of-two" });
                    controller.enqueue(encoder.encode(`event: leaderboard-changed\ndata: ${data}\n\n`));
                }, 20);
            },
            cancel: () => clearInterval(timer),
        });
        window.fetch = async () => sent ? new Response(null, { status: 204 }) : new Response(body);
        // The stream has a pause only after something was told three times.
        await new Promise((done) => it.followLeaderboard(ending.signal, (changes) => {
            calls.push(changes.map((each) => each.name));
            if (calls.length === 3) clearInterval(timer);
            if (sent === 1000 || calls.length >= 3 && calls.flat().length === sent) done();
        }));
        ending.abort();
        window.fetch = real;
        return [sent, calls];""",
    )
    assert len(calls) >= 3
    assert [name for names in calls for name in names] == [f"n{number}" for number in range(sent)]
    assert max(len(names) for names in calls) > 1  # what came together was one look
