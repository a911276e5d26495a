"""A process that is killed at any moment: the next one goes on, and each step has had its effects once."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.sagas.program import effects_of, notes_of

ROOT = Path(__file__).parent.parent.parent


def run(backend: str, folder: Path, kill: str, count: int, seed: int) -> bool:
    """Run the program; return whether it came to its end."""
    command = [sys.executable, "-m", "tests.sagas.program", backend, str(folder), kill, str(count), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == 0


def texts(folder: Path, module: str, table: str) -> list[str]:
    connection = sqlite3.connect(folder / f"{module}.sqlite3")
    try:
        return sorted(text for (text,) in connection.execute(f"SELECT text FROM {table}"))
    finally:
        connection.close()


def states(folder: Path) -> dict[str, str]:
    connection = sqlite3.connect(folder / "orders.sqlite3")
    try:
        return dict(connection.execute("SELECT saga_id, status FROM fissile_saga"))
    finally:
        connection.close()


def check(folder: Path, seed: int) -> None:
    assert states(folder) == {"good": "completed", "bad": "compensated"}
    assert texts(folder, "pay", "effects") == effects_of(seed)
    assert texts(folder, "orders", "notes") == notes_of(seed)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_killed_at_each_step_it_has_each_effect_once(tmp_path: Path, backend: str) -> None:
    """Each process gets one step further: it is killed after the second commit of a step, or before the third, in turns."""
    kills = 0
    while not run(backend, tmp_path, "steps", 2 + kills % 2, 0):
        kills += 1
        assert kills < 60
    assert kills >= 15
    check(tmp_path, 0)


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_random_saga_killed_at_random_has_each_effect_once(tmp_path: Path, seed: int) -> None:
    random, kills = Random(seed), 0
    while not run("asyncio", tmp_path, "commits", random.randint(4, 16), seed):
        kills += 1
        assert kills < 100
    check(tmp_path, seed)
    assert kills >= 2
