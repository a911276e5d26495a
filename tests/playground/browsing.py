"""A browser of the tests: the machine's Chromium, which reaches nothing but this machine, and whose pages tell what is wrong with them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import randrange
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from attrs import define, field
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)

PATIENCE_MS = 45_000
"""How long a test waits for a condition; machines under load are slow."""

IS_SOAK = os.environ.get("FISSILE_TEST_SOAK", "0") not in ("", "0")

PASSWORD = "correct horse battery staple 7"
NAMES = ("chromium", "chromium-browser", "google-chrome")

expect.set_options(timeout=PATIENCE_MS)


_CHANGE_VIEW = """(path) => new Promise((done) => {
    const changed = new MutationObserver(() => done(changed.disconnect()));
    changed.observe(document.getElementById("main"), { childList: true });
    location.hash = path;
})"""
"""Follows a link within the page, and waits until the new view has taken the place of the old one."""


def find_chromium() -> str | None:
    """Return the browser: what `FISSILE_TEST_CHROMIUM` names, else what the machine has."""
    given = os.environ.get("FISSILE_TEST_CHROMIUM")
    return given or next(filter(None, map(shutil.which, NAMES)), None)


def skip_or_fail(reason: str, part: str = "chromium") -> None:
    """Skip the test, or fail it where a part of the machine is required."""
    if part in os.environ.get("FISSILE_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"{part} is required by FISSILE_REQUIRE, but {reason}")
    pytest.skip(reason)


@contextmanager
def open_chromium() -> Iterator[Browser]:
    """Start the browser. It resolves no name, so it reaches nothing but this machine."""
    path = find_chromium()
    if path is None:
        skip_or_fail(
            "there is no Chromium: none of " + ", ".join(NAMES) + " is on the path, and no FISSILE_TEST_CHROMIUM"
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path,
            args=["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-dev-shm-usage"],
        )
        yield browser
        browser.close()


@define(eq=False, slots=False)  # Playwright notes its wrappers in the object of a method
class Visitor:
    """Somebody with a browser of their own, and all that their pages complained of.

    Attributes:
        url: Where the application is.
        context: Their browser: cookies, storage.
        page: The page that they look at.
        allowed: Statuses of answers that the browser may complain of, since the test wants them.
        complaints: What is wrong with the pages: errors in the console, violations of the policy, requests that leave the application.
    """

    url: str
    context: BrowserContext
    page: Page
    allowed: set[int] = field(factory=set)
    complaints: list[str] = field(factory=list)

    @classmethod
    def come(cls, browser: Browser, url: str, **options: object) -> Visitor:
        """Open a new browser window that shares nothing with others.

        It comes from an address of its own, as a proxy would tell it: from one there may be no more than a few new accounts a minute.
        """
        address = f"10.{randrange(256)}.{randrange(256)}.{randrange(1, 255)}"
        options.setdefault("extra_http_headers", {"x-forwarded-for": address})
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE_MS)
        visitor = cls(url, context, context.new_page())
        context.on("request", visitor._on_request)
        context.on("console", visitor._on_console)
        context.on("weberror", lambda error: visitor.complaints.append(f"uncaught: {error.error}"))
        return visitor

    def _on_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and f"{parts.scheme}://{parts.netloc}" != self.url:
            self.complaints.append(f"a request leaves the application: {request.url}")

    def _on_console(self, message: ConsoleMessage) -> None:
        text = message.text
        if message.type not in ("error", "warning"):
            return
        if "Failed to load resource" in text and (
            any(f" {status} " in text for status in self.allowed) or (0 in self.allowed and "net::ERR_" in text)
        ):
            return
        self.complaints.append(f"{message.type} in the console: {text} ({message.location.get('url')})")

    def go(self, path: str = "/") -> Page:
        """Go to a view, such as `/challenges`, and wait until it is there."""
        address = f"{self.url}/#{path}"
        if self.page.url.startswith(self.url) and self.page.url != address:
            self.page.evaluate(_CHANGE_VIEW, path)
        else:
            self.page.goto(address)
        expect(self.page.locator("main h1")).to_be_attached()
        return self.page

    def write(self, program: str) -> None:
        """Write a program into the editor, in the place of what is there."""
        editor = self.editor
        editor.click()
        self.page.keyboard.press("Control+a")
        self.page.keyboard.press("Delete")
        # Typed text would be completed by the editor: brackets, indentation.
        self.page.keyboard.insert_text(program)

    @property
    def editor(self) -> Locator:
        return self.page.get_by_role("textbox", name="Program")

    @property
    def output(self) -> Locator:
        return self.page.get_by_role("log", name="Output")

    @property
    def run_status(self) -> Locator:
        return self.page.locator("#run-status")

    @property
    def verdict_status(self) -> Locator:
        return self.page.locator(".verdict-status")

    def run(self, program: str) -> None:
        """Write a program and run it to its end."""
        self.write(program)
        self.page.get_by_role("button", name="Run").click()
        expect(self.run_status).to_contain_text("Finished")

    def sign_up(self, name: str | None = None) -> str:
        """Make an account by the dialog; return its name."""
        name = name or new_name()
        self.page.get_by_role("button", name="Sign in", exact=True).first.click()
        dialog = self.page.get_by_role("dialog")
        dialog.get_by_role("button", name="Create an account").click()
        fill(dialog, name, PASSWORD)
        dialog.get_by_role("button", name="Create account").click()
        expect(self.page.locator("#who")).to_have_text(name)
        return name

    def leave(self) -> None:
        """Close the browser window; fail if a page complained of anything."""
        self.context.close()
        assert not self.complaints, "\n".join(self.complaints)


def fill(dialog: Locator, name: str, password: str) -> None:
    """Fill in the dialog for accounts."""
    dialog.get_by_label("Name").fill(name)
    dialog.get_by_label("Password").fill(password)


def new_name() -> str:
    """Return a name that nobody has."""
    return f"ada-{uuid4().hex[:10]}"


def module(page: Page, name: str, body: str, argument: object = None) -> Any:
    """Evaluate the body of a function in the page, with one of the page's own modules as `it`."""
    source = f"""async (argument) => {{
        const main = document.querySelector("script[type=module]").src;
        const it = await import(new URL("{name}", main));
        {body}
    }}"""
    return page.evaluate(source, argument)


def answering(body: object) -> Callable[[Route], None]:
    """Make the handler of a route that always gives the same answer."""

    def answer(route: Route) -> None:
        route.fulfill(content_type="application/json", body=json.dumps(body))

    return answer
