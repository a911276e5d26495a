"""A full disk: nothing that was acknowledged is lost, who waits is told, what nobody waits for waits, and it recovers by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
MOUNT = 'mount -t tmpfs -o size=3m none "$0" && exec "$@"'


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder where a small disk can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    tried = subprocess.run([*_before(folder), "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        reason = f"no file system of its own can be mounted here: {tried.stderr.strip()}"
        if "namespaces" in os.environ.get("FISSILE_REQUIRE", "").split(","):
            pytest.fail(f"Namespaces of users are required (FISSILE_REQUIRE): {reason}")
        pytest.skip(reason)
    return folder


def _before(folder: Path) -> Sequence[str]:
    return ("unshare", "-Urm", "sh", "-c", MOUNT, str(folder))


def _run(disk: Path, log: Path, backend: str) -> dict[str, Any]:
    command = [*_before(disk), sys.executable, "-m", "tests.crashes.small_disk", str(disk), str(log), backend]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _assert_nothing_is_lost(found: dict[str, Any]) -> None:
    before, during, after = found["acknowledged"]
    assert before == 5
    assert during >= before  # some may find the last room
    assert after == during + 5
    assert (found["missing"], found["twice"]) == ([], [])
    assert found["dead_letters"] == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_with_the_database_on_a_full_disk_who_waits_is_told_and_what_nobody_waits_for_waits(
    disk: Path, tmp_path: Path, backend: str
) -> None:
    found = _run(disk, tmp_path / "log.sqlite3", backend)
    _assert_nothing_is_lost(found)
    assert found["refusals"]
    assert all(text.startswith("DatabaseUnavailable: ") and "SQLITE_FULL" in text for text in found["refusals"])
    assert found["send_refusals"] == []
    assert any("SQLITE_FULL" in text for text in found["readiness"]), found["readiness"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_with_database_and_log_on_a_full_disk_nothing_acknowledged_is_lost_and_it_recovers(
    disk: Path, backend: str
) -> None:
    found = _run(disk, disk / "log.sqlite3", backend)
    _assert_nothing_is_lost(found)
    assert all("full" in text.lower() for text in (*found["refusals"], *found["send_refusals"])), found
    assert found["readiness"]
