"""`fissile healthcheck`: what a container's health check asks."""

from __future__ import annotations

import json
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.cli.example import Running, answer, fissile, order, port_of, running, write_application

BACKENDS = ["asyncio", "trio"]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The example application."""
    return write_application(tmp_path / "shop")


@pytest.fixture
def runtime() -> Iterator[str]:
    """A folder for sockets; their paths have to be short."""
    with TemporaryDirectory(prefix="fh-", dir="/tmp") as folder:
        yield folder


def sockets(runtime: str) -> list[Path]:
    return list(Path(runtime).glob("*/*.sock"))


def started(run: Running) -> int:
    return port_of(run.wait_for('"ready"'))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_process_is_healthy_when_it_is_ready_and_gone_when_it_has_ended(
    shop: Path, runtime: str, backend: str
) -> None:
    assert fissile("healthcheck", cwd=shop, XDG_RUNTIME_DIR=runtime).returncode == 1
    with running("run", "--port", "0", "--backend", backend, cwd=shop, XDG_RUNTIME_DIR=runtime) as run:
        started(run)
        found = fissile("healthcheck", cwd=shop, XDG_RUNTIME_DIR=runtime)
        assert (found.returncode, found.stdout) == (0, "monolith: ready\n")
        named = fissile("--json", "healthcheck", "monolith", cwd=shop, XDG_RUNTIME_DIR=runtime)
        assert (named.returncode, json.loads(named.stdout)) == (0, [{"process": "monolith", "problems": []}])
        other = fissile("healthcheck", "front", cwd=shop, XDG_RUNTIME_DIR=runtime)
        assert (other.returncode, "No process 'front' runs here" in other.stderr) == (1, True)
        run.signal(signal.SIGTERM)
        assert run.wait_exit() == 0
    assert sockets(runtime) == []
    gone = fissile("healthcheck", cwd=shop, XDG_RUNTIME_DIR=runtime)
    assert (gone.returncode, "No process runs here" in gone.stderr) == (1, True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_process_that_drains_is_alive_and_not_ready(shop: Path, tmp_path: Path, runtime: str, backend: str) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"
    with running("run", "--port", "0", "--backend", backend, cwd=shop, XDG_RUNTIME_DIR=runtime) as run:
        connection = order(started(run), f"wait:{begun}:{done}")
        run.wait_until(begun.exists)
        run.signal(signal.SIGTERM)
        run.wait_for("draining")
        found = fissile("healthcheck", cwd=shop, XDG_RUNTIME_DIR=runtime)
        assert (found.returncode, "it is starting or draining" in found.stdout) == (1, True)
        assert fissile("healthcheck", "--alive", cwd=shop, XDG_RUNTIME_DIR=runtime).returncode == 0
        done.touch()
        assert answer(connection)
        assert run.wait_exit() == 0


def test_a_process_that_stands_still_is_not_alive(shop: Path, runtime: str) -> None:
    with running("run", "--port", "0", cwd=shop, XDG_RUNTIME_DIR=runtime) as run:
        started(run)
        run.signal(signal.SIGSTOP)
        found = fissile("healthcheck", "--alive", cwd=shop, XDG_RUNTIME_DIR=runtime)
        assert (found.returncode, "does not answer" in found.stdout) == (1, True)
        run.signal(signal.SIGCONT)
        assert fissile("healthcheck", cwd=shop, XDG_RUNTIME_DIR=runtime).returncode == 0


def test_what_a_killed_process_leaves_behind_is_cleared_away(shop: Path, runtime: str) -> None:
    with running("run", "--port", "0", cwd=shop, XDG_RUNTIME_DIR=runtime) as run:
        started(run)
        run.signal(signal.SIGKILL)
        run.wait_exit()
    assert len(sockets(runtime)) == 1
    assert fissile("healthcheck", cwd=shop, XDG_RUNTIME_DIR=runtime).returncode == 1
    assert sockets(runtime) == []


def test_only_the_user_of_a_process_can_ask(shop: Path, runtime: str) -> None:
    with running("run", "--port", "0", cwd=shop, XDG_RUNTIME_DIR=runtime) as run:
        started(run)
        (path,) = sockets(runtime)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_process_runs_where_no_socket_can_be_made(shop: Path, runtime: str) -> None:
    Path(runtime, "taken").touch()
    with running("run", "--port", "0", cwd=shop, XDG_RUNTIME_DIR=f"{runtime}/taken") as run:
        connection = order(started(run), "tea")
        assert answer(connection)
    assert "will not find this process" in run.text


def test_who_asks_and_goes_away_does_no_harm(shop: Path, runtime: str) -> None:
    with running("run", "--port", "0", cwd=shop, XDG_RUNTIME_DIR=runtime) as run:
        started(run)
        (path,) = sockets(runtime)
        for _ in range(50):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
        assert fissile("healthcheck", cwd=shop, XDG_RUNTIME_DIR=runtime).returncode == 0
