"""`fissile dead-letters`, in a process of its own, on a broker that it shares with the application."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.cli.example import BILLING_SERVICE, ORDERS_CONTRACT, PYPROJECT, Running, fissile, running, write_application

SPLIT = """
[tool.fissile.placements.split]
gateway = ["gateway"]
shop = ["orders", "billing"]
"""
FAILING = (
    BILLING_SERVICE.replace(
        "from fissile import Bus", "import logging\nfrom pathlib import Path\n\nfrom fissile import Bus"
    )
    .replace("Retry(attempts=9, first_s=0.5)", "Retry(attempts=1)")
    .replace(
        "    pass\n",
        """    if Path("failing").exists():
        raise ValueError(f"no {event.sku}")
    logging.warning("billed %s", event)
""",
    )
)
SECRET = ORDERS_CONTRACT.replace("Query, Topic", "Query, Topic, secret").replace(
    "class OrderPlaced(Event):\n    sku: str\n",
    "class OrderPlaced(Event):\n    sku: str\n    card: str = secret('4711', 'The card.')\n",
)
CHANGES = {
    "pyproject.toml": PYPROJECT + SPLIT,
    "modules/billing/service.py": FAILING,
    "modules/orders/contract.py": SECRET,
}


@contextmanager
def shop_on(bus: str, folder: Path) -> Iterator[tuple[Path, dict[str, str], Running]]:
    """The application on a broker; the orders A1, A1 and B2 have become dead letters of billing."""
    shop = write_application(folder / "shop", CHANGES)
    settings = {
        "FISSILE_BUS": bus,
        "FISSILE_PLACEMENT": "split",
        "FISSILE_KAFKA_PREFIX": f"test-{uuid4().hex[:8]}.",
        "FISSILE_PARTITIONS": "2",
        "FISSILE_COMMIT_INTERVAL_S": "0.1",
    }
    (shop / "failing").touch()
    assert fissile("dead-letters", "ls", cwd=shop, **settings).returncode == 5
    with running("run", "shop", cwd=shop, **settings) as processes:
        processes.wait_for('"ready"')
        for sku in ("A1", "A1", "B2"):
            assert fissile("call", "orders.place-order", "--sku", sku, cwd=shop, **settings).returncode == 0
        processes.wait_until(lambda: processes.text.count("given up") == 3, "three dead letters")
        yield shop, settings, processes


def told(*arguments: str, cwd: Path, **more: str) -> Any:
    done = fissile("dead-letters", *arguments, "--json", cwd=cwd, **more)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def is_none(shop: Path, settings: dict[str, str]) -> bool:
    return bool(told("ls", cwd=shop, **settings) == [])


def walk_through(shop: Path, settings: dict[str, str], processes: Running) -> None:
    """List, show, edit, archive and retry; in the end there is no dead letter."""

    def letters(*arguments: str, code: int = 0) -> tuple[str, str]:
        done = fissile("dead-letters", *arguments, cwd=shop, **settings)
        assert done.returncode == code, done.stderr
        return done.stdout, done.stderr

    heading, line = letters("ls")[0].splitlines()
    assert heading.split()[:6] == ["HANDLER", "ERROR", "TYPE", "DEAD", "RETRYING", "ARCHIVED"]
    assert line.split()[:6] == ["billing.on_placed", "ValueError", "orders.order-placed", "3", "0", "0"]
    each = told("ls", "--each", cwd=shop, **settings)
    assert [letter["key"] for letter in each] in (["A1", "A1", "B2"], ["A1", "B2", "A1"], ["B2", "A1", "A1"])
    assert {(letter["state"], letter["attempts"], letter["reason"]) for letter in each if letter["key"] == "B2"} == {
        ("dead", 1, "no B2")
    }
    assert told("ls", "--each", "--error", "KeyError", cwd=shop, **settings) == []
    assert len(told("ls", "--each", "--handler", "on_placed", "--since", "1h", cwd=shop, **settings)) == 3

    b2 = next(letter["id"] for letter in each if letter["key"] == "B2")
    text = letters("show", b2[:8])[0]
    assert 'body\n{\n  "sku": "B2",\n  "card": "********"\n}\n' in text
    assert "4711" not in text
    assert "ValueError: no B2" in text.split("traceback")[1]
    assert "origin      orders.placed, partition " in text

    refused = letters("edit", b2, "--set", "skv=C3", code=3)[1]
    assert "skv: there is no such field." in refused
    assert "sku: expected str, got int." in letters("edit", b2, "--body", '{"sku": 3}', code=3)[1]
    editor = shop / "editor.py"
    editor.write_text(
        "import sys, pathlib\np = pathlib.Path(sys.argv[1])\np.write_text(p.read_text().replace('B2', 'C3'))\n"
    )
    settings["EDITOR"] = f"python {editor}"
    assert letters("edit", b2)[0].strip() == b2
    shown = told("show", b2, cwd=shop, **settings)
    assert (shown["body"], shown["original"]) == ({"sku": "C3", "card": "********"}, {"sku": "B2", "card": "********"})
    assert (shown["edits"], shown["key"], shown["message_id"][-2:]) == (1, "C3", "~1")

    letters("archive", b2)
    assert letters("ls")[0].splitlines()[1].split()[3:6] == ["2", "0", "1"]
    assert "--all" in letters("retry", code=2)[1]
    assert "Pass --yes." in letters("retry", "--all", code=2)[1]
    assert len(told("retry", "--all", "--dry-run", cwd=shop, **settings)["letters"]) == 2
    assert letters("ls")[0].splitlines()[1].split()[3:6] == ["2", "0", "1"]

    for option, name, meant in (
        ("--handler", "on_plced", "on_placed"),
        ("--error", "ValueEror", "ValueError"),
        ("--type", "orders.order-placd", "orders.order-placed"),
        ("--module", "biling", "billing"),
    ):
        refused = letters("retry", option, name, code=4)[1]
        assert f"There is no dead letter with the {option[2:]} {name!r}." in refused
        assert meant in refused.split("Did you mean ")[1]
    assert "There is no dead letter with the error" in letters("archive", "--error", "Nothing", "--dry-run", code=4)[1]
    assert "nothing was done" in letters("retry", "--type", "orders.place-order")[1]  # known, and without a letter

    again = letters("retry", "--all", "--yes")
    assert "the place in the order is given up" in again[1]
    processes.wait_until(lambda: processes.text.count("given up after 2 attempts") == 2, "two dead again")
    (shop / "failing").unlink()
    letters("retry", "--error", "ValueError", "--module", "billing")
    processes.wait_until(lambda: processes.text.count("billed") == 2, "two billed")
    letters("retry", b2)
    processes.wait_for("billed OrderPlaced(sku='C3', card=********)")
    processes.wait_until(lambda: is_none(shop, settings), "no dead letter")
    assert "There is no dead letter" in letters("show", b2, code=4)[1]


def test_from_a_dead_letter_to_none(tmp_path: Path) -> None:
    with shop_on("sqlite:///log.sqlite3", tmp_path) as (shop, settings, processes):
        walk_through(shop, settings, processes)


def test_from_a_dead_letter_to_none_on_apache_kafka(apache_kafka: str, tmp_path: Path) -> None:
    with shop_on(f"kafka://{apache_kafka}", tmp_path) as (shop, settings, processes):
        walk_through(shop, settings, processes)


@pytest.mark.parametrize(
    "command", [["ls"], ["show", "x"], ["retry", "--all", "--yes"], ["archive", "x"], ["edit", "x"]]
)
def test_where_the_bus_is_in_memory_that_is_said_with_what_to_do(shop: Path, command: list[str]) -> None:
    done = fissile("dead-letters", *command, cwd=shop, FISSILE_BUS="memory://")
    assert (done.returncode, done.stdout) == (5, "")
    assert "the bus is memory://" in done.stderr
    assert "await app.dead_letters()" in done.stderr


def test_ls_shows_the_policy_of_commands_and_whether_a_key_is_parked(shop: Path) -> None:
    service = shop / "modules/billing/service.py"
    service.write_text(service.read_text().replace("Retry(attempts=9, first_s=0.5)", "Retry(attempts=1, parks=True)"))
    (subscription,) = json.loads(fissile("ls", "subscriptions", "--json", cwd=shop).stdout)
    assert subscription["retry"] == "once, then dead letter, and its key is parked"
    (command,) = json.loads(fissile("ls", "commands", "--json", cwd=shop).stdout)
    assert command["retry"] == "5 times from 0.2 s, at most 30 s, then dead letter"


def test_an_unknown_verb_is_told(shop: Path) -> None:
    done = fissile("dead-letters", "replay", cwd=shop)
    assert done.returncode == 2
    assert "fissile dead-letters --help" in done.stderr


def test_a_moment_that_is_none_is_told(shop: Path) -> None:
    settings = {"FISSILE_BUS": "sqlite:///log.sqlite3"}
    assert fissile("call", "orders.get-order", "--order-id", "1", cwd=shop, **settings).returncode == 0
    done = fissile("dead-letters", "ls", "--since", "yesterday", cwd=shop, **settings)
    assert (done.returncode, done.stdout) == (2, "")
    assert "neither a time span nor a moment" in done.stderr
    none = fissile("dead-letters", "ls", cwd=shop, **settings)
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "There are no dead letters.\n")
