"""`fissile run`: JSON logs, and the two signals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.example import Running, answer, environment, fissile, order, port_of, running

BACKENDS = ["asyncio", "trio"]


def logs(run: Running) -> list[dict[str, Any]]:
    """All lines, each of which is an object."""
    return [json.loads(line) for line in run.lines]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_what_is_in_progress_and_exits_with_0(
    shop: Path, tmp_path: Path, backend: str, number: signal.Signals
) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"
    with running("run", "--port", "0", "--backend", backend, cwd=shop) as run:
        connection = order(port_of(run.wait_for('"ready"')), f"wait:{begun}:{done}")
        run.wait_until(begun.exists)
        run.signal(number)
        run.wait_for("draining")
        done.touch()
        assert answer(connection) == f"1 x wait:{begun}:{done} [] False"
        assert run.wait_exit() == 0
        assert logs(run)[-1]["event"] == "stopped"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_signal_stops_at_once_whatever_is_in_progress(shop: Path, tmp_path: Path, backend: str) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"
    with running("run", "--port", "0", "--backend", backend, cwd=shop) as run:
        connection = order(port_of(run.wait_for('"ready"')), f"wait:{begun}:{done}")
        run.wait_until(begun.exists)
        run.signal(signal.SIGINT)
        run.wait_for("draining")
        run.signal(signal.SIGINT)
        assert run.wait_exit() == 130
        connection.close()


def test_a_second_signal_ends_even_a_handler_that_cannot_be_cancelled(shop: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with running("run", "--port", "0", cwd=shop) as run:
        connection = order(port_of(run.wait_for('"ready"')), f"stubborn:{begun}")
        run.wait_until(begun.exists)
        run.signal(signal.SIGTERM)
        run.wait_for("draining")
        run.signal(signal.SIGTERM)
        assert run.wait_exit() == 130
        connection.close()


def test_one_signal_that_is_delivered_twice_is_one(shop: Path, tmp_path: Path) -> None:
    """As `timeout` does, and whatever sends to a process and to its group."""
    begun, done = tmp_path / "begun", tmp_path / "done"
    with running("run", "--port", "0", cwd=shop) as run:
        connection = order(port_of(run.wait_for('"ready"')), f"wait:{begun}:{done}")
        run.wait_until(begun.exists)
        run.signal(signal.SIGSTOP)  # so that both are there when it goes on
        run.signal(signal.SIGTERM)
        run.signal(signal.SIGINT)
        run.signal(signal.SIGCONT)
        run.wait_for("draining")
        done.touch()
        assert answer(connection)
        assert run.wait_exit() == 0


def test_logs_are_one_json_object_a_line_with_the_fields_of_the_message_in_hand(shop: Path) -> None:
    with running("run", "--port", "0", cwd=shop) as run:
        port = port_of(run.wait_for('"ready"'))
        assert answer(order(port, "A1")) == "1 x A1 [] False"
        assert answer(order(port, "broken")) == ""
        run.wait_for("place-order failed")
        run.signal(signal.SIGTERM)
        assert run.wait_exit() == 0
        lines = logs(run)
    placed = next(line for line in lines if line["event"] == "placing A1")
    assert placed["level"] == "warning"
    assert placed["logger"] == "shop.orders"
    assert (placed["module"], placed["message"], placed["sku"]) == ("orders", "orders.place-order", "A1")
    assert placed["message_id"]
    assert placed["time"].endswith("Z")
    failed = next(line for line in lines if line["event"] == "orders.place-order failed")
    assert 'raise RuntimeError("the shelf fell over")' in failed["exception"]
    assert failed["module"] == "orders"


def test_it_says_at_start_that_the_bus_in_memory_keeps_nothing(shop: Path) -> None:
    with running("run", "--port", "0", cwd=shop, FISSILE_BUS="memory://") as run:
        run.wait_for('"ready"')
        assert any(line["level"] == "warning" and "memory" in line["event"] for line in logs(run))
    assert not (shop / "data").exists()


def ends(shop: Path) -> dict[str, int]:
    """How many records each topic has, as another process sees them."""
    found: dict[str, int] = {}
    for each in json.loads(fissile("lag", "--json", cwd=shop).stdout):
        found[each["topic"]] = found.get(each["topic"], 0) + each["end"]
    return found


def test_without_a_bus_it_keeps_the_log_in_a_file_that_outlives_a_kill(shop: Path) -> None:
    for number in (1, 2):
        with running("run", "--port", "0", cwd=shop) as run:
            ready = json.loads(run.wait_for('"ready"'))
            assert ready["bus"] == f"sqlite:///{shop}/data/log.sqlite3"
            assert not any(line["level"] == "warning" for line in logs(run))
            assert answer(order(port_of(json.dumps(ready)), "A1"))
            run.signal(signal.SIGKILL)
            run.process.wait()
        assert ends(shop)["shop.orders.placed"] == number


def test_other_commands_find_the_process_that_runs_on_the_file(shop: Path) -> None:
    (shop / "below").mkdir()
    with running("run", "--port", "0", cwd=shop) as run:
        run.wait_for('"ready"')
        done = fissile("call", "orders.place-order", "--sku", "A7", cwd=shop / "below")
        assert json.loads(done.stdout) == "1 x A7 [] False"
        run.wait_for("placing A7")
        told = json.loads(fissile("ps", "--json", cwd=shop).stdout)
        assert {each["client"] for each in told["members"]} == {"shop.monolith"}
        assert told["modules_without_process"] == []
        with subprocess.Popen(
            [sys.executable, "-m", "fissile", "tail", "--from", "earliest", "--json"],
            cwd=shop,
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as tail:
            assert tail.stdout is not None
            assert json.loads(tail.stdout.readline())["event"] == {"sku": "A7"}
            tail.send_signal(signal.SIGINT)
    gone = fissile("ps", cwd=shop)
    assert gone.returncode == 5
    assert "no process hosts orders" in gone.stderr


def test_a_call_runs_in_its_own_process_where_none_is_on_the_file_and_its_events_are_kept(shop: Path) -> None:
    done = fissile("call", "orders.place-order", "--sku", "A7", cwd=shop)
    assert done.returncode == 0, done.stderr
    assert ends(shop)["shop.orders.placed"] == 1


def test_dev_keeps_its_log_in_memory(shop: Path) -> None:
    with running("dev", "--no-reload", "--port", "0", cwd=shop) as dev:
        assert "bus: memory" in dev.wait_for("bus:")
    assert not (shop / "data").exists()


def test_a_file_that_is_no_log_is_a_fault_with_its_cure(shop: Path) -> None:
    (shop / "data").mkdir()
    (shop / "data/log.sqlite3").write_text("dear diary, " * 100)
    done = fissile("run", cwd=shop)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 3
    assert "not even a SQLite file" in lines[0]["event"]
    assert (lines[0]["where"], lines[0]["cure"]) == ("FISSILE_BUS", "Choose another file.")


def test_faults_are_logged_one_a_line_and_exit_with_3(shop: Path) -> None:
    (shop / "modules/orders/service.py").write_text("def (\n")
    done = fissile("run", cwd=shop)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 3
    assert lines[0]["where"] == "modules/orders/service.py:1"
    assert lines[0]["cure"]
    assert lines[-1]["event"] == "The application cannot start: 1 fault."


def test_a_taken_port_is_told_with_the_cure_and_exits_with_7(shop: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = fissile("run", "--port", str(taken.getsockname()[1]), cwd=shop)
    assert done.returncode == 7
    last = json.loads(done.stderr.splitlines()[-1])
    assert "address already in use" in last["event"].lower()
    assert "choose a port" in last["details"][0]


def test_an_unknown_process_is_a_fault_that_names_the_known_ones(shop: Path) -> None:
    done = fissile("run", "nowhere", cwd=shop)
    assert done.returncode == 3
    assert "has no process 'nowhere'" in done.stderr
    assert "monolith" in done.stderr


def test_a_start_without_options_imports_nothing_that_only_other_commands_need(shop: Path) -> None:
    names = "[name for name in ('rich', 'watchfiles', 'structlog', 'cyclopts', 'limits', 'trio', 'sqlalchemy') if name in sys.modules]"
    check = f"import sys, atexit; atexit.register(lambda: print({names}, file=sys.stderr))"
    (shop / "modules/orders/contract.py").write_text(f"{check}\n{(shop / 'modules/orders/contract.py').read_text()}")
    with running("run", cwd=shop, FISSILE_PORT="0") as run:
        run.wait_for('"ready"')
        run.signal(signal.SIGTERM)
        assert run.wait_exit() == 0
        assert run.lines[-1] == "[]\n"
