"""`fissile dev --split`: one process per entry of the placement, on a broker that it brings."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from tests.cli.example import (
    PATIENCE_S,
    Running,
    answer,
    fissile,
    order,
    port_of,
    running,
)

SERVICE = "modules/orders/service.py"


def change(file: Path, before: str, after: str) -> None:
    """Save a file with something replaced."""
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


def pids_of(dev: Running) -> dict[str, int]:
    """Return the processes of the banner."""
    return {name: int(pid) for name, pid in re.findall(r"^  (\w+) +pid (\d+) ", dev.text, re.MULTILINE)}


def is_there(pid: int) -> bool:
    """Tell whether a process exists."""
    try:
        os.kill(pid, 0)
        # One that has ended stays in the list until its parent asks, and the parent of an orphan may never do so.
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def broker_folders() -> set[Path]:
    """Return the temporary folders of brokers."""
    return set(Path(os.environ.get("TMPDIR", "/tmp")).glob("fissile-broker-*"))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_command_answers_and_leaves_nothing_behind(split_shop: Path, backend: str) -> None:
    with running("dev", "--split", "--port", "0", "--backend", backend, cwd=split_shop) as dev:
        port = port_of(dev.wait_for("Gateway"))
        dev.wait_for("Ready in")
        assert "bus: kafka · 2 modules in 3 processes" in dev.text
        pids = pids_of(dev)
        assert pids.keys() == {"gateway", "orders", "billing"}
        assert answer(order(port, "A1")) == "1 x A1 [] False"
        assert dev.wait_for("placing A1").startswith("orders  | ")
        dev.signal(signal.SIGINT)
        assert dev.wait_exit() == 0
        assert not [name for name, pid in pids.items() if is_there(pid)]
    assert "Traceback" not in dev.text


def test_each_process_has_a_colour_where_colours_are_wanted(split_shop: Path) -> None:
    with running("dev", "--split", "--no-reload", "--port", "0", cwd=split_shop, FORCE_COLOR="1") as dev:
        port = port_of(dev.wait_for("Gateway").replace("\x1b[0m", ""))
        dev.wait_for("Ready in")
        assert answer(order(port, "A1")) == "1 x A1 [] False"
        assert dev.wait_for("placing A1").startswith("\x1b[33morders  |\x1b[0m ")
        dev.signal(signal.SIGINT)
        assert dev.wait_exit() == 0


def test_a_change_restarts_only_the_process_concerned(split_shop: Path) -> None:
    with running("dev", "--split", "--port", "0", cwd=split_shop) as dev:
        port = port_of(dev.wait_for("Gateway"))
        dev.wait_for("Ready in")
        pids = pids_of(dev)
        change(split_shop / SERVICE, "{command.quantity} x", "{command.quantity} times")
        assert "starting orders anew" in dev.wait_for(f"reload {SERVICE} changed")
        line = dev.wait_for("ready in")
        assert line.startswith("orders  | ")
        assert answer(order(port, "A1")) == "1 times A1 [] False"
        assert {name for name, pid in pids.items() if is_there(pid)} == {"gateway", "billing"}


def test_a_contract_that_changes_restarts_all_that_import_it(split_shop: Path) -> None:
    with running("dev", "--split", "--port", "0", cwd=split_shop) as dev:
        dev.wait_for("Ready in")
        change(split_shop / "modules/orders/contract.py", '"""Order something."""', '"""Order some things."""')
        assert "starting gateway, orders, billing anew" in dev.wait_for("contract.py changed")
        for _ in range(3):
            dev.wait_for("ready in")
        port = port_of(next(each for each in dev.lines if each.startswith("gateway") and "http://" in each))
        assert answer(order(port, "A1")) == "1 x A1 [] False"


def test_what_is_in_progress_is_answered_before_it_ends(split_shop: Path, tmp_path: Path) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"
    with running("dev", "--split", "--port", "0", cwd=split_shop) as dev:
        port = port_of(dev.wait_for("Gateway"))
        dev.wait_for("Ready in")
        connection = order(port, f"wait:{begun}:{done}")
        dev.wait_until(begun.exists)
        dev.signal(signal.SIGINT)
        dev.wait_for("draining")
        done.touch()
        assert answer(connection).startswith("1 x wait:")
        assert dev.wait_exit() == 0


def test_a_process_that_dies_is_started_again_and_the_reason_shown(split_shop: Path) -> None:
    with running("dev", "--split", "--port", "0", cwd=split_shop) as dev:
        port = port_of(dev.wait_for("Gateway"))
        dev.wait_for("Ready in")
        connection = order(port, "A1")
        assert answer(connection) == "1 x A1 [] False"
        os.kill(pids_of(dev)["orders"], signal.SIGKILL)
        dev.wait_for("error: orders has ended by the signal SIGKILL; it is started again in 0.2 s.")
        assert dev.wait_for("started again · ready in").startswith("orders  | ")
        assert answer(order(port, "A1")) == "1 x A1 [] False"


def test_a_fault_is_shown_once_and_the_next_save_recovers(split_shop: Path) -> None:
    with running("dev", "--split", "--port", "0", cwd=split_shop) as dev:
        dev.wait_for("Ready in")
        good = (split_shop / SERVICE).read_text()
        (split_shop / SERVICE).write_text(f"{good}\ndef (\n")
        assert SERVICE in dev.wait_for("error: orders: The application cannot start.")
        dev.wait_for("orders  | waiting for a change")
        (split_shop / SERVICE).write_text(good)
        assert dev.wait_for("ready in").startswith("orders  | ")


def test_a_module_that_moves_to_another_process_answers_from_there(split_shop: Path) -> None:
    with running("dev", "--split", "--port", "0", cwd=split_shop) as dev:
        dev.wait_for("Ready in")
        before = pids_of(dev)
        text = (split_shop / "pyproject.toml").read_text()
        moved = text.replace('orders = ["orders"]\n', 'core = ["orders", "billing"]\n').replace(
            'billing = ["billing"]\n', ""
        )
        (split_shop / "pyproject.toml").write_text(moved)
        assert "starting gateway, core anew" in dev.wait_for("reload pyproject.toml changed")
        dev.wait_for("ready in")
        dev.wait_for("ready in")
        port = port_of(next(each for each in dev.lines if "pyproject.toml changed" in each and "http://" in each))
        assert answer(order(port, "A1")) == "1 x A1 [] False"
        assert not [name for name, pid in before.items() if is_there(pid)]


def test_a_broker_that_ends_is_told_and_ends_all(split_shop: Path) -> None:
    before = broker_folders()
    with running("dev", "--split", "--port", "0", "--no-reload", cwd=split_shop) as dev:
        dev.wait_for("Ready in")
        (folder,) = broker_folders() - before
        (broker,) = [
            int(each.parent.name)
            for each in Path("/proc").glob("[0-9]*/cmdline")
            if each.read_bytes().split(b"\0")[1:4] == [b"start", b"--data-dir", str(folder / "data").encode()]
        ]
        os.kill(broker, signal.SIGKILL)
        dev.wait_for("error: The embedded broker has ended")
        assert dev.wait_exit() == 7


def test_a_second_ctrl_c_stops_at_once(split_shop: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with running("dev", "--split", "--port", "0", cwd=split_shop) as dev:
        port = port_of(dev.wait_for("Gateway"))
        dev.wait_for("Ready in")
        pids = pids_of(dev)
        connection = order(port, f"stubborn:{begun}")
        dev.wait_until(begun.exists)
        dev.signal(signal.SIGINT)
        dev.wait_for("draining")
        dev.signal(signal.SIGINT)
        assert dev.wait_exit() == 130
        assert not [name for name, pid in pids.items() if is_there(pid)]
        connection.close()


def test_a_supervisor_that_is_killed_leaves_neither_process_nor_broker_behind(split_shop: Path) -> None:
    before = broker_folders()
    with running("dev", "--split", "--port", "0", cwd=split_shop) as dev:
        dev.wait_for("Ready in")
        pids = pids_of(dev)
        broker = next(iter(broker_folders() - before))
        dev.signal(signal.SIGKILL)
        dev.process.wait()

        def is_all_gone() -> bool:
            return not broker.exists() and not any(is_there(pid) for pid in pids.values())

        end = monotonic() + PATIENCE_S
        while not is_all_gone() and monotonic() < end:
            Event().wait(0.02)
        assert is_all_gone()


def test_a_taken_port_ends_all_with_the_cure(split_shop: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = fissile("dev", "--split", "--port", str(taken.getsockname()[1]), cwd=split_shop)
    assert done.returncode == 7
    assert "choose a port: --port 9000" in done.stderr


def test_a_broker_that_does_not_answer_is_named_once(split_shop: Path) -> None:
    done = fissile("dev", "--split", cwd=split_shop, FISSILE_BUS="kafka://127.0.0.1:9")
    assert done.returncode == 7
    assert done.stderr.count("Kafka cannot be reached") == 1
    assert "FISSILE_BUS says where" in done.stderr


def test_that_a_bus_in_memory_is_replaced_by_a_broker_is_told_to_who_has_set_it(split_shop: Path) -> None:
    for told, settings in ((False, {}), (True, {"FISSILE_BUS": "memory://"})):
        with running("dev", "--split", "--no-reload", "--port", "0", cwd=split_shop, **settings) as dev:
            dev.wait_for("Ready in")
            assert ("memory:// (from environment) cannot be shared by processes" in dev.text) is told
            dev.signal(signal.SIGINT)
            assert dev.wait_exit() == 0


def test_without_the_extra_the_cure_is_named(split_shop: Path) -> None:
    (split_shop / "noida_db.py").touch()  # a package without a program, in place of the installed one
    done = fissile("dev", "--split", cwd=split_shop, PYTHONPATH=str(split_shop))
    assert done.returncode == 7
    assert "pip install 'fissile[broker]'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nowhere"], 2, "Write fissile dev --split nowhere."),
        (["--split", "nowhere"], 3, "There is no placement 'nowhere'."),
    ],
)
def test_a_wrong_placement_is_told(split_shop: Path, arguments: list[str], code: int, text: str) -> None:
    done = fissile("dev", *arguments, cwd=split_shop)
    assert done.returncode == code
    assert text in done.stderr


def test_without_a_placement_the_cure_is_named(shop: Path) -> None:
    done = fissile("dev", "--split", cwd=shop)
    assert done.returncode == 3
    assert "[tool.fissile.placements.split]" in done.stderr
