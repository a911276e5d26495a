"""What all commands share: options, exit codes, where output goes."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from fissile import DeadlineExceeded, HandlerFailed, StartupFailed, Unavailable
from fissile.cli._errors import describe, did_you_mean, exit_code
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._output import without_password
from tests.cli.example import PATIENCE_S, environment, fissile


def test_version_is_data(tmp_path: Path) -> None:
    done = fissile("version", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("fissile ")
    assert json.loads(fissile("--json", "version", cwd=tmp_path).stdout)["anyio"]
    assert fissile("--version", cwd=tmp_path).stdout == done.stdout


def test_the_script_is_the_same_as_the_module(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("fissile")
    done = subprocess.run(
        [script, "version"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout == fissile("version", cwd=tmp_path).stdout


def test_help_names_all_commands(tmp_path: Path) -> None:
    done = fissile("--help", cwd=tmp_path)
    assert done.returncode == 0
    for name in ("dev", "run", "check", "config", "graph", "ls", "call", "version"):
        assert f" {name} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chekc"], "Did you mean check?"),
        (["check", "--bogus"], "Unknown option: --bogus"),
        (["run", "--port", "many"], "--port"),
        (["call"], "Which message?"),
        (["-C", "nowhere", "check"], "-C nowhere: No such file or directory."),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_what_is_wrong(shop: Path, arguments: list[str], said: str) -> None:
    done = fissile(*arguments, cwd=shop)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_where_there_is_no_application_it_says_so_and_exits_with_3(tmp_path: Path) -> None:
    for command in ("check", "run", "dev", "config", "graph", "ls"):
        done = fissile(command, cwd=tmp_path)
        assert done.returncode == 3
        assert "There is no application here" in done.stderr


@pytest.mark.parametrize("arguments", [["-C", "shop", "check"], ["check", "-C", "shop"]])
def test_c_works_as_if_started_there(shop: Path, arguments: list[str]) -> None:
    assert fissile(*arguments, cwd=shop.parent).stdout == "shop: 2 modules, no faults\n"


def test_a_folder_inside_the_application_will_do(shop: Path) -> None:
    assert fissile("check", cwd=shop / "modules/orders").returncode == 0


def on_a_terminal(*arguments: str, cwd: Path, **more: str) -> str:
    """What a command writes where stdout and stderr are a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "fissile", *arguments]
    variables = {
        name: value for name, value in environment(TERM="xterm", COLUMNS="200", **more).items() if name != "CI"
    }
    with subprocess.Popen(command, cwd=cwd, env=variables, stdout=theirs, stderr=theirs, stdin=theirs) as process:
        os.close(theirs)
        text = b""
        try:
            while chunk := os.read(ours, 65536):
                text += chunk
        except OSError:  # how Linux says that the other side is closed
            pass
        process.wait(PATIENCE_S)
    os.close(ours)
    return text.decode()


def test_colours_are_for_terminals_and_can_be_refused(shop: Path) -> None:
    (shop / "modules/orders/service.py").write_text("def (\n")
    assert "\x1b[" in on_a_terminal("check", cwd=shop)
    assert "\x1b[" not in on_a_terminal("check", "--no-color", cwd=shop)
    assert "\x1b[" not in on_a_terminal("check", cwd=shop, NO_COLOR="1")
    assert "\x1b[" not in fissile("check", cwd=shop).stderr


def test_a_person_gets_drawn_tables_and_indented_json(shop: Path) -> None:
    assert "─" in on_a_terminal("ls", cwd=shop)
    assert '{\r\n  "sku": "A1",' in on_a_terminal("call", "orders.get-order", "--order-id", "1", cwd=shop)


def test_a_reader_who_has_had_enough_is_no_error(shop: Path) -> None:
    command = f"{sys.executable} -m fissile ls settings | head -n 1"
    done = subprocess.run(
        command, shell=True, cwd=shop, env=environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stderr == ""


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StartupFailed(()), Exit.INVALID),
        (DeadlineExceeded("late"), Exit.TIMEOUT),
        (Unavailable("away"), Exit.UNAVAILABLE),
        (OSError(98, "Address already in use"), Exit.UNAVAILABLE),
        (HandlerFailed("a.b", "1", "ValueError", "x"), Exit.FAILED),
        (CommandFailed("no", code=Exit.USAGE), Exit.USAGE),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
        (RuntimeError("?"), Exit.FAILED),
    ],
)
def test_an_error_has_the_same_exit_code_in_a_group(error: BaseException, code: Exit) -> None:
    assert exit_code(error) is code
    assert exit_code(BaseExceptionGroup("tasks", [BaseExceptionGroup("more", [error])])) is code


def test_of_several_errors_the_one_that_says_what_to_do_comes_first() -> None:
    both = ExceptionGroup(
        "tasks", [RuntimeError("a consequence"), CommandFailed("the cause", "the cure", code=Exit.USAGE)]
    )
    assert describe(both) == ("the cause", ("the cure",))


def test_a_name_that_resembles_nothing_gets_no_suggestion() -> None:
    assert did_you_mean("quux", ["orders", "billing"]) == ()
    assert did_you_mean("order", ["orders", "billing"]) == ("Did you mean orders?",)


def test_the_password_of_an_address_is_masked() -> None:
    assert without_password("kafka://me:swordfish@host:9092") == "kafka://me:********@host:9092"
    assert without_password("sqlite:///data/app.db") == "sqlite:///data/app.db"
