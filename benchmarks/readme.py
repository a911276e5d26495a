"""`python -m benchmarks.readme`: put the newest rows over Kafka, one column per broker, and those of delivery into README.md.

With --print they are printed only.

Only what has a bound is there. Everything is in `benchmarks/results/`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._report import TIMES
from benchmarks._rows import ROOT

README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"

Result = Mapping[str, Any]
"""A row as it stands in a file of results. Any: JSON."""


def newest(group: str) -> Path | None:
    """Return the newest file of results of a group, if there is one."""
    found = sorted(RESULTS.glob(f"*-{group}.json"))
    return found[-1] if found else None


def delivery_table(document: Mapping[str, Any]) -> str:
    """Return the rows of delivery as Markdown."""
    lines = [
        f"Measured on {document['date']}, {document['cores']} cores, {document['python']}.",
        "",
        _line(["what", "against", "bound", "ratio"]),
        _line(["---"] * 4),
        *(
            _line([row["what"], row["floor"], _bound(row), _cell(row)])
            for row in document["rows"]
            if row["bound"] is not None
        ),
    ]
    return "\n".join(lines) + "\n"


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
        lines.append(_line([what, first["floor"], _bound(first), *(_cell(found.get(broker)) for broker in brokers)]))
    return "\n".join(lines) + "\n"


TABLES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {"kafka": kafka_table, "delivery": delivery_table}


def _bound(row: Result) -> str:
    return f"{'≥' if row['at_least'] else '≤'} {row['bound']:g}{TIMES}"


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
    found = {group: path for group in TABLES if (path := newest(group)) is not None}
    if not found:
        raise SystemExit("There are no results: run `make bench-kafka` or `python -m benchmarks delivery` first.")
    text = README.read_text()
    for group, path in found.items():
        table = TABLES[group](json.loads(path.read_text()))
        if "--print" in sys.argv:
            sys.stdout.write(f"{table}\n")
            continue
        begin, end = f"<!-- bench-{group}:begin -->\n", f"<!-- bench-{group}:end -->"
        before, _, rest = text.partition(begin)
        _, there, after = rest.partition(end)
        if not there:
            raise SystemExit(f"README.md has no {begin.strip()} … {end}.")
        text = before + begin + table + end + after
    if "--print" not in sys.argv:
        README.write_text(text)


if __name__ == "__main__":
    main()
