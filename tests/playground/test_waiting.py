"""The page while what it asked for is not there yet, or cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from time import monotonic

import pytest
from playwright.sync_api import Page, Route, expect

from tests.playground.browsing import PATIENCE_MS, Visitor, answering, module

Come = Callable[..., Visitor]

SUM = "a, b = map(int, input().split())\nprint(a + b)\n"
OTHERS = {
    "slug": "sum-of-two",
    "version": 1,
    "title": "Sum of two",
    "difficulty": 1,
    "tags": [],
    "statement": "Add them.",
    "examples": [],
    "cases": 1,
    "languages": ["go", "python"],
    "time_s": 1.0,
    "memory_mib": 64,
}
REPORT = {
    "outcome": "killed",
    "exit_code": None,
    "signal": 9,
    "stdout": "begun\n",
    "stderr": "",
    "duration_ms": 1234.0,
    "truncated": False,
    "language": "python",
    "sandbox": "local",
}


def offered(page: Page) -> list[str]:
    options = page.get_by_label("Language").locator("option").all()
    return [option.get_attribute("value") or "" for option in options]


def without_executor(visitor: Visitor) -> None:
    """Let nobody say which languages there are."""
    visitor.allowed.add(503)
    visitor.page.route("**/code-executor/list-languages", lambda route: route.fulfill(status=503))


def hold(page: Page, pattern: str) -> list[Route]:
    """Let requests wait; return those that do, as they come."""
    held: list[Route] = []

    def take(route: Route) -> None:
        held.append(route)

    page.route(pattern, take)
    return held


def first(page: Page, held: list[Route]) -> Route:
    """Return the first request that waits, once there is one."""
    end = monotonic() + PATIENCE_MS / 1000
    while not held and monotonic() < end:
        page.wait_for_timeout(20)
    return held[0]


def event(name: str, data: Mapping[str, object]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


# --- without an executor ---------------------------------------------------------------------------------------------


def test_without_the_executor_a_challenge_is_shown_and_taken_and_run_comes_back_by_itself(
    come: Come, monolith: str
) -> None:
    visitor = come(monolith)
    without_executor(visitor)
    page = visitor.go("/challenges/sum-of-two")
    visitor.sign_up()
    expect(page.get_by_role("heading", name="Sum of two")).to_be_visible()
    run = page.get_by_role("button", name="Run")
    expect(run).to_be_disabled()
    expect(run).to_have_accessible_description(visitor.run_status.inner_text())
    expect(visitor.run_status).to_contain_text("Programs cannot be run now.")
    visitor.write(SUM)
    page.keyboard.press("Control+Enter")
    expect(visitor.run_status).to_contain_text("Programs cannot be run now.")
    page.get_by_role("button", name="Submit").click()
    expect(visitor.verdict_status).to_contain_text("Accepted")

    page.unroute("**/code-executor/list-languages")
    expect(run).to_be_enabled()
    expect(visitor.run_status).to_have_text("")
    expect(visitor.editor).to_contain_text("print(a + b)")
    page.get_by_label("Input", exact=True).fill("1 2")
    run.click()
    expect(visitor.output).to_have_text("3\n")


def test_without_the_executor_the_languages_are_those_that_there_were_last(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go("/")
    before = offered(page)
    assert "python" in before
    without_executor(visitor)
    page.reload()
    expect(page.get_by_role("button", name="Run")).to_be_disabled()
    assert offered(page) == before


def test_without_the_executor_a_challenge_that_names_languages_offers_them(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    without_executor(visitor)
    visitor.page.route("**/get-challenge*", answering(OTHERS))
    page = visitor.go("/challenges/sum-of-two")
    expect(page.get_by_role("button", name="Run")).to_be_disabled()
    assert sorted(offered(page)) == ["go", "python"]


def test_a_withdrawn_challenge_is_shown_and_takes_nothing(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    visitor.page.route("**/get-challenge*", answering({**OTHERS, "is_withdrawn": True}))
    page = visitor.go("/challenges/sum-of-two")
    expect(page.get_by_text("This challenge was withdrawn")).to_be_visible()
    expect(page.get_by_role("button", name="Submit")).to_have_count(0)
    page.get_by_label("Input", exact=True).fill("1 2")
    visitor.run(SUM)
    expect(visitor.output).to_have_text("3\n")


@pytest.mark.parametrize("view", ["/", "/challenges/sum-of-two"])
def test_an_executor_that_does_not_answer_holds_up_no_view(come: Come, monolith: str, view: str) -> None:
    visitor = come(monolith)
    asked = hold(visitor.page, "**/code-executor/list-languages")
    page = visitor.go(view)
    expect(visitor.editor).to_be_visible()
    expect(page.get_by_role("button", name="Run")).to_be_disabled()
    for route in asked:
        route.continue_()
    expect(page.get_by_role("button", name="Run")).to_be_enabled()


# --- two at a time ---------------------------------------------------------------------------------------------------


def test_a_program_can_be_run_while_a_submission_waits_and_the_other_way_round(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go("/challenges/sum-of-two")
    visitor.sign_up()
    page.route("**/submit-solution", answering("x"))
    judging = hold(page, "**/submissions/x/events")
    run, submit = page.get_by_role("button", name="Run"), page.get_by_role("button", name="Submit")
    visitor.write("print(input())")
    page.get_by_label("Input", exact=True).fill("read")
    submit.click()
    expect(visitor.verdict_status).to_contain_text("It waits for its turn")
    expect(submit).to_be_disabled()
    run.click()
    expect(visitor.output).to_have_text("read\n")
    expect(visitor.run_status).to_contain_text("Finished")
    expect(submit).to_be_disabled()
    end = {"submission_id": "x", "state": "judged", "verdict": "wrong_answer", "passed": 0, "cases": 1}
    first(page, judging).fulfill(content_type="text/event-stream", body=event("judging-ended", end))
    expect(visitor.verdict_status).to_contain_text("Wrong answer")
    expect(submit).to_be_enabled()

    page.route("**/start-run", answering({"run_id": "y"}))
    hold(page, "**/runs/y/events")
    run.click()
    expect(visitor.run_status).to_contain_text("It waits for its turn")
    expect(run).to_be_disabled()
    expect(submit).to_be_enabled()
    page.get_by_role("tab", name="Verdict").click()
    expect(page.get_by_role("tabpanel", name="Verdict")).to_be_visible()


# --- a run that is stopped -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["button", "key"])
def test_a_run_is_stopped_by_a_button_or_a_key(come: Come, monolith: str, way: str) -> None:
    visitor = come(monolith)
    page = visitor.go()
    stop, run = page.get_by_role("button", name="Stop", exact=True), page.get_by_role("button", name="Run")
    expect(stop).to_have_count(0)
    page.route("**/start-run", answering({"run_id": "y"}))
    watching = hold(page, "**/runs/y/events")
    page.route("**/api/code-executor/cancel-run", lambda route: route.fulfill(status=204))
    visitor.editor.click()
    page.keyboard.press("Control+Enter")
    expect(visitor.run_status).to_contain_text("It waits for its turn")
    with page.expect_request("**/api/code-executor/cancel-run") as asked:
        if way == "button":
            stop.focus()
            page.keyboard.press("Enter")
        else:
            page.keyboard.press("Control+.")
    assert asked.value.post_data_json == {"run_id": "y"}
    expect(visitor.run_status).to_have_text("It is being stopped …")
    expect(stop).to_be_disabled()
    first(page, watching).fulfill(
        content_type="text/event-stream", body=event("run-finished", {"run_id": "y", "report": REPORT})
    )
    expect(visitor.run_status).to_have_text("You have stopped it.")
    expect(visitor.output).to_have_text("begun\n")
    expect(stop).to_have_count(0)
    expect(run if way == "button" else visitor.editor).to_be_focused()
    expect(run).to_be_enabled()


def test_a_run_that_is_not_known_yet_is_stopped_as_soon_as_it_is(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go()
    starting = hold(page, "**/start-run")
    hold(page, "**/runs/y/events")
    page.get_by_role("button", name="Run").click()
    expect(visitor.run_status).to_have_text("It starts …")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(visitor.run_status).to_have_text("It is being stopped …")
    with page.expect_request("**/api/code-executor/cancel-run") as asked:
        page.route("**/api/code-executor/cancel-run", lambda route: route.fulfill(status=204))
        answering({"run_id": "y"})(first(page, starting))
    assert asked.value.post_data_json == {"run_id": "y"}


def test_a_run_that_could_not_be_stopped_goes_on_and_can_be_stopped_again(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    visitor.allowed.add(503)
    page = visitor.go()
    page.route("**/start-run", answering({"run_id": "y"}))
    hold(page, "**/runs/y/events")
    page.route("**/api/code-executor/cancel-run", lambda route: route.fulfill(status=503))
    page.get_by_role("button", name="Run").click()
    expect(visitor.run_status).to_contain_text("It waits for its turn")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(visitor.run_status).to_contain_text("It could not be stopped.")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_enabled()


# --- details ---------------------------------------------------------------------------------------------------------


def test_what_is_the_same_for_several_cases_is_told_once(come: Come, monolith: str) -> None:
    page = come(monolith).go()
    shown = module(
        page,
        "verdict.js",
        """const verdict = it.makeVerdict();
        verdict.begin("Waiting");
        for (const [number, kind, detail] of argument) {
            verdict.case({ number, verdict: kind, duration_ms: 1, is_hidden: number > 2, detail });
        }
        return [...verdict.node.querySelectorAll(".case-detail")].map((each) => [...each.children].map((part) => part.textContent));""",
        [
            [3, "compile_error", "no semicolon"],
            [1, "compile_error", "no semicolon"],
            [2, "wrong_answer", "no semicolon"],
            [0, "runtime_error", "boom"],
            [4, "compile_error", "no semicolon"],
            [5, "accepted", None],
        ],
    )
    assert shown == [
        ["Case 1: Runtime error, 1.0 ms", "boom"],
        ["Cases 2, 4 and 5: Does not compile", "no semicolon"],
        ["Case 3: Wrong answer, 1.0 ms", "no semicolon"],
    ]
