"""A process that is killed at any moment, again and again: each submission is judged once, told once, and in the order of its author's."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.figures import figure

from .court import CASES
from .program import AUTHORS, author_of, source_of, verdict_of

ROOT = Path(__file__).parents[3]
SCALE = float(os.environ.get("FISSILE_TEST_SCALE", "1"))
SEED = int(os.environ.get("FISSILE_TEST_SEED", "0"))
MANY = max(6, int(9 * SCALE))
"""How many submissions there are: about two kills for three of them."""


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Read a database from outside. Any: of the columns' types."""
    with closing(sqlite3.connect(path)) as file:
        return file.execute(query).fetchall()


@pytest.mark.timeout(120 + 60 * SCALE)
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_killed_at_any_moment_it_judges_each_submission_once_and_tells_it_once(tmp_path: Path, backend: str) -> None:
    command = [sys.executable, "-m", "tests.modules.submissions.program", backend, str(tmp_path), str(MANY), str(SEED)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    kills: int = msgspec.json.decode(done.stdout)["kills"]
    figure(f"submissions, {backend}: {MANY} were judged once over {kills} kills [seed {SEED}, scale {SCALE:g}]")
    assert kills >= MANY // 4

    found = rows(
        tmp_path / "data" / "submissions.sqlite3",
        "SELECT id, author, source, state, verdict, number FROM submissions ORDER BY judged_at, number",
    )
    numbers = {source_of(number).encode(): number for number in range(MANY)}
    assert sorted(numbers[row[2]] for row in found) == list(range(MANY))
    for _, author, source, state, verdict, _ in found:
        number = numbers[source]
        assert (author, state, verdict) == (author_of(number), "judged", verdict_of(number))
    for author in AUTHORS:
        assert [row[5] for row in found if row[1] == author] == sorted(row[5] for row in found if row[1] == author)

    told = rows(tmp_path / "data" / "scorer.sqlite3", "SELECT submission_id, verdict FROM scores")
    assert Counter(told) == Counter((row[0], row[4]) for row in found)
    ran = rows(tmp_path / "data" / "submissions.sqlite3", "SELECT submission_id, count(*) FROM results GROUP BY 1")
    accepted = {row[0] for row in found if row[4] == "accepted"}
    assert {key for key, count in ran if count == CASES} >= accepted
    sagas = rows(tmp_path / "data" / "submissions.sqlite3", "SELECT status, count(*) FROM fissile_saga GROUP BY 1")
    assert sagas == [("completed", MANY)]
