"""Figures that tests come to, such as how long a recovery took: printed where they arise, and together at the end of a run."""

from __future__ import annotations

COLLECTED: list[str] = []


def figure(text: str) -> None:
    """Note a figure, in one line or several."""
    print(f"\n{text}")
    COLLECTED.append(text)
