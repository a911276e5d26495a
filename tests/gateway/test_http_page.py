"""The page docs/http.md does what it says: its module is run, and its curl commands answer what stands below them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.example import PATIENCE_S, port_of, running

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
FILES = re.findall(r"```python\n# (modules/\S+)\n(.*?)```", PAGE, re.DOTALL)
SESSIONS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
STEPS = [step for session in SESSIONS for step in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)]
PROJECT = '[tool.fissile]\nname = "reading-room"\nmodules = ["modules.library"]\n'

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """The port of the page's module."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    for name, text in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with running("run", "--port", "0", cwd=tmp_path, FISSILE_BUS="memory://") as process:
        yield port_of(process.wait_for("ready"))


def run(command: str, port: int) -> str:
    """Run a command of the page; return what it writes."""
    command = command.replace("localhost:8000", f"127.0.0.1:{port}")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return "\n".join(line.strip() for line in done.stdout.replace("\r", "").splitlines()).strip()


def fits(wanted: str, written: str) -> bool:
    """Tell whether a text is what the page says, where `…` stands for anything in a line."""
    pattern = re.escape(wanted.strip()).replace("…", r"\S+")
    return re.fullmatch(pattern, written) is not None


def test_the_commands_of_the_page_answer_what_it_says(port: int) -> None:
    assert len(FILES) == 2
    assert len(STEPS) >= 10
    for command, wanted in STEPS:
        written = run(command, port)
        assert fits(wanted, written), f"$ {command}\n{written}\n--- the page says:\n{wanted}"
