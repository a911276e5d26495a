"""What pages say of defaults is what `fissile config` says where nothing is set, and the README names every command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fissile import App, Settings
from fissile._application import Application
from fissile._errors import Fault
from fissile._settings import Sources, load
from fissile.cli._app import COMMANDS
from fissile.cli._export import WRITERS

ROOT = Path(__file__).parent.parent
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "s": 1, "min": 60, "hour": 3600, "day": 86_400, "days": 86_400}
WORDS = {"a minute": 60, "an hour": 3600, "a day": 86_400, "a week": 604_800, "a year": 31_536_000, "half": 0.5}
QUANTITY = re.compile(
    rf"(\d[\d,]*(?:\.\d+)?) ?({'|'.join(sorted(UNITS, key=len, reverse=True))})?\b|\b({'|'.join(WORDS)})\b"
)
IN_WORDS = {
    "FISSILE_MAX_BODY_BYTES": "that of a message, 1 MiB",
    "FISSILE_CORS_METHODS": "what the gateway itself uses",
    "FISSILE_CORS_HEADERS": "what the gateway itself uses",
    "FISSILE_CORS_EXPOSED": "what the gateway itself uses",
}
"""Defaults that depend on something."""

NONE = ("none", "any", "false", "0")
"""How a page may begin to tell of a default that is empty."""

MENTION = re.compile(r"`(FISSILE_[A-Z0-9_]+)` \(([^)`]*)\)")


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    """The default of each setting of this application, by its variable."""
    faults: list[Fault] = []
    modules = Application.find(ROOT).import_modules(faults)
    assert not faults
    _, own = load(Settings, Sources())
    origins = (*own, *App(modules.values()).settings_in_use())
    assert {origin.source for origin in origins} == {"default"}
    return {origin.variable: origin.value for origin in origins}


def tables(page: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Yield the head and the rows of each table of a page."""
    found: list[list[str]] = []
    for line in [*page.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("|"):
            found.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif found:
            yield found[0], found[2:]
            found = []


def names_in(head: list[str], row: list[str], known: dict[str, Any]) -> list[str]:
    """Return the settings that a row is about; `_KEEP_S` after `FISSILE_OPERATION_TIMEOUT_S` is `FISSILE_OPERATION_KEEP_S`."""
    for title, cell in zip(head, row, strict=True):
        prefix = re.search(r"`(FISSILE_\w+_)…`", title)
        if prefix is not None:
            return [f"{prefix[1]}{name}" for name in re.findall(r"`([A-Z_]+)`", cell)]
    names: list[str] = []
    for name in re.findall(r"`(FISSILE_[A-Z0-9_]+|_[A-Z_]+)`", row[0]):
        if name.startswith("FISSILE_"):
            names.append(name)
            continue
        parts = names[0].split("_")
        whole = ["_".join(parts[:end]) + name for end in range(len(parts) - 1, 0, -1)]
        names.append(next((each for each in whole if each in known), whole[0]))
    return names


def quantities(text: str) -> list[float]:
    """Return the numbers that a text tells, in seconds and bytes where it says so."""
    return [
        WORDS[match[3]] if match[3] else float(match[1].replace(",", "")) * UNITS.get(match[2], 1)
        for match in QUANTITY.finditer(text)
    ]


def fault_of(name: str, default: Any, text: str, numbers: list[float]) -> str | None:
    """Say what is wrong with what a page tells; it takes its number from the front of those told."""
    told = f"{name} is {default!r}, and the page says {text!r}"
    if name in IN_WORDS:
        return None if text.startswith(IN_WORDS[name]) else told
    if isinstance(default, (int, float)) and not isinstance(default, bool) and default:
        return None if numbers and numbers.pop(0) == default else told
    if not default:
        return None if text.startswith(NONE) else told
    if default is True:
        return None if text.strip("`").startswith("true") else told
    return None if str(default) in text else told


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_page_tells_the_defaults_that_there_are(page: Path, defaults: dict[str, Any]) -> None:
    faults: list[str | None] = []
    for head, rows in tables(page):
        if "default" not in head:
            continue
        for row in rows:
            text = row[head.index("default")]
            numbers = quantities(text)
            for name in names_in(head, row, defaults):
                if name in defaults:
                    faults.append(fault_of(name, defaults[name], text, numbers))
                else:
                    faults.append(f"{name} is no setting")
    for name, text in MENTION.findall(page.read_text(encoding="utf-8")):
        if quantities(text) or text.startswith(NONE):
            faults.append(fault_of(name, defaults[name], text, quantities(text)))
    assert [fault for fault in faults if fault] == []


def test_the_tables_are_found(defaults: dict[str, Any]) -> None:
    """So that the test above cannot pass by finding nothing."""
    found = {
        name
        for page in PAGES
        for head, rows in tables(page)
        if "default" in head
        for row in rows
        for name in names_in(head, row, defaults)
    }
    assert len(found) >= 60
    assert {"FISSILE_STREAMS_AT_ONCE", "FISSILE_OPERATION_KEEP_S", "FISSILE_CODE_EXECUTOR_DISK_BYTES"} <= found


def test_the_readme_names_every_command() -> None:
    table = next(rows for head, rows in tables(ROOT / "README.md") if head == ["command", "does"])
    named = " ".join(row[0] for row in table)
    wanted = [*COMMANDS, *(f"export {what}" for what in WRITERS), "run gateway --workers", "api-key new"]
    assert [command for command in wanted if f"`fissile {command}" not in named] == []
