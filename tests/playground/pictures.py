"""Takes the pictures of the docs: `python -m tests.playground.pictures`, from the application in one process."""

from __future__ import annotations

import tempfile
from pathlib import Path

import httpx
from playwright.sync_api import Browser, expect

from tests.cli.example import PATIENCE_S, Running, port_of, running
from tests.playground.browsing import PASSWORD, Visitor, fill, open_chromium

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs" / "images"
SEEDS = ROOT / "modules" / "challenges" / "seeds"
SHOWN = "balanced-brackets"
PEOPLE = {"grace": 6, "margaret": 5, "ada": 4, "edsger": 3, "radia": 3, "donald": 2, "barbara": 1}
"""Who is on the leaderboard, and how many challenges they have solved."""
ORDER = ("sum-of-two", "fizz-buzz", "count-vowels", "palindrome", "roman-numerals", SHOWN)
PROGRAM = """import time

WIDTH = 36
for n in range(1, 9):
    bar = "#" * (WIDTH * n // 8)
    print(f"{n}/8 \\x1b[34m{bar}\\x1b[0m", flush=True)
    time.sleep(0.05)
print("\\x1b[1;32mdone\\x1b[0m")
"""


def solve(run: Running, url: str) -> None:
    """Let people make accounts and solve challenges."""
    for number, (name, count) in enumerate(PEOPLE.items(), 1):
        address = {"x-forwarded-for": f"10.0.0.{number}"}
        with httpx.Client(base_url=url, headers=address, timeout=PATIENCE_S, trust_env=False) as http:
            who = {"name": name, "password": PASSWORD}
            http.post("/api/accounts/sign-up", json=who).raise_for_status()
            token = http.post("/session", json=who).raise_for_status().json()["access_token"]
            for slug in ORDER[:count]:
                source = (SEEDS / slug / "solutions" / "accepted.py").read_text()
                body = {"challenge": slug, "language": "python", "source": source}
                http.post(
                    "/api/submissions/submit-solution", json=body, headers={"authorization": f"Bearer {token}"}
                ).raise_for_status()

    def solved() -> dict[str, int]:
        places = httpx.get(f"{url}/api/leaderboard/get-standings", trust_env=False).json()["places"]
        return {place["name"]: place["solved"] for place in places}

    run.wait_until(lambda: solved() == PEOPLE, "that all is judged")


def keep(visitor: Visitor, name: str) -> None:
    """Take a picture."""
    visitor.page.mouse.move(0, 300)
    expect(visitor.page.locator(".notice")).to_have_count(0)
    visitor.page.wait_for_timeout(500)  # what fades has faded
    visitor.page.screenshot(path=IMAGES / f"{name}.png")


def take(browser: Browser, url: str) -> None:
    """Take all of them."""
    light = Visitor.come(browser, url, color_scheme="light", viewport={"width": 1280, "height": 760})
    page = light.go()
    page.locator("#sign-in").click()
    fill(page.get_by_role("dialog"), "ada", PASSWORD)
    page.keyboard.press("Enter")
    expect(page.locator("#who")).to_have_text("ada")
    light.go(f"/challenges/{SHOWN}")
    light.write((SEEDS / SHOWN / "solutions" / "wrong-answer.py").read_text())
    page.get_by_role("button", name="Submit").click()
    expect(light.verdict_status).to_contain_text("Wrong answer")
    keep(light, "challenge-light")
    dark = Visitor.come(browser, url, color_scheme="dark", viewport={"width": 1280, "height": 760})
    dark.go()
    dark.run(PROGRAM)
    keep(dark, "playground-dark")
    board = light.context.new_page()
    board.emulate_media(color_scheme="dark")
    board.goto(f"{url}/#/leaderboard")
    expect(board.locator("#live")).to_have_text("live")
    expect(board.get_by_role("row")).to_have_count(len(PEOPLE) + 1)
    board.screenshot(path=IMAGES / "leaderboard-dark.png")
    phone = Visitor.come(browser, url, color_scheme="light", viewport={"width": 390, "height": 760})
    phone.go("/challenges/sum-of-two")
    keep(phone, "phone-light")
    for visitor in (light, dark, phone):
        visitor.leave()


def main() -> None:
    """Start the application and the browser, and take them."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "FISSILE_CODE_EXECUTOR_SANDBOX": "local",
            "FISSILE_BUS": f"sqlite:///{folder}/log.sqlite3",
            "FISSILE_DATABASE": f"sqlite:///{folder}",
            "FISSILE_DATABASE_MIGRATE": "true",
            "FISSILE_TRUSTED_PROXIES": "127.0.0.1",
        }
        with running("run", "--port", "0", cwd=ROOT, **settings) as run, open_chromium() as browser:
            url = f"http://127.0.0.1:{port_of(run.wait_for('http://127.0.0.1:'))}"
            solve(run, url)
            take(browser, url)


if __name__ == "__main__":
    main()
