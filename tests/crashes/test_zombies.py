"""A process that was stopped in the middle of a handler for so long that another one took over commits nothing when it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from fissile import Settings
from tests.crashes.state import rows

ROOT = Path(__file__).parents[2]
STOP_S = 30.0


@contextmanager
def process(name: str, kind: str, settings: Settings, log: Path) -> Iterator[subprocess.Popen[str]]:
    """Run one of the two processes; it is told to end, and is killed if it does not."""
    command = [sys.executable, "-m", "tests.crashes.zombie", name, kind, msgspec.json.encode(settings).decode()]
    with (
        log.open("a") as errors,
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as started,
    ):
        try:
            yield started
            started.communicate("\n", timeout=STOP_S)
        finally:
            started.kill()


def next_line(started: subprocess.Popen[str], log: Path) -> str:
    assert started.stdout is not None
    line = started.stdout.readline().strip()
    assert line, log.read_text()[-4000:]
    return line


@pytest.mark.parametrize("kind", ["once", "idempotent"])
@pytest.mark.parametrize(("database", "backend"), [("sqlite", "asyncio"), ("postgresql", "trio")])
def test_a_process_that_was_stopped_in_a_handler_commits_nothing_after_another_took_over(
    request: pytest.FixtureRequest, tmp_path: Path, database: str, backend: Literal["asyncio", "trio"], kind: str
) -> None:
    values: dict[str, Any] = {"database": f"sqlite:///{tmp_path / 'data'}"}
    if database == "postgresql":
        values = {"database": request.getfixturevalue("postgres"), "database_prefix": f"z{os.urandom(4).hex()}_"}
    settings = Settings(
        bus=f"sqlite:///{tmp_path / 'log.sqlite3'}",
        backend=backend,
        partitions=1,
        sqlite_session_s=1.0,
        commit_interval_s=0.05,
        database_migrate=True,
        **values,
    )
    log = tmp_path / "log"
    with ExitStack() as stack:
        stopped = stack.enter_context(process("stopped", kind, settings, log))
        assert next_line(stopped, log) == "ready"
        os.waitid(os.P_PID, stopped.pid, os.WSTOPPED | os.WNOWAIT)
        other = stack.enter_context(process("other", kind, settings, log))
        assert next_line(other, log) == "ready"
        assert next_line(other, log) == "taken"
        stopped.send_signal(signal.SIGCONT)
        came_to = next_line(stopped, log)
    # One that takes effect once commits when its handler has ended, so the handler itself is told nothing.
    assert came_to == ("PartitionLost" if kind == "idempotent" else "taken")
    assert [name for (name,) in rows(settings, "zombies", "SELECT name FROM {}taken")] == ["other"]
    assert "has gone to another process" in log.read_text()
