"""`python -m benchmarks`: measure, print a table, write it to `benchmarks/results/`; exit code 1 if a bound is missed."""

from __future__ import annotations

import argparse
import sys

from benchmarks import gateway, local_call, startup
from benchmarks._report import table, write
from benchmarks._rows import ROOT, Row

GROUPS = {
    "local-call": (local_call.rows, 300),
    "gateway": (gateway.rows, 15),
    "startup": (startup.rows, 15),
}
"""By name: what measures the rows, and in how many rounds."""


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("groups", nargs="*", help=f"which to measure, of {', '.join(GROUPS)}; all unless told")
    parser.add_argument("--quick", action="store_true", help="a fifth of the rounds, and nothing is written")
    arguments = parser.parse_args()
    if unknown := set(arguments.groups) - set(GROUPS):
        parser.error(f"there is no group {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    for name in arguments.groups or GROUPS:
        measure, rounds = GROUPS[name]
        sys.stderr.write(f"measuring {name} …\n")
        rows += measure(max(3, rounds // 5) if arguments.quick else rounds)
    sys.stdout.write(table(rows) + "\n")
    if not arguments.quick and not arguments.groups:
        sys.stderr.write(f"written to {write(rows, ROOT / 'benchmarks' / 'results').relative_to(ROOT)}\n")
    missed = [row.what for row in rows if row.verdict == "missed"]
    if missed:
        sys.stderr.write(f"{len(missed)} bounds were missed: {'; '.join(missed)}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
