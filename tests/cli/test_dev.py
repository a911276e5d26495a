"""`fissile dev`: it starts anew on change, and survives what a developer does to it."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.cli.example import PATIENCE_S, answer, fissile, order, port_of, running

SERVICE = "modules/orders/service.py"


def change(file: Path, before: str, after: str) -> None:
    """Save a file with something replaced."""
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_change_is_named_and_the_new_code_answers(shop: Path, backend: str) -> None:
    with running("dev", "--port", "0", "--backend", backend, cwd=shop) as dev:
        port = port_of(dev.wait_for("Gateway"))
        dev.wait_for("Ready in")
        assert "watching modules/, pyproject.toml" in dev.text
        assert answer(order(port, "A1")) == "1 x A1 [] False"
        change(shop / SERVICE, "{command.quantity} x", "{command.quantity} times")
        dev.wait_for(f"reload {SERVICE} changed")
        port = port_of(dev.wait_for("ready in"))
        assert answer(order(port, "A1")) == "1 times A1 [] False"
        dev.signal(signal.SIGINT)
        assert dev.wait_exit() == 0


def test_a_save_that_python_would_not_notice_is_run_nevertheless(shop: Path) -> None:
    """Python takes a compiled file for current if size and second of change are those of the source."""
    with running("dev", "--port", "0", cwd=shop) as dev:
        dev.wait_for("Ready in")
        file, saved = shop / SERVICE, shop / "saved"
        saved.write_text(file.read_text().replace("{command.quantity} x", "{command.quantity} y"))
        os.utime(saved, (file.stat().st_atime, file.stat().st_mtime))
        assert saved.stat().st_size == file.stat().st_size
        saved.replace(file)
        port = port_of(dev.wait_for("ready in"))
        assert answer(order(port, "A1")) == "1 y A1 [] False"


def test_the_banner_says_what_runs_and_where(shop: Path) -> None:
    with running("dev", "--port", "0", "--backend", "trio", cwd=shop) as dev:
        dev.wait_for("Ready in")
        assert "· shop · python 3." in dev.text
        assert "· trio · bus: memory · 2 modules in 1 process" in dev.text


def test_a_syntax_error_is_shown_and_the_next_save_recovers(shop: Path) -> None:
    with running("dev", "--port", "0", cwd=shop) as dev:
        dev.wait_for("Ready in")
        good = (shop / SERVICE).read_text()
        (shop / SERVICE).write_text(f"{good}\ndef (\n")
        told = dev.wait_for("error: The application cannot start.")
        assert f"{SERVICE}:{good.count(chr(10)) + 2}" in told
        assert "SyntaxError" in told
        dev.wait_for("waiting for a change")
        assert "Traceback" not in dev.text
        (shop / SERVICE).write_text(good)
        port = port_of(dev.wait_for("ready in"))
        assert answer(order(port, "A1")) == "1 x A1 [] False"


def test_a_fault_at_the_first_start_recovers_too(shop: Path) -> None:
    good = (shop / SERVICE).read_text()
    (shop / SERVICE).write_text(good.replace("@module.query(GetOrder)", ""))
    with running("dev", "--port", "0", cwd=shop) as dev:
        dev.wait_for("The query GetOrder has no handler.")
        dev.wait_for("waiting for a change")
        (shop / SERVICE).write_text(good)
        dev.wait_for("Ready in")


def test_a_broken_configuration_recovers_too(shop: Path) -> None:
    good = (shop / "pyproject.toml").read_text()
    with running("dev", "--port", "0", cwd=shop) as dev:
        dev.wait_for("Ready in")
        (shop / "pyproject.toml").write_text("[tool.fissile\n")
        dev.wait_for("reload pyproject.toml changed")
        dev.wait_for("It is not valid TOML")
        dev.wait_for("waiting for a change")
        (shop / "pyproject.toml").write_text(good)
        dev.wait_for("ready in")


def test_settings_are_read_anew(shop: Path) -> None:
    with running("dev", "--port", "0", cwd=shop) as dev:
        dev.wait_for("Ready in")
        (shop / ".env").write_text("FISSILE_ORDERS_LIMIT=many\n")
        dev.wait_for("reload .env changed")
        dev.wait_for("FISSILE_ORDERS_LIMIT='many' cannot be used")
        dev.wait_for("waiting for a change")
        (shop / ".env").write_text("FISSILE_ORDERS_LIMIT=5\n")
        dev.wait_for("ready in")


def test_an_application_that_dies_is_told_and_the_next_save_starts_it(shop: Path) -> None:
    with running("dev", "--port", "0", cwd=shop) as dev:
        port = port_of(dev.wait_for("Gateway"))
        dev.wait_for("Ready in")
        assert answer(order(port, "exit")) == ""
        dev.wait_for("error: The application has ended with exit code 9.")
        (shop / SERVICE).touch()
        dev.wait_for("ready in")


def test_a_second_ctrl_c_stops_at_once(shop: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    with running("dev", "--port", "0", cwd=shop) as dev:
        port = port_of(dev.wait_for("Gateway"))
        dev.wait_for("Ready in")
        connection = order(port, f"stubborn:{begun}")
        dev.wait_until(begun.exists)
        dev.signal(signal.SIGINT)
        dev.wait_for("draining")
        dev.signal(signal.SIGINT)
        assert dev.wait_exit() == 130
        connection.close()


def test_a_supervisor_that_is_killed_leaves_no_child_behind(shop: Path) -> None:
    with running("dev", "--port", "0", cwd=shop) as dev:
        port = port_of(dev.wait_for("Gateway"))
        dev.wait_for("Ready in")
        idle = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        dev.signal(signal.SIGKILL)
        dev.wait_exit()
        with idle:
            assert idle.recv(1) == b"", "the connection ends with the child"


def test_without_reload_it_is_one_process(shop: Path) -> None:
    with running("dev", "--no-reload", "--port", "0", cwd=shop) as dev:
        dev.wait_for("no reload")
        dev.signal(signal.SIGINT)
        assert dev.wait_exit() == 0


@pytest.mark.parametrize("reload", ["--reload", "--no-reload"])
def test_a_taken_port_ends_it_with_the_cure(shop: Path, reload: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = fissile("dev", reload, "--port", str(taken.getsockname()[1]), cwd=shop)
    assert done.returncode == 7
    assert "choose a port: --port 9000" in done.stderr


def test_logs_are_lines_for_people(shop: Path) -> None:
    with running("dev", "--port", "0", cwd=shop) as dev:
        port = port_of(dev.wait_for("Gateway"))
        dev.wait_for("Ready in")
        assert answer(order(port, "broken")) == ""
        line = dev.wait_for("placing broken")
        assert "[warning" in line
        assert "module=orders message=orders.place-order" in line
        dev.wait_for('raise RuntimeError("the shelf fell over")')
