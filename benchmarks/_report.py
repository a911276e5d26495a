"""What people and files get of the rows."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from attrs import asdict

from benchmarks._rows import Row

HEAD = ("what", "measured", "floor", "ratio", "bound", "verdict", "against")

TIMES = "\u00d7"


def circumstances() -> dict[str, Any]:
    """Return where and when it was measured, as far as it says something about the figures."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cores": usable,
    }


def cells(row: Row) -> tuple[str, ...]:
    """Return a row as text, one per column."""
    if row.ratio is None or row.value is None or row.floor_value is None:
        return row.what, "", "", "", _bound(row), row.verdict, f"{row.floor}; {row.why_not}"
    return (
        row.what,
        f"{_figure(row.value)} {row.unit}",
        f"{_figure(row.floor_value)} {row.unit}",
        f"{row.ratio:.2f}{TIMES}",
        _bound(row),
        row.verdict,
        row.floor,
    )


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _bound(row: Row) -> str:
    if row.bound is None:
        return ""
    return f"{'≥' if row.at_least else '≤'} {row.bound:g}{TIMES}"


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table for a terminal."""
    lines = [HEAD, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]) for line in lines
    )


def markdown(rows: Sequence[Row], where: dict[str, Any]) -> str:
    """Return the rows as a Markdown file."""
    told = f"{where['date']}, {where['python']}, {where['system']}, {where['cores']} cores"
    lines = ["| " + " | ".join(line) + " |" for line in (HEAD, ("---",) * len(HEAD), *(cells(row) for row in rows))]
    text = (
        "Ratios are medians over rounds in which each was measured next to its floor; they are the claim. "
        "Absolute figures are for orientation."
    )
    return f"# {told}\n\n{text}\n\n" + "\n".join(lines) + "\n"


def write(rows: Sequence[Row], folder: Path, of: str = "") -> Path:
    """Write the rows as JSON and as Markdown; return the path of the latter.

    Args:
        rows: The rows.
        folder: Where.
        of: What the names of the files end with.
    """
    where = circumstances()
    folder.mkdir(parents=True, exist_ok=True)
    python = ".".join(platform.python_version_tuple()[:2])
    name = f"{where['date']}-python{python}-{where['cores']}-cores{of}"
    document = {**where, "rows": [{**asdict(row), "verdict": row.verdict} for row in rows]}
    (folder / f"{name}.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    path = folder / f"{name}.md"
    path.write_text(markdown(rows, where))
    return path
