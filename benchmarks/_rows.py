"""Rows: what was measured against which floor, in rounds by turns, and whether the bound was kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

from attrs import frozen

ROOT = Path(__file__).parent.parent

Verdict = Literal["kept", "missed", "for orientation", "not run"]


class CannotRun(Exception):
    """Raised when a row cannot be measured here; the text says why."""


@frozen
class Row:
    """One line of the table.

    Attributes:
        what: What was measured.
        floor: What it was measured against.
        unit: The unit of the two figures.
        value: The median of what was measured.
        floor_value: The median of the floor.
        ratio: The median of the ratios, round by round; what is claimed is about this.
        bound: What the ratio must be: at most this or, for a rate, at least.
        at_least: Whether more is better.
        why_not: Why there is no measurement, if there is none.
    """

    what: str
    floor: str
    unit: str
    value: float | None = None
    floor_value: float | None = None
    ratio: float | None = None
    bound: float | None = None
    at_least: bool = False
    why_not: str | None = None

    @property
    def verdict(self) -> Verdict:
        """Whether the bound was kept."""
        if self.ratio is None:
            return "not run"
        if self.bound is None:
            return "for orientation"
        is_kept = self.ratio >= self.bound if self.at_least else self.ratio <= self.bound
        return "kept" if is_kept else "missed"


@frozen
class Spec:
    """A row before it is measured."""

    what: str
    floor: str
    unit: str
    bound: float | None = None
    at_least: bool = False

    def row(self, pairs: Sequence[tuple[float, float]]) -> Row:
        """Make the row of what was measured, in each round the figure and that of the floor."""
        value, floor = median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)
        ratio = median(pair[0] / pair[1] for pair in pairs)
        return Row(self.what, self.floor, self.unit, value, floor, ratio, self.bound, self.at_least)

    def cannot(self, reason: str) -> Row:
        """Make the row of a measurement that cannot be made."""
        return Row(self.what, self.floor, self.unit, bound=self.bound, at_least=self.at_least, why_not=reason)


def by_turns(rounds: int, measure: Callable[[], float], floor: Callable[[], float]) -> list[tuple[float, float]]:
    """Measure in rounds, each of which takes both figures, so that a drift of the machine's speed meets both alike.

    Args:
        rounds: How many rounds are counted; one more comes before them.
        measure: Returns one figure of what is measured.
        floor: The same of the floor.
    """
    return [(measure(), floor()) for _ in range(rounds + 1)][1:]


def python(*arguments: str) -> list[str]:
    """Return the command line that runs this Python."""
    return [sys.executable, *arguments]


def environment(**values: str) -> dict[str, str]:
    """Return the environment of a measured process: what is set for fissile here must not reach it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FISSILE_")}
    return {**kept, "PYTHONPATH": str(ROOT), **values}


def run(arguments: Sequence[str]) -> str:
    """Run a measuring process and return what it printed.

    Raises:
        CannotRun: It failed; the text is the end of what it wrote.
    """
    done = subprocess.run(arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise CannotRun(lines[-1])
    return done.stdout
