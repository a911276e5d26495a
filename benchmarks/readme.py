"""`python -m benchmarks.readme`: put the newest rows over Kafka into README.md, one column per broker; with --print, print them only.

Only what has a bound is there. Everything is in `benchmarks/results/`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._report import TIMES
from benchmarks._rows import ROOT

README = ROOT / "README.md"
BEGIN, END = "<!-- bench-kafka:begin -->\n", "<!-- bench-kafka:end -->"
RESULTS = ROOT / "benchmarks" / "results"

Result = Mapping[str, Any]
"""A row as it stands in a file of results. Any: JSON."""


def newest() -> Path:
    """Return the newest file of results over Kafka.

    Raises:
        SystemExit: There is none.
    """
    found = sorted(RESULTS.glob("*-kafka.json"))
    if not found:
        raise SystemExit("There are no results over Kafka: run `make bench-kafka` first.")
    return found[-1]


def kafka_table(document: Mapping[str, Any]) -> str:
    """Return the rows that have a bound as Markdown."""
    by_what: dict[str, dict[str, Result]] = {}
    for row in document["rows"]:
        what, _, broker = row["what"].rpartition("; ")
        if row["bound"] is not None:
            by_what.setdefault(what, {})[broker] = row
    brokers = sorted({broker for found in by_what.values() for broker in found}, reverse=True)
    lines = [
        f"Measured on {document['date']}, {document['cores']} cores, {document['python']}.",
        "",
        _line(["what", "against", "bound", *brokers]),
        _line(["---"] * (3 + len(brokers))),
    ]
    for what, found in by_what.items():
        first = next(iter(found.values()))
        bound = f"{'≥' if first['at_least'] else '≤'} {first['bound']:g}{TIMES}"
        lines.append(_line([what, first["floor"], bound, *(_cell(found.get(broker)) for broker in brokers)]))
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(row: Result | None) -> str:
    if row is None or row["ratio"] is None:
        return "not run"
    value = f"{row['value']:,.0f}" if row["value"] >= 100 else f"{row['value']:.3g}"
    missed = " **missed**" if row["verdict"] == "missed" else ""
    return f"{row['ratio']:.2f}{TIMES}{missed} ({value} {row['unit']})"


def main() -> None:
    """Run the command."""
    table = kafka_table(json.loads(newest().read_text()))
    if "--print" in sys.argv:
        sys.stdout.write(table)
        return
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"README.md has no {BEGIN.strip()} … {END}.")
    README.write_text(before + BEGIN + table + END + after)


if __name__ == "__main__":
    main()
