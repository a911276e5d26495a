"""What people do in the playground, in one process and in several."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.playground.browsing import IS_SOAK, PASSWORD, Visitor, fill, new_name

Come = Callable[..., Visitor]

COMPILED_SLOWLY = {"typescript", "cpp", "rust", "go", "java"}
SUM = "a, b = map(int, input().split())\nprint(a + b)\n"
DIFFERENCE = "a, b = map(int, input().split())\nprint(a - b)\n"


def test_a_program_runs_and_what_it_writes_is_there_before_it_ends(come: Come, placement: str) -> None:
    visitor = come(placement)
    page = visitor.go()
    visitor.write("import time\nprint('early', flush=True)\ntime.sleep(4)\nprint('late', input())\n")
    page.get_by_label("Input").fill("read")
    page.get_by_role("button", name="Run").click()
    expect(visitor.output).to_contain_text("early")
    expect(visitor.output).not_to_contain_text("late", timeout=1)
    expect(visitor.run_status).to_contain_text("It runs")
    expect(visitor.output).to_have_text("early\nlate read\n")
    expect(visitor.run_status).to_contain_text("Finished in")


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("raise SystemExit(3)", "Ended with exit code 3"),
        ("import os\nos.kill(os.getpid(), 9)", "Ended by signal 9"),
    ],
)
def test_how_a_program_ended_is_told_in_words(come: Come, monolith: str, program: str, told: str) -> None:
    visitor = come(monolith)
    page = visitor.go()
    visitor.write(program)
    page.get_by_role("button", name="Run").click()
    expect(visitor.run_status).to_contain_text(told)


def test_a_wrong_and_a_right_solution_get_their_verdicts_and_the_leaderboard_moves_in_another_browser(
    come: Come, placement: str
) -> None:
    spectator = come(placement)
    board = spectator.go("/leaderboard")
    expect(board.locator("#live")).to_have_text("live")
    visitor = come(placement)
    page = visitor.go("/challenges/sum-of-two")
    name = visitor.sign_up()

    visitor.write(DIFFERENCE)
    page.get_by_role("button", name="Submit").click()
    expect(visitor.verdict_status).to_contain_text("Wrong answer")
    expect(page.locator(".case.bad").first).to_be_visible()
    expect(page.locator(".case-detail").first).to_be_visible()
    expect(board.get_by_role("row", name=name)).to_have_count(0)

    visitor.write(SUM)
    page.get_by_role("button", name="Submit").click()
    expect(visitor.verdict_status).to_contain_text("Accepted")
    cases = page.locator(".case").count()
    assert cases > 2
    expect(page.locator(".case.good")).to_have_count(cases)
    expect(page.locator(".verdict-count")).to_have_text(f"{cases} of {cases} cases")
    expect(board.get_by_role("row", name=name)).to_have_count(1)
    # Beside the statement both have come, too.
    expect(page.locator(".others .badge")).to_have_text(["Accepted", "Wrong answer"])
    expect(page.locator(".others .name", has_text=name)).to_have_count(1)

    visitor.go("/submissions")
    rows = page.get_by_role("row")
    expect(rows).to_have_count(3)
    page.get_by_role("link", name="Sum of two").first.click()
    expect(page.locator(".verdict-status")).to_contain_text("Accepted")
    expect(page.get_by_role("textbox", name="read only")).to_contain_text("print(a + b)")
    visitor.go("/challenges")
    expect(page.get_by_role("link", name=re.compile("Solved: Sum of two"))).to_be_visible()


def test_a_session_outlives_the_page_until_somebody_signs_out(come: Come, placement: str) -> None:
    visitor = come(placement)
    page = visitor.go()
    name = visitor.sign_up()
    page.reload()
    expect(page.locator("#who")).to_have_text(name)
    page.get_by_role("link", name="Submissions").click()
    expect(page.get_by_text("You have not submitted anything yet.")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in").first).to_be_visible()
    expect(page.get_by_text("Sign in to see what you have submitted.")).to_be_visible()
    page.reload()
    expect(page.locator("#sign-in")).to_be_visible()

    visitor.allowed.add(401)
    page.locator("#sign-in").click()
    dialog = page.get_by_role("dialog")
    fill(dialog, name, "another password")
    dialog.get_by_role("button", name="Sign in").click()
    expect(dialog.get_by_role("alert")).to_have_text("Name and password do not belong together.")
    dialog.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("#who")).to_have_text(name)


def test_a_password_is_changed_from_the_page(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go()
    name = visitor.sign_up()
    page.locator("#who").click()
    dialog = page.get_by_role("dialog")
    visitor.allowed |= {401, 422}
    before, after = dialog.get_by_label("Password", exact=True), dialog.get_by_label("New password")
    send = dialog.get_by_role("button", name="Change password")
    before.fill("another password")
    after.fill("staple battery horse correct 8")
    send.click()
    expect(dialog.get_by_role("alert")).to_have_text("That is not your password.")
    before.fill(PASSWORD)
    after.fill("12345678")
    send.click()
    expect(dialog.get_by_role("alert")).to_contain_text("Choose another password")
    after.fill("staple battery horse correct 8")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Your password is changed.")).to_be_visible()
    page.reload()
    expect(page.locator("#who")).to_have_text(name)
    page.get_by_role("button", name="Sign out").click()
    page.locator("#sign-in").click()
    fill(page.get_by_role("dialog"), name, "staple battery horse correct 8")
    page.get_by_role("dialog").get_by_role("button", name="Sign in").click()
    expect(page.locator("#who")).to_have_text(name)


def test_who_submits_without_an_account_is_asked_to_sign_in_and_then_goes_on(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go("/challenges/sum-of-two")
    visitor.write(SUM)
    page.get_by_role("button", name="Submit").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Create an account").click()
    fill(dialog, new_name(), PASSWORD)
    page.keyboard.press("Enter")
    expect(visitor.verdict_status).to_contain_text("Accepted")


def test_a_name_that_is_taken_is_told_in_words(come: Come, monolith: str) -> None:
    first = come(monolith)
    first.go()
    name = first.sign_up()
    second = come(monolith)
    page = second.go()
    second.allowed.add(409)
    page.locator("#sign-in").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Create an account").click()
    fill(dialog, name, PASSWORD)
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("choose another")


def test_two_tabs_share_a_session_and_each_reload_renews_it(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go()
    name = visitor.sign_up()
    other = visitor.context.new_page()
    other.goto(visitor.url)
    for _ in range(3):
        # Both renew at the same time; the second has to take the cookie that the first one got.
        page.evaluate("location.reload()")
        other.evaluate("location.reload()")
        expect(page.locator("#who")).to_have_text(name)
        expect(other.locator("#who")).to_have_text(name)
    page.get_by_role("button", name="Sign out").click()
    expect(other.locator("#sign-in")).to_be_visible()


def test_programs_are_kept_for_each_challenge_and_language(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go("/challenges/sum-of-two")
    visitor.write("kept = 1")
    page.get_by_label("Language").select_option("javascript")
    visitor.write("let kept = 2")
    visitor.go("/challenges/fizz-buzz")
    expect(visitor.editor).not_to_contain_text("kept")
    visitor.go("/challenges/sum-of-two")
    page.reload()
    expect(page.get_by_label("Language")).to_have_value("javascript")
    expect(visitor.editor).to_have_text("let kept = 2")
    page.get_by_label("Language").select_option("python")
    expect(visitor.editor).to_have_text("kept = 1")
    page.get_by_role("button", name="Start over").click()
    expect(visitor.editor).not_to_contain_text("kept")
    page.keyboard.press("Control+z")
    expect(visitor.editor).to_have_text("kept = 1")


def test_links_lead_to_views_and_back(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go("/challenges")
    page.get_by_role("link", name=re.compile("Sum of two")).click()
    expect(page.get_by_role("heading", name="Sum of two")).to_be_focused()
    assert page.url.endswith("/#/challenges/sum-of-two")
    expect(page).to_have_title("Sum of two · fissile")
    page.go_back()
    expect(page.get_by_role("heading", name="Challenges")).to_be_visible()
    expect(page.get_by_role("link", name="Challenges")).to_have_attribute("aria-current", "page")
    visitor.allowed.add(404)
    visitor.go("/challenges/no-such-thing")
    expect(page.get_by_role("alert")).to_be_visible()
    visitor.go("/nowhere")
    expect(page.get_by_role("alert")).to_have_text("There is nothing at this address.")


def test_an_example_becomes_the_input(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go("/challenges/sum-of-two")
    page.get_by_role("button", name="Use as input: example 1").click()
    visitor.run(SUM)
    expect(visitor.output).to_have_text(page.get_by_label("Example 1, output").inner_text() + "\n")


def test_who_is_offline_is_told_and_goes_on_when_it_is_over(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go()
    visitor.write("print('kept')")
    visitor.allowed.add(0)
    visitor.context.set_offline(offline=True)
    expect(page.locator("#offline")).to_be_visible()
    page.get_by_role("button", name="Run").click()
    expect(visitor.run_status).to_contain_text("cannot be reached")
    visitor.context.set_offline(offline=False)
    expect(page.locator("#offline")).to_have_count(0)
    page.get_by_role("button", name="Run").click()
    expect(visitor.output).to_have_text("kept\n")


@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        (429, {"retry-after": "7"}, "wait 7 s"),
        (503, {"retry-after": "3"}, "try again in 3 s"),
        (403, {}, "may not"),
        (502, {}, "The server has failed"),
    ],
)
def test_errors_are_words_that_say_what_to_do(
    come: Come, monolith: str, status: int, headers: dict[str, str], told: str
) -> None:
    visitor = come(monolith)
    page = visitor.go()
    visitor.allowed.add(status)
    page.route("**/start-run", lambda route: route.fulfill(status=status, headers=headers, body="<h1>no</h1>"))
    page.get_by_role("button", name="Run").click()
    expect(visitor.run_status).to_contain_text(told)


def test_why_a_run_could_not_be_made_is_told_in_a_sentence(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go()
    page.route("**/start-run", lambda route: route.fulfill(json={"run_id": "y"}))
    failed = {"run_id": "y", "kind": "busy", "reason": "Too many programs wait for their turn. Try again in a while."}
    told = f"event: run-failed\ndata: {json.dumps(failed)}\n\n"
    page.route("**/runs/y/events", lambda route: route.fulfill(content_type="text/event-stream", body=told))
    page.get_by_role("button", name="Run").click()
    expect(visitor.run_status).to_have_text(
        "It could not be run. Too many programs wait for their turn. Try again in a while."
    )


def test_the_first_program_of_each_language_greets_who_is_named_in_the_input(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go()
    page.get_by_label("Input").fill("Bo")
    offered = page.get_by_label("Language").locator("option")
    assert offered.count() >= 2
    for language in offered.all():
        value, name = language.get_attribute("value"), language.inner_text()
        assert name != value, f"{value} has no name for people, and no first program"
        if not IS_SOAK and value in COMPILED_SLOWLY:
            continue
        page.get_by_label("Language").select_option(value)
        page.get_by_role("button", name="Run").click()
        expect(visitor.output).to_contain_text("Hello, Bo!")
        expect(visitor.run_status).to_contain_text("Finished")
