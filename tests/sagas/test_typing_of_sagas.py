"""mypy and pyright infer what the steps of a saga return, and refuse wrong uses in the very lines that say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.typing.test_typing import CHECKERS


@pytest.mark.parametrize("check", CHECKERS)
def test_sagas_are_typed(check: Callable[[Path], dict[int, str]], tmp_path: Path) -> None:
    first, *rest = (Path(__file__).parent / "typed.py").read_text().splitlines()
    assert first == "# mypy: ignore-errors"
    file = tmp_path / "typed.py"
    file.write_text("\n".join(["#", *rest, ""]))
    expected = {number for number, line in enumerate(file.read_text().splitlines(), 1) if "# E: " in line}
    assert set(check(file)) == expected
    assert len(expected) == 7
