"""`python -m benchmarks.readme`: put the newest rows into README.md, those of `make bench` per Python, and those over Kafka per broker.

With --print they are printed only.

Only what has a bound is there. Everything is in `benchmarks/results/`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks._report import TIMES
from benchmarks._rows import ROOT

README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"

Result = Mapping[str, Any]
"""A row as it stands in a file of results. Any: JSON."""


def results(ending: str) -> list[Mapping[str, Any]]:
    """Return the files of results whose names end so, the newest last."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"*{ending}.json"))]


def whole_table(documents: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of `make bench` that have a bound as Markdown, from its newest run on each Python."""
    by_python = {document["python"]: document for document in documents}
    of_day = [document for document in by_python.values() if document["date"] == documents[-1]["date"]]
    lines = [
        f"Measured on {of_day[-1]['date']}, {of_day[-1]['cores']} cores. "
        "Ratios are medians of rounds that measure both in turn; times are for orientation.",
        "",
        _line(["what", "against", "bound", *(document["python"] for document in of_day)]),
        _line(["---"] * (3 + len(of_day))),
    ]
    rows = [{row["what"]: row for row in document["rows"]} for document in of_day]
    lines += [
        _line([row["what"], row["floor"], _bound(row), *(_cell(found.get(row["what"])) for found in rows)])
        for row in of_day[0]["rows"]
        if row["bound"] is not None
    ]
    return "\n".join(lines) + "\n"


def kafka_table(documents: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows of the newest run over Kafka that have a bound as Markdown."""
    document = documents[-1]
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


TABLES: Mapping[str, tuple[str, Callable[[Sequence[Mapping[str, Any]]], str]]] = {
    "bench": ("-cores", whole_table),
    "bench-kafka": ("-kafka", kafka_table),
}
"""By its mark in README.md: how the names of its files end, and what makes the table."""


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
    text = README.read_text()
    for mark, (ending, make) in TABLES.items():
        documents = results(ending)
        if not documents:
            continue
        table = make(documents)
        if "--print" in sys.argv:
            sys.stdout.write(f"{table}\n")
            continue
        begin, end = f"<!-- {mark}:begin -->\n", f"<!-- {mark}:end -->"
        before, _, rest = text.partition(begin)
        _, there, after = rest.partition(end)
        if not there:
            raise SystemExit(f"README.md has no {begin.strip()} … {end}.")
        text = before + begin + table + end + after
    if "--print" not in sys.argv:
        README.write_text(text)


if __name__ == "__main__":
    main()
