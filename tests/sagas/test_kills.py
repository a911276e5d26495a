"""A process that is killed at any moment: the next one goes on, and each step has had its effects once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.figures import figure
from tests.sagas.program import effects_of, notes_of

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.timeout(300)  # many processes, one after the other

SEEDS = max(2, int(os.environ.get("FISSILE_TEST_SEEDS", "50")) // 25)
"""How many random sagas there are on each database; each takes a dozen processes, one after the other."""


def run(backend: str, url: str, kill: str, count: int, seed: int) -> bool:
    """Run the program; return whether it came to its end."""
    command = [sys.executable, "-m", "tests.sagas.program", backend, url, kill, str(count), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode == 0


def rows(url: str, module: str, what: str, table: str) -> list[tuple[Any, ...]]:
    """Read columns of a table of a module, from outside. Any: of the columns' types."""
    is_file = url.startswith("sqlite")
    engine = create_engine(
        f"{url}/{module}.sqlite3" if is_file else url.replace("postgresql://", "postgresql+psycopg://")
    )
    try:
        with engine.connect() as connection:
            found = connection.execute(text(f"SELECT {what} FROM {table if is_file else f'{module}.{table}'}"))
            return [tuple(row) for row in found]
    finally:
        engine.dispose()


def check(url: str, seed: int) -> None:
    states: dict[str, str] = dict(rows(url, "orders", "saga_id, status", "fissile_saga"))
    assert states == {"good": "completed", "bad": "compensated"}
    assert sorted(each for (each,) in rows(url, "pay", "text", "effects")) == effects_of(seed)
    assert sorted(each for (each,) in rows(url, "orders", "text", "notes")) == notes_of(seed)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_killed_at_each_step_it_has_each_effect_once(database_url: str, backend: str) -> None:
    """Each process gets one step further: it is killed after the second commit of a step, or before the third, in turns."""
    kills = 0
    while not run(backend, database_url, "steps", 2 + kills % 2, 0):
        kills += 1
        assert kills < 60
    figure(f"sagas on {database_url.partition(':')[0]}, {backend}: killed at {kills} steps")
    assert kills >= 10  # on PostgreSQL two sagas may get further at a time
    check(database_url, 0)


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_a_random_saga_killed_at_random_has_each_effect_once(database_url: str, seed: int) -> None:
    random, kills = Random(seed), 0
    # On PostgreSQL more of the commits are those of leases and claims.
    fewest, most = (4, 16) if database_url.startswith("sqlite") else (8, 40)
    while not run("trio" if seed % 2 else "asyncio", database_url, "commits", random.randint(fewest, most), seed):
        kills += 1
        assert kills < 100
    check(database_url, seed)
    assert kills >= 2
