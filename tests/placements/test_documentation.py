"""The examples of docs/testing.md, as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "testing.md"
CONFIGURATION = "[pytest]\naddopts = -p anyio\nanyio_mode = auto\npythonpath = .\nfilterwarnings = error\n"
PATIENCE_S = 240.0
"""How long they may take, in seconds: they start processes, which is some 17 s of a processor that others may share."""


@pytest.mark.timeout(PATIENCE_S + 30.0)
def test_the_examples_of_the_page_on_testing_pass(embedded_kafka: str, tmp_path: Path) -> None:
    files = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for name, text in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text(CONFIGURATION)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FISSILE_", "PYTEST_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--disable-plugin-autoload", "tests"],
        cwd=tmp_path,
        env={**environment, "BROKER": f"kafka://{embedded_kafka}"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert len([name for name, _ in files if "/test_" in name]) == 3
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout
