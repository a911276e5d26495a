"""`fissile run gateway --workers N`: several processes behind one port."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Self

import httpx
import pytest

from tests.cli.example import PATIENCE_S, Running, fissile, port_of, running, write_application

PYPROJECT = """
[tool.fissile]
name = "shop"
modules = ["modules.orders", "modules.billing"]

[tool.fissile.placements.split]
gateway = ["gateway"]
core = ["orders", "billing"]

[tool.fissile.placements.mixed]
edge = ["gateway", "billing"]
core = ["orders"]
"""


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """The example application with the real gateway, in two processes."""
    folder = write_application(tmp_path, {"pyproject.toml": PYPROJECT})
    (folder / "fissile_gateway/__init__.py").unlink()
    (folder / "fissile_gateway").rmdir()
    return folder


def refusal(folder: Path, *arguments: str, **more: str) -> str:
    done = fissile("run", *arguments, cwd=folder, **more)
    assert done.returncode == 3, done.stderr
    return "\n".join(json.loads(line)["event"] for line in done.stderr.splitlines())


def test_a_process_that_hosts_more_than_the_gateway_may_not_have_workers(split: Path) -> None:
    assert "hosts orders, billing beside the gateway: each worker would, too" in refusal(split, "--workers", "2")
    assert "hosts billing beside the gateway" in refusal(split, "edge", "--workers", "2", "--placement", "mixed")
    assert "does not host the gateway" in refusal(split, "core", FISSILE_WORKERS="3", FISSILE_PLACEMENT="split")


def test_a_bus_in_memory_may_not_have_workers(split: Path) -> None:
    told = refusal(split, FISSILE_WORKERS="2", FISSILE_BUS="memory://")
    assert "memory:// is in the memory of one process" in told


def test_a_port_that_is_taken_is_told_once_and_nothing_is_started(split: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = refusal(split, "gateway", "--placement", "split", "--workers", "2", "--port", str(port))
    assert f"the port {port} of 127.0.0.1 is taken" in told


def test_what_no_worker_can_start_with_ends_the_command_with_its_exit_code(split: Path) -> None:
    (split / "gateway/app").mkdir(parents=True)
    (split / "gateway/__init__.py").touch()
    (split / "gateway/app/__init__.py").touch()
    (split / "gateway/app/broken.py").write_text("import nowhere_to_be_found\n")
    told = refusal(split, "gateway", "--placement", "split", "--workers", "2", "--port", "0")
    assert "nowhere_to_be_found" in told


class Sender:
    """A client that sends one request after the other, each on a connection of its own, and keeps what came of them."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.outcomes: list[str] = []
        self._stop = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            self.outcomes.append(livez(self.port))


