"""The playground on a phone, in the dark, with the keyboard alone, and for who does not see it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.playground.browsing import Visitor

Come = Callable[..., Visitor]

LOOKS = (Path(__file__).parent / "looks.js").read_text()
SUM = "a, b = map(int, input().split())\nprint(a + b)\n"
VIEWS = ["/", "/challenges", "/challenges/sum-of-two", "/leaderboard", "/submissions"]
SCHEMES = {"light": "rgb(250, 249, 247)", "dark": "rgb(19, 20, 22)"}


def look(page: Page, function: str) -> Any:
    return page.evaluate(f"() => {LOOKS.rstrip().removesuffix(';')}.{function}()")


def each_view(visitor: Visitor) -> list[str]:
    """Fill the views with what can be there, and return them all."""
    page = visitor.go("/challenges/sum-of-two")
    visitor.sign_up()
    visitor.write("print(input())")
    page.get_by_role("button", name="Submit").click()
    expect(visitor.verdict_status).to_contain_text("Wrong answer")
    visitor.write(SUM)
    page.get_by_role("button", name="Submit").click()
    expect(visitor.verdict_status).to_contain_text("Accepted")
    visitor.go("/submissions")
    address = page.get_by_role("row").last.get_by_role("link").get_attribute("href")
    assert address is not None
    return [*VIEWS, address.removeprefix("#")]


def test_no_view_scrolls_sideways_on_a_phone(come: Come, monolith: str) -> None:
    visitor = come(monolith, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    for view in each_view(visitor):
        visitor.go(view)
        assert look(visitor.page, "wide") == {"found": [], "scrolls": False}, view


def test_a_phone_is_enough_to_solve_a_challenge(come: Come, monolith: str) -> None:
    visitor = come(monolith, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = visitor.go("/challenges/sum-of-two")
    visitor.sign_up()
    visitor.write(SUM)
    page.get_by_role("button", name="Submit").tap()
    expect(visitor.verdict_status).to_contain_text("Accepted")
    expect(visitor.verdict_status).to_be_in_viewport()
    # Smaller letters would make the phone enlarge the page.
    for field in (page.get_by_label("Language"), page.get_by_label("Input", exact=True), visitor.editor):
        assert float(field.evaluate("it => getComputedStyle(it).fontSize").removesuffix("px")) >= 16


def test_every_text_can_be_read_in_light_and_dark_and_all_that_can_be_used_has_a_name(
    come: Come, monolith: str
) -> None:
    visitor = come(monolith, reduced_motion="reduce")
    page = visitor.page
    for view in each_view(visitor):
        visitor.go(view)
        if view == "/":
            visitor.run(
                "# comment\nprint('\\x1b[31mr\\x1b[92mg\\x1b[33my\\x1b[34mb\\x1b[35mm\\x1b[36mc\\x1b[30mk\\x1b[2mdim\\x1b[7mx\\a')"
            )
        for scheme, background in SCHEMES.items():
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            expect(page.locator("body")).to_have_css("background-color", background)
            seen = look(page, "faint")
            assert seen["found"] == [], (view, scheme)
            assert seen["count"] > 10
        seen = look(page, "nameless")
        assert seen.pop("count") > 8
        assert seen == {"found": [], "twice": [], "broken": [], "headings": 1}, view
        for landmark in ("banner", "main", "navigation", "contentinfo"):
            expect(page.get_by_role(landmark)).to_have_count(1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_dialogs_can_be_read_and_have_names(come: Come, monolith: str, scheme: str) -> None:
    visitor = come(monolith, color_scheme=scheme, reduced_motion="reduce")
    page = visitor.go()
    for button, title in (("Sign in", "Sign in"), ("Keyboard", "Keyboard")):
        page.get_by_role("button", name=button, exact=True).click()
        expect(page.get_by_role("dialog", name=title)).to_be_visible()
        assert look(page, "faint")["found"] == []
        assert look(page, "nameless")["found"] == []
        page.keyboard.press("Escape")
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.get_by_role("button", name=button, exact=True)).to_be_focused()


def test_colours_can_be_chosen_and_stay(come: Come, monolith: str) -> None:
    visitor = come(monolith, color_scheme="light")
    page = visitor.go()
    page.get_by_role("button", name="Use dark colours").click()
    page.reload()
    expect(page.locator("body")).to_have_css("background-color", "rgb(19, 20, 22)")
    page.get_by_role("button", name="Use light colours").click()
    expect(page.locator("body")).to_have_css("background-color", "rgb(250, 249, 247)")


def test_a_challenge_is_solved_with_the_keyboard_alone(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go("/challenges")
    press = page.keyboard.press
    press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    press("Enter")
    tab_to(page, "Sum of two")
    press("Enter")
    expect(page.get_by_role("heading", name="Sum of two")).to_be_focused()
    tab_to(page, "Program")
    press("Control+a")
    page.keyboard.type("import sys\nfor line in sys.stdin:\nprint(sum(map(int, line.split(")
    press("ArrowUp")
    press("End")
    press("ArrowDown")
    press("Home")
    press("Tab")  # indents
    press("Control+Shift+Enter")
    expect(page.get_by_role("dialog", name="Sign in")).to_be_visible()
    press("Escape")
    expect(visitor.editor).to_be_focused()
    press("Control+Enter")
    expect(visitor.run_status).to_contain_text("Finished")
    press("Escape")
    press("Tab")
    expect(visitor.editor).not_to_be_focused()
    expect(visitor.editor).to_contain_text("for line in sys.stdin:    print(sum(map(int, line.split())))")


def tab_to(page: Page, name: str) -> None:
    """Press Tab until something of that name has the focus; all that had it shows it."""
    for _ in range(60):
        page.keyboard.press("Tab")
        assert look(page, "showsFocus"), page.evaluate("() => document.activeElement.outerHTML")
        focused = page.locator("*:focus")
        label = focused.get_attribute("aria-label") or focused.inner_text()
        if re.search(name, label):
            return
    raise AssertionError(f"{name} cannot be reached")


def test_verdicts_and_output_are_announced(come: Come, monolith: str) -> None:
    visitor = come(monolith)
    page = visitor.go("/challenges/sum-of-two")
    page.get_by_role("tab", name="Output").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Verdict")).to_be_focused()
    expect(page.get_by_role("tabpanel", name="Verdict")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="Nothing is submitted yet.")).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("log", name="Output")).to_be_visible()


def test_who_wants_no_motion_gets_none(come: Come, monolith: str) -> None:
    visitor = come(monolith, reduced_motion="reduce")
    page = visitor.go("/leaderboard")
    moving = page.evaluate("""() => [...document.querySelectorAll("*")].filter((it) => {
        const style = getComputedStyle(it);
        return style.animationName !== "none" || !/^(0s|none)/.test(style.transitionDuration);
    }).length""")
    assert moving == 0


@pytest.mark.parametrize("view", VIEWS[:4])
def test_nothing_moves_while_a_view_loads(come: Come, monolith: str, view: str) -> None:
    visitor = come(monolith)
    visitor.page.add_init_script("""
        window.shifts = 0;
        new PerformanceObserver((list) => {
            for (const entry of list.getEntries()) window.shifts += entry.value;
        }).observe({ type: "layout-shift", buffered: true });
    """)
    page = visitor.go(view)
    visitor.page.wait_for_load_state("networkidle") if view in ("/", "/challenges") else expect(
        page.locator("main h1")
    ).to_be_visible()
    assert (
        page.evaluate(
            "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(window.shifts))))"
        )
        < 0.02
    )
