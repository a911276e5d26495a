"""mypy and pyright infer the reply of every call, and refuse wrong uses in the very lines that say so."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def mypy(file: Path) -> dict[int, str]:
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", "--no-pretty", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    found: dict[int, str] = {}
    for line in done.stdout.splitlines():
        match = re.match(r".*?([^/]+\.py):(\d+): error: (.*)", line)
        if match is not None:
            assert match[1] == file.name, line
            found.setdefault(int(match[2]), match[3])
    return found


def pyright(file: Path) -> dict[int, str]:
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    found: dict[int, str] = {}
    for each in json.loads(done.stdout)["generalDiagnostics"]:
        if each["severity"] == "error":
            found.setdefault(each["range"]["start"]["line"] + 1, each["message"])
    return found


CHECKERS = [mypy, pyright]


@pytest.mark.parametrize("check", CHECKERS)
def test_replies_are_inferred(check: Callable[[Path], dict[int, str]]) -> None:
    assert check(HERE / "accepted.py") == {}


@pytest.mark.parametrize("check", CHECKERS)
def test_wrong_uses_are_refused_in_their_lines(check: Callable[[Path], dict[int, str]], tmp_path: Path) -> None:
    first, *rest = (HERE / "refused.py").read_text().splitlines()
    assert first.startswith("# mypy: ignore-errors")
    file = tmp_path / "refused.py"
    file.write_text("\n".join(["#", *rest, ""]))
    expected = {number: line for number, line in enumerate(file.read_text().splitlines(), 1) if "# E: " in line}
    found = check(file)
    assert {number: line for number, line in expected.items() if number not in found} == {}, "not refused"
    assert {number: text for number, text in found.items() if number not in expected} == {}, "refused without reason"
    assert len(expected) >= 18
