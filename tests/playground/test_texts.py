"""What strangers wrote is shown as text, whatever it looks like; and what the page is built of does what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.playground.browsing import Visitor, answering, module

Come = Callable[..., Visitor]

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>&amp;"


@pytest.fixture
def page(come: Come, monolith: str) -> Page:
    visitor = come(monolith)
    visitor.page.on("dialog", lambda dialog: visitor.complaints.append(f"a dialog: {dialog.message}"))
    return visitor.go("/challenges")


def test_controls_and_turned_directions_of_an_author_are_spelled_out(come: Come, monolith: str) -> None:
    sly, shown = "a\x1b[2J\u202eb\u200bc\x7f", "a\u241b[2J\\u{202e}b\\u{200b}c\u2421"
    summary = {"slug": "sum-of-two", "title": sly, "difficulty": 2, "tags": [sly]}
    challenge = summary | {
        "version": 1,
        "statement": f"{sly}\n\n    block {sly}",
        "examples": [{"stdin": f"{sly}\n\t1", "stdout": sly}],
        "cases": 1,
        "languages": [],
        "time_s": 1.0,
        "memory_mib": 64,
    }
    visitor = come(monolith)
    for name, body in (("list-challenges", {"challenges": [summary], "next": None}), ("get-challenge", challenge)):
        visitor.page.route(f"**/{name}*", answering(body))
    page = visitor.go("/challenges")
    assert page.locator(".challenge-title").text_content() == shown
    assert page.locator(".challenge-list .tag").text_content() == shown
    page = visitor.go("/challenges/sum-of-two")
    expect(page.get_by_role("heading", level=1)).to_have_text(shown)
    assert page.locator(".statement .tag").text_content() == shown
    assert page.locator(".prose p").text_content() == shown
    assert page.locator(".prose pre").text_content() == f"block {shown}"
    assert page.locator(".example-texts pre").all_text_contents() == [f"{shown}\n\t1", shown]
    assert shown in page.title()


def test_markup_in_a_statement_is_text(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    challenge = {
        "slug": "sum-of-two",
        "version": 1,
        "title": f"Title {HOSTILE}",
        "difficulty": 2,
        "tags": [f"tag {HOSTILE}"],
        "statement": f"First {HOSTILE} `code {HOSTILE}` **strong {HOSTILE}**\n\n    block {HOSTILE}\n\n- item {HOSTILE}",
        "examples": [{"stdin": f"in {HOSTILE}", "stdout": f"out {HOSTILE}"}],
        "cases": 1,
        "languages": [],
        "time_s": 1.0,
        "memory_mib": 64,
    }

    visitor.page.route("**/get-challenge*", answering(challenge))
    page = visitor.go("/challenges/sum-of-two")
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Title {HOSTILE}")
    prose = page.locator(".prose")
    expect(prose.locator("p")).to_have_text(f"First {HOSTILE} code {HOSTILE} strong {HOSTILE}")
    expect(prose.locator("p code")).to_have_text(f"code {HOSTILE}")
    expect(prose.locator("p strong")).to_have_text(f"strong {HOSTILE}")
    expect(prose.locator("pre")).to_have_text(f"block {HOSTILE}")
    expect(prose.locator("li")).to_have_text(f"item {HOSTILE}")
    expect(page.get_by_label("Example, input")).to_have_text(f"in {HOSTILE}")
    assert page.locator("main img, main script").count() == 0


def test_the_output_of_a_program_is_text_with_the_colours_of_a_terminal(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go()
    visitor.run(
        f"print('\\x1b[31mred\\x1b[0m', {HOSTILE!r})\nprint('bell\\a end\\u202e', '\\x1b]0;title\\x07after\\x1b[2J')"
    )
    expect(visitor.output).to_have_text(f"red {HOSTILE}\nbell␇ endU+202E after\n")
    expect(visitor.output.locator(".ansi-1")).to_have_text("red")
    expect(visitor.output.locator(".control")).to_have_text(["␇", "U+202E"])
    assert page.locator("main img, main script").count() == 0


def test_output_beyond_the_limit_is_cut_with_a_note(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go()
    visitor.write("print('x' * 200_000)")
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".cut-note")).to_contain_text("cut off")


def test_text_can_never_become_markup(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go()
    for body in (
        "document.body.innerHTML = '<p>x</p>'",
        "document.body.insertAdjacentHTML('beforeend', '<p>x</p>')",
        "document.createElement('script').text = '1'",
    ):
        assert page.evaluate(f"() => {{ try {{ {body}; return false; }} catch {{ return true; }} }}"), body
    # A violation is something that these tests do not overlook.
    assert len(visitor.complaints) == 3
    visitor.complaints.clear()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_read_whatever_pieces_they_come_in(page: Page, size: int) -> None:
    text = (
        "retry: 2000\nid: a\n\n: alive\n\nid: b\nevent: one\ndata: {\"x\":1}\n\ndata: two\r\ndata:  lines\r\n\r\n"
        "id: c\rdata: three\r\revent: unfinished\ndata: x"
    )  # fmt: skip
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    found = module(
        page,
        "stream.js",
        """const parser = new it.EventParser();
        const events = argument.flatMap((piece) => parser.push(piece));
        return { events, id: parser.id, retry: parser.retryMs };""",
        pieces,
    )
    assert found == {
        "events": [
            {"id": "b", "event": "one", "data": '{"x":1}'},
            {"id": "b", "event": "message", "data": "two\n lines"},
            {"id": "c", "event": "message", "data": "three"},
        ],
        "id": "c",
        "retry": 2000,
    }


def test_a_stream_goes_on_after_the_last_event_when_its_connection_breaks(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    visitor.allowed.add(0)
    page = visitor.go("/challenges")
    asked: list[str | None] = []

    def answer(route: Route) -> None:
        asked.append(route.request.headers.get("last-event-id"))
        body = f"retry: 10\nid: {len(asked)}\n\nid: n{len(asked)}\nevent: e\ndata: {len(asked)}\n\n"
        if len(asked) == 2:
            route.abort()
        else:
            route.fulfill(content_type="text/event-stream", body=body)

    page.route("**/some/stream", answer)
    seen = module(
        page,
        "stream.js",
        """const ending = new AbortController();
        const seen = [];
        for await (const { data } of it.events("/some/stream", { signal: ending.signal, after: "first" })) {
            seen.push(data);
            if (seen.length === 2) ending.abort();
        }
        return seen;""",
    )
    assert seen == [1, 3]
    assert asked == ["first", "n1", "n1"]


def test_errors_tell_what_they_are_about(page: Page) -> None:
    told = module(
        page,
        "api.js",
        """return argument.map(([status, type, error]) => it.inWords(new it.Problem(status, { type, error, detail: "?" })));""",
        [
            [422, "/problems/weak-password", {"reason": "It repeats itself."}],
            [429, "/problems/too-many-submissions", {"waiting": 20}],
            [413, "/problems/source-too-large", {"field": "stdin", "size_bytes": 9999, "limit_bytes": 2048}],
            [422, "/problems/language-not-taken", {"language": "c", "taken": ["python", "go"]}],
            [429, "/problems/too-many-attempts", {"retry_after_s": 240.0}],
        ],
    )
    assert told == [
        "Choose another password: It repeats itself.",
        "20 of your submissions wait to be judged: wait for a verdict, then submit again.",
        "The input is too large: it may have 2 KiB.",
        "That language cannot be used here. Choose one of: python, go.",
        "Too many requests: wait 4 minutes, then try again.",
    ]


def test_the_cases_of_a_round_that_was_begun_anew_take_the_place_of_all_before(come: Come, monolith: str) -> None:
    page = come(monolith).go()

    def judged(round_: int, number: int, verdict: str, cases: int) -> str:
        result = {"number": number, "verdict": verdict, "duration_ms": 1.0, "is_hidden": False, "detail": verdict}
        data = json.dumps({"submission_id": "x", "cases": cases, "result": result, "round": round_})
        return f"event: case-judged\ndata: {data}\n\n"

    told = [judged(1, 0, "accepted", 5), judged(1, 1, "wrong_answer", 5), judged(1, 2, "accepted", 5)]
    told += [judged(2, 1, "accepted", 3), judged(2, 0, "time_limit", 3)]
    end = {"submission_id": "x", "state": "judged", "verdict": "time_limit", "passed": 1, "cases": 3}
    told += [f"event: judging-ended\ndata: {json.dumps(end)}\n\n"]
    page.route(
        "**/submissions/x/events", lambda route: route.fulfill(content_type="text/event-stream", body="".join(told))
    )
    shown = module(
        page,
        "verdict.js",
        """const verdict = it.makeVerdict();
        verdict.begin("Waiting");
        await it.follow("x", verdict, new AbortController().signal);
        return {
            cases: [...verdict.node.querySelectorAll(".cases > li")].map((each) => each.className),
            details: [...verdict.node.querySelectorAll(".case-detail pre")].map((each) => each.textContent),
            count: verdict.node.querySelector(".verdict-count").textContent,
            status: verdict.node.querySelector(".verdict-status").textContent,
        };""",
    )
    assert shown == {
        "cases": ["case bad", "case good", "case not-run"],
        "details": ["time_limit"],
        "count": "1 of 3 cases",
        "status": "Too slow",
    }


def test_colours_and_controls_are_understood_across_pieces(page: Page) -> None:
    text = "a\x1b[1;31mb\x1b[22mc\x1b[39md\x1b[38;5;2me\x1b[38;2;1;2;3mf\x1b[0m\r\ng\x1b(Bh\x1b]8;;http://x\x1b\\i\x00\x7f\rj\x1b"

    def shown(pieces: list[str]) -> Any:
        return module(
            page,
            "terminal.js",
            """const pre = document.createElement("pre");
            const terminal = new it.Terminal(pre);
            for (const piece of argument) terminal.write("stdout", piece);
            terminal.finish();
            const styled = {};
            for (const span of pre.querySelectorAll("span")) styled[span.className] = (styled[span.className] ?? "") + span.textContent;
            return [pre.textContent, styled];""",
            pieces,
        )

    whole = shown([text])
    assert whole == [
        "abcdef\nghi␀␡␍j␛",
        {"ansi-1 ansi-bold": "b", "ansi-1": "c", "ansi-2": "e", "control": "␀␡␍␛"},
    ]
    assert shown(list(text)) == whole


def test_a_program_that_writes_escapes_without_end_costs_no_time(page: Page) -> None:
    took = module(
        page,
        "terminal.js",
        """const terminal = new it.Terminal(document.createElement("pre"));
        const began = performance.now();
        for (const piece of ["\\x1b[".repeat(30000), "\\x1b]".repeat(30000), "\\x1b[" + "1;".repeat(30000), "\\x1b" + " ".repeat(60000)]) {
            terminal.write("stdout", piece);
        }
        terminal.finish();
        return performance.now() - began;""",
    )
    # With a pattern that backtracks it takes minutes.
    assert took < 20_000
