"""What CI makes of tests that fail (`.ci/lines.py`): with a project of its own, whose tests fail when they are told to."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
from pathlib import Path

import pytest

@pytest.mark.parametrize("number", range(8))
def test_it(number):
    told = Path("told", str(number))
    left = int(told.read_text()) if told.exists() else 0
    told.write_text(str(left - 1))
    assert left <= 0
"""


@pytest.fixture(scope="module")
def ci() -> Any:
    spec = importlib.util.spec_from_file_location("ci_lines", ROOT / ".ci" / "lines.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["ci_lines"] = found
    spec.loader.exec_module(found)
    return found


@pytest.fixture
def wrong_of(ci: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    (tmp_path / "told").mkdir()
    (tmp_path / "test_them.py").write_text(TESTS)
    (tmp_path / "Makefile").write_text(f"test:\n\t@{sys.executable} -m pytest $(ARGS)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)

    def judged(failures: dict[int, int], arguments: str = "test_them.py") -> list[str]:
        for number, times in failures.items():
            (tmp_path / "told" / str(number)).write_text(str(times))
        run = ci.Run("main", arguments, {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})
        found: list[str] = ci.judge([ci.run(run, tmp_path / "caches" / "main")], tmp_path / "caches")
        return found

    return judged


def test_nothing_is_wrong_where_all_tests_pass(wrong_of: Callable[..., list[str]]) -> None:
    assert wrong_of({}) == []


def test_a_test_that_fails_once_and_passes_alone_is_named_as_late(
    wrong_of: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert wrong_of({3: 1}) == []
    printed = capsys.readouterr().out
    assert "LATE, and passed 3 times alone: main: test_them.py::test_it[3]" in printed
    assert printed.count("1 passed") == 3  # and no other test was run again


@pytest.mark.parametrize("times", [2, 3, 4])
def test_a_test_that_fails_again_is_wrong(wrong_of: Callable[..., list[str]], times: int) -> None:
    assert wrong_of({3: times, 4: 1}) == ["main: test_them.py::test_it[3]", "main: test_them.py::test_it[4]"]


def test_a_test_that_fails_only_when_it_is_alone_is_wrong(wrong_of: Callable[..., list[str]], tmp_path: Path) -> None:
    """It fails, passes, and fails again."""
    (tmp_path / "test_them.py").write_text(TESTS.replace("assert left <= 0", "assert left not in (3, 1)"))
    assert wrong_of({3: 3}) == ["main: test_them.py::test_it[3]"]


def test_many_that_fail_are_wrong_and_not_looked_at_again(
    wrong_of: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(wrong_of(dict.fromkeys(range(6), 1))) == 6
    assert capsys.readouterr().out.count(" in ") == 1  # one summary


@pytest.mark.parametrize(
    "text",
    ["def test_it(: pass", "import os\ndef test_a():\n    assert 0\ndef test_it():\n    os._exit(1)", "", None],
    ids=["cannot be read", "ends the process", "has no tests", "is not there"],
)
def test_what_ends_the_tests_otherwise_is_wrong(
    wrong_of: Callable[..., list[str]], tmp_path: Path, text: str | None
) -> None:
    (tmp_path / "test_them.py").unlink()
    if text is not None:
        (tmp_path / "test_them.py").write_text(text)
    assert wrong_of({})


def test_the_lines_of_ci_name_folders_that_there_are_and_each_folder_once(ci: Any) -> None:
    runs = [run for line in ci.lines("3.11", None) for run in line]
    named = [word for run in runs for word in run.arguments.split() if word.startswith("tests/") and "," not in word]
    assert sorted(named) == sorted(set(named))
    assert all((ROOT / folder).is_dir() for folder in [*named, *ci.NEAR.split()])
    main = next(run for run in runs if run.name == "main")
    assert all(f"--ignore={folder}" in main.arguments for folder in named)