def livez(port: int) -> str:
    """Ask once, on a connection of its own; return the status, or what went wrong."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            return connection.recv(4096).decode().split(" ")[1]
    except (OSError, IndexError) as error:
        return f"{type(error).__name__}: {error}"


def pids(run: Running) -> dict[int, int]:
    """The process of each worker that was last told to be ready."""
    found: dict[int, int] = {}
    for line in run.lines:
        told = json.loads(line)
        if told["event"].startswith("worker ") and told["event"].endswith(" is ready"):
            found[int(told["event"].split()[1])] = told["pid"]
    return found


def serving_port(run: Running) -> int:
    return port_of(run.wait_for('"ready"'))


ARGUMENTS = ("run", "gateway", "--placement", "split", "--workers", "2", "--port", "0")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_worker_that_dies_is_started_again_and_no_connection_is_refused(split: Path, backend: str) -> None:
    with running(*ARGUMENTS, "--backend", backend, cwd=split) as run:
        port = serving_port(run)
        before = pids(run)
        os.kill(before[0], signal.SIGKILL)
        run.wait_for("worker 0 has ended by the signal SIGKILL; it is started again")
        with Sender(port) as sender:
            run.wait_for("worker 0 is ready")
            run.wait_until(lambda: len(sender.outcomes) > 20)
        assert set(sender.outcomes) == {"200"}
        after = pids(run)
        assert after[1] == before[1]
        assert after[0] != before[0]
        run.signal(signal.SIGTERM)
        assert run.wait_exit() == 0
        assert json.loads(run.lines[-1])["event"] == "stopped"
    for pid in {*before.values(), *after.values()}:  # the supervisor has waited for them
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_on_a_hangup_all_workers_are_replaced_and_no_request_fails(split: Path) -> None:
    with running(*ARGUMENTS, cwd=split) as run:
        port = serving_port(run)
        before = pids(run)
        with Sender(port) as sender:
            run.signal(signal.SIGHUP)
            run.wait_for("all workers have been replaced")
        assert set(sender.outcomes) == {"200"}
        after = pids(run)
        assert not set(after.values()) & set(before.values())
        assert {json.loads(line)["worker"] for line in run.lines if "/livez" in line} == {0, 1}
        run.signal(signal.SIGINT)
        assert run.wait_exit() == 0


def test_a_replacement_that_cannot_start_leaves_the_workers_as_they_are(split: Path) -> None:
    with running(*ARGUMENTS, cwd=split) as run:
        port = serving_port(run)
        before = pids(run)
        (split / "modules/orders/contract.py").write_text("import nowhere_to_be_found\n")
        run.signal(signal.SIGHUP)
        run.wait_for("the workers that are left go on as they are")
        assert livez(port) == "200"
        assert pids(run) == before
        run.signal(signal.SIGTERM)
        assert run.wait_exit() == 0


def test_a_second_signal_ends_all_workers_at_once(split: Path) -> None:
    with running(*ARGUMENTS, cwd=split, FISSILE_DRAIN_DELAY_S="600") as run:
        serving_port(run)
        run.signal(signal.SIGTERM)
        run.wait_for('"draining"')
        run.wait_for('"draining"')
        run.signal(signal.SIGTERM)
        assert run.wait_exit() == 130


def test_the_port_for_metrics_tells_those_of_all_workers(split: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        metrics_port = free.getsockname()[1]
    with running(*ARGUMENTS, cwd=split, FISSILE_METRICS_PORT=str(metrics_port)) as run:
        port = serving_port(run)
        for _ in range(20):
            assert livez(port) == "200"
        text = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics", trust_env=False, timeout=PATIENCE_S).text
        assert "\nfissile_workers_ready 2.0\n" in text
        counts = [
            line.rpartition(" ")
            for line in text.splitlines()
            if line.startswith("fissile_http_requests_total{") and '"/livez"' in line
        ]
        assert {'worker="0"' in name for name, _, _ in counts} == {True, False} or len(counts) == 1
        assert sum(float(count) for *_, count in counts) == 20
        assert text.count("# TYPE process_cpu_seconds_total") == 1
        ready = httpx.get(f"http://127.0.0.1:{metrics_port}/readyz", trust_env=False, timeout=PATIENCE_S)
        assert (ready.status_code, ready.text) == (200, "ok\n")
        run.signal(signal.SIGTERM)
        assert run.wait_exit() == 0


def test_workers_end_with_their_supervisor_however_it_ends(split: Path) -> None:
    with running(*ARGUMENTS, cwd=split) as run:
        serving_port(run)
        workers = pids(run).values()
        run.process.kill()
        run.process.wait()
        assert run.wait_exit() == -signal.SIGKILL

    def gone(pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # A zombie whose new parent does not look after it has ended, too.
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    end = monotonic() + PATIENCE_S
    while not all(gone(pid) for pid in workers):
        assert monotonic() < end
        Event().wait(0.02)


# --- operations ------------------------------------------------------------------------------------------------------


@contextmanager
def client_of(run: Running, port: int, number: int) -> Generator[httpx.Client]:
    """Open a connection that one worker has taken, and keep it."""
    others = [pid for other, pid in pids(run).items() if other != number]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S, trust_env=False) as client:
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            assert client.get("/livez").status_code == 200
        finally:
            for pid in others:
                os.kill(pid, signal.SIGCONT)
        yield client


def workers_of(run: Running, method: str, path: str) -> set[int]:
    """Return the workers that have answered a path."""
    told = [json.loads(line) for line in run.lines]
    return {line["worker"] for line in told if line.get("method") == method and line.get("path") == path}


def begin_order(client: httpx.Client, folder: Path, name: str) -> str:
    """Begin an order that waits, and return once it is in hand; the URL of its operation."""
    begun, done = folder / f"{name}-begun", folder / f"{name}-done"
    body = {"sku": f"wait:{begun}:{done}"}
    answer = client.post("/api/orders/place-order", json=body, headers={"prefer": "respond-async"})
    assert answer.status_code == 202
    end = monotonic() + PATIENCE_S
    while not begun.exists():
        assert monotonic() < end
        Event().wait(0.02)
    return answer.headers["location"]


KEPT = {"FISSILE_KEEP_ALIVE_S": "600"}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_each_worker_tells_of_the_operations_of_all_and_cancels_them(split: Path, backend: str) -> None:
    arguments = (*ARGUMENTS, "--backend", backend)
    with (
        running("run", "core", "--placement", "split", cwd=split),
        running(*arguments, cwd=split, **KEPT) as run,
    ):
        port = serving_port(run)
        with client_of(run, port, 0) as own, client_of(run, port, 1) as other:
            location = begin_order(own, split, "first")
            for client in (own, other):
                told = client.get(location)
                assert (told.status_code, told.json()["state"], told.headers["retry-after"]) == (200, "running", "1")
            run.wait_until(lambda: workers_of(run, "GET", location) == {0, 1})
            (split / "first-done").touch()
            end = monotonic() + PATIENCE_S
            while (told := other.get(location)).json()["state"] == "running":
                assert monotonic() < end
            assert told.json() == own.get(location).json()
            assert told.json()["state"] == "succeeded"
            assert other.delete(location).json()["type"] == "/problems/operation-ended"

            cancelled = other.delete(begin_order(own, split, "second"))
            assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
            strange = other.get("/api/operations/0123456789abcdef")
            assert (strange.status_code, strange.json()["type"]) == (404, "/problems/unknown-operation")
        run.signal(signal.SIGTERM)
        assert run.wait_exit() == 0


def test_workers_that_cannot_ask_each_other_answer_when_a_command_is_done(split: Path) -> None:
    nowhere = split / "nowhere"
    with (
        running("run", "core", "--placement", "split", cwd=split),
        running(*ARGUMENTS, cwd=split, XDG_RUNTIME_DIR=str(nowhere)) as run,
    ):
        port = serving_port(run)
        assert "`Prefer: respond-async` is passed over" in run.text
        answer = httpx.post(
            f"http://127.0.0.1:{port}/api/orders/place-order",
            json={"sku": "A1"},
            headers={"prefer": "respond-async"},
            timeout=PATIENCE_S,
            trust_env=False,
        )
        assert (answer.status_code, answer.json()) == (200, "1 x A1 [] False")
        run.signal(signal.SIGTERM)
        assert run.wait_exit() == 0
