"""`python -m benchmarks`: measure, print a table, write it to `benchmarks/results/`; exit code 1 if a bound is missed.
A group that is measured alone has a file of its own.

`python -m benchmarks kafka` measures the rows over Kafka, which need brokers and minutes; `executor` programs in each sandbox, which needs a
Docker engine, or root to start one; `sse` ten thousand open event streams; and `flood` what is left of the gateway under a flood. The rest is
measured unless told.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from benchmarks import delivery, flood, gateway, local_call, sse, startup
from benchmarks._report import table, write
from benchmarks._rows import ROOT, Row

GROUPS = {
    "local-call": (local_call.rows, 300),
    "gateway": (gateway.rows, 15),
    "startup": (startup.rows, 15),
    "delivery": (delivery.rows, 9),
}
"""By name: what measures the rows, and in how many rounds."""
SSE = "sse"
FLOOD = "flood"
EXECUTOR = "executor"
KAFKA = "kafka"
KAFKA_ROUNDS = 9
EXECUTOR_ROUNDS = 30


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = (*GROUPS, SSE, FLOOD, EXECUTOR, KAFKA)
    parser.add_argument(
        "groups",
        nargs="*",
        help=f"which to measure, of {', '.join(names)}; all but sse, flood, executor and kafka unless told",
    )
    parser.add_argument("--quick", action="store_true", help="a fifth of the rounds, and nothing is written")
    parser.add_argument("--broker", action="append", help="of kafka: on which broker; on all unless told")
    parser.add_argument("--part", action="append", help="of kafka: which rows; all unless told")
    arguments = parser.parse_args()
    if unknown := set(arguments.groups) - set(names):
        parser.error(f"there is no group {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    for name in arguments.groups or GROUPS:
        measure, rounds = _group(parser, arguments, name)
        sys.stderr.write(f"measuring {name} …\n")
        rows += measure(max(3, rounds // 5) if arguments.quick else rounds)
    sys.stdout.write(table(rows) + "\n")
    is_whole = len(arguments.groups) <= 1 and not arguments.broker and not arguments.part
    if is_whole and not arguments.quick:
        path = write(rows, ROOT / "benchmarks" / "results", "".join(f"-{group}" for group in arguments.groups))
        sys.stderr.write(f"written to {path.relative_to(ROOT)}\n")
    missed = [row.what for row in rows if row.verdict == "missed"]
    if missed:
        sys.stderr.write(f"{len(missed)} bounds were missed: {'; '.join(missed)}\n")
    return 1 if missed else 0


def _group(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, name: str
) -> tuple[Callable[[int], list[Row]], int]:
    if name == KAFKA:
        return _kafka(parser, arguments)
    if name == EXECUTOR:
        from benchmarks import sandboxes  # needs the client of Docker and the engine of the tests

        return sandboxes.rows, EXECUTOR_ROUNDS
    return (GROUPS | {SSE: (sse.rows, 1), FLOOD: (flood.rows, 5)})[name]


def _kafka(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> tuple[Callable[[int], list[Row]], int]:
    from benchmarks import kafka  # needs aiokafka and the brokers of the tests
    from benchmarks._brokers import BROKERS

    brokers, parts = arguments.broker or list(BROKERS), arguments.part or list(kafka.PARTS)
    if unknown := set(brokers) - set(BROKERS):
        parser.error(f"there is no broker {', '.join(sorted(unknown))}; use {' or '.join(BROKERS)}")
    if unknown := set(parts) - set(kafka.PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; use {', '.join(kafka.PARTS)}")
    return lambda rounds: kafka.rows(rounds, brokers, parts), KAFKA_ROUNDS


if __name__ == "__main__":
    sys.exit(main())
