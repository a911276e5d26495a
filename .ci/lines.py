"""Run the tests of CI in three lines side by side, and look again, alone, at those that fail.

Three lines on two cores, since each of them waits often: for brokers, engines and processes. `.ci/run` calls this with the two interpreters.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

from attrs import frozen

ENGINES = "tests/deploy tests/modules tests/playground tests/crashes tests/sagas"
BROKERS = "tests/faults tests/placements tests/transports"
NEAR = (
    "tests/runtime tests/remote tests/effects tests/database tests/dead_letters tests/identity tests/gateway tests/cli"
)
PARTS = "kafka or embedded or split or broker or postgres or schemathesis or redis"

FEW = 5
"""More tests than these that fail, in all lines together, are wrong whatever they do when they are alone."""
TIMES = 3
"""How often a test that failed has to pass when it is alone."""


@frozen
class Run:
    """One call of `make test`.

    Args:
        name: What it is called in the output.
        arguments: What pytest is told.
        environment: What it finds there besides, by name: the interpreter for one.
    """

    name: str
    arguments: str
    environment: dict[str, str]


@frozen
class Ended:
    """What came of one run.

    Args:
        run: The run.
        code: Its exit code.
        failed: The tests that failed; empty where something else ended it.
    """

    run: Run
    code: int
    failed: tuple[str, ...]


def lines(oldest: str, newest: str | None) -> tuple[tuple[Run, ...], ...]:
    """Return which runs follow each other, side by side with which others.

    All event loops are tried where loops are near. Elsewhere a test runs on asyncio with the oldest Python and, unless it needs a part of the
    machine, on Trio with the newest; over Kafka on both. No test is left out because it knows one loop only (`tests/loops.py`).

    Args:
        oldest: The interpreter that all tests run on.
        newest: The one for what starts no brokers and engines; None where there is none besides.
    """
    first = {"PYTHON": oldest}
    far = "asyncio" if newest else "asyncio,trio"
    ignored = " ".join(f"--ignore={folder}" for folder in f"{ENGINES} {BROKERS}".split())
    everywhere = "--all-loops tests/runtime,tests/remote,tests/conformance"
    brokers = [Run("brokers", f"{BROKERS} --loop asyncio,trio", first)]
    if newest:
        last = {"PYTHON": newest, "VENV": ".venv-newest", "FISSILE_REQUIRE": ""}
        # Kafka's client is another wheel on each Python: what every transport has to do, on the broker that is quick to start.
        brokers.append(Run("newest-embedded", "tests/conformance --loop asyncio -k 'embedded and asyncio'", last))
        brokers.append(Run("newest", f"{NEAR} --loop trio -k 'not ({PARTS})'", last))
    return (
        (Run("main", f"{ignored} --loop {far} {everywhere}", first),),
        (Run("engines", f"{ENGINES} --loop {far}", first),),
        tuple(brokers),
    )


def run(run: Run, cache: Path, *more: str) -> Ended:
    """Run tests, and find out which of them fail.

    Args:
        run: What to run.
        cache: Where pytest keeps which tests have failed.
        more: What pytest is told besides.
    """
    words = " ".join([run.arguments, "-o", f"cache_dir={cache}", *more])
    began = monotonic()
    done = subprocess.run(
        ["make", "test", f"ARGS={words}"],
        env={**os.environ, "LC_MESSAGES": "C", **run.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    print(f"--- {run.name}, after {monotonic() - began:.0f} s:\n{done.stdout}", flush=True)
    # pytest's own code is in what make says last: 1 is that tests failed, and all others that it could not do its work.
    codes = re.findall(r"^make(?:\[\d+\])?: \*\*\* .*\bError (\d+)$", done.stdout, re.MULTILINE)
    known = cache / "v/cache/lastfailed"
    failed = tuple(json.loads(known.read_text())) if codes[-1:] == ["1"] and known.is_file() else ()
    return Ended(run, done.returncode, failed)


def passes_alone(ended: Ended, cache: Path) -> bool:
    """Tell whether the tests that failed pass several times now that nothing runs beside them."""
    for _ in range(TIMES):
        kept = cache / "v/cache/lastfailed"
        kept.write_text(json.dumps(dict.fromkeys(ended.failed, True)))
        if run(ended.run, cache, "--last-failed", "--last-failed-no-failures", "none").code:
            return False
    return True


def judge(ends: Sequence[Ended], caches: Path) -> list[str]:
    """Return what is wrong, in lines; empty if nothing is.

    A test that fails beside all others, on a machine that is too small for them, is looked at again. One that passes then has been late,
    which is told at the end of the output so that somebody asks why; one that fails again is wrong.
    """
    broken = [ended for ended in ends if ended.code]
    wrong = [f"{ended.run.name}: ended with code {ended.code}, not by tests" for ended in broken if not ended.failed]
    failed = [f"{ended.run.name}: {test}" for ended in broken for test in ended.failed]
    if wrong or len(failed) > FEW:
        return wrong + failed
    for ended in broken:
        if not passes_alone(ended, caches / ended.run.name):
            wrong += [f"{ended.run.name}: {test}" for test in ended.failed]
        else:
            for test in ended.failed:
                print(f"LATE, and passed {TIMES} times alone: {ended.run.name}: {test}", flush=True)
    return wrong


def main(oldest: str, newest: str | None) -> int:
    """Run `make lint` and all lines; return the exit code."""
    # Else, where this was begun with `&`, Ctrl-C is ignored in the tests of it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as threads:
        caches = Path(folder)

        def one_after_the_other(line: Sequence[Run]) -> list[Ended]:
            return [run(each, caches / each.name) for each in line]

        beside = [threads.submit(one_after_the_other, line) for line in lines(oldest, newest)]
        lint = subprocess.run(["make", "lint"], env={**os.environ, "PYTHON": oldest}, check=False).returncode
        wrong = judge([ended for line in beside for ended in line.result()], caches)
    if lint:
        wrong.append("make lint")
    for line in wrong:
        print(f"WRONG: {line}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
