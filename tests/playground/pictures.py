"""Takes the pictures of the docs: `python -m tests.playground.pictures`, from the application in one process."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.cli.example import port_of, running
from tests.playground.browsing import Visitor, open_chromium

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
PROGRAM = "for number in range(1, 6):\n    print(f'{number} squared is {number ** 2}')\n"
SOLUTION = (ROOT / "modules/challenges/seeds/sum-of-two/solutions/accepted.py").read_text()


def _keep(visitor: Visitor, name: str) -> None:
    visitor.page.wait_for_timeout(400)  # what fades in is there
    visitor.page.screenshot(path=IMAGES / f"{name}.png")


def take(browser: Browser, url: str) -> None:
    """Take all of them."""
    IMAGES.mkdir(exist_ok=True)
    light = Visitor.come(browser, url, color_scheme="light")
    light.go("/")
    light.sign_up("ada")
    page = light.go("/challenges/sum-of-two")
    light.write(SOLUTION)
    page.get_by_role("button", name="Submit").click()
    expect(light.verdict_status).to_contain_text("Accepted")
    _keep(light, "challenge-light")
    dark = Visitor.come(browser, url, color_scheme="dark")
    dark.go("/")
    dark.run(PROGRAM)
    _keep(dark, "playground-dark")
    page = dark.go("/leaderboard")
    expect(page.get_by_role("main")).to_contain_text("ada")
    _keep(dark, "leaderboard-dark")
    phone = Visitor.come(browser, url, color_scheme="light", viewport={"width": 390, "height": 844})
    phone.go("/challenges/sum-of-two")
    _keep(phone, "phone-light")
    for visitor in (light, dark, phone):
        visitor.leave()


def main() -> None:
    """Start the application and the browser, and take them."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "FISSILE_CODE_EXECUTOR_SANDBOX": "local",
            "FISSILE_BUS": f"sqlite:///{folder}/log.sqlite3",
            "FISSILE_DATABASE": f"sqlite:///{folder}",
            "FISSILE_DATABASE_MIGRATE": "true",
            "FISSILE_TRUSTED_PROXIES": "127.0.0.1",
        }
        with running("run", "--port", "0", cwd=ROOT, **settings) as run, open_chromium() as browser:
            take(browser, f"http://127.0.0.1:{port_of(run.wait_for('http://127.0.0.1:'))}")


if __name__ == "__main__":
    main()
