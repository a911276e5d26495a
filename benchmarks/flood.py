"""`python -m benchmarks flood`: five times as many requests as the server can answer, and what is left of what it can.

The server has one core, the generator another. In each round the capacity is measured first, with patient clients; then requests come at five
times that rate, over connections that stay open. Goodput is what is answered 200, as a share of the capacity; everything else has to be
refused, and soon.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from statistics import median

from benchmarks._flood_load import Load, Outcome
from benchmarks._process import serving
from benchmarks._rows import ROOT, CannotRun, Row, Spec, python
from benchmarks.startup import READY

GOODPUT = 0.8
REFUSAL_P99_S = 0.050
FACTOR = 5.0
CONNECTIONS = 400
PATIENT = 16
CAPACITY_S, FLOOD_S = 2.0, 4.0
COMMANDS = {"compute": "handler takes 2 ms of the processor", "fetch": "handler waits 10 ms, 8 at a time"}


def rows(rounds: int) -> list[Row]:
    """Measure goodput and the time of refusals, for each kind of handler."""
    found: list[Row] = []
    for command, text in COMMANDS.items():
        goodput = Spec(
            f"goodput at {FACTOR:g}x capacity, {text}", "capacity of the same run", "requests/s", GOODPUT, at_least=True
        )
        refusal = Spec(f"p99 of refusals, {text}", "50 ms", "ms", 1.0)
        try:
            measured = [_round(command) for _ in range(rounds)]
        except (CannotRun, OSError) as error:
            found += [goodput.cannot(str(error)), refusal.cannot(str(error))]
            continue
        found.append(goodput.row([(flood.good_per_s, capacity.good_per_s) for capacity, flood in measured]))
        found.append(refusal.row([(_p99(flood) * 1e3, REFUSAL_P99_S * 1e3) for _, flood in measured]))
        _tell(command, measured)
    return found


def _round(command: str) -> tuple[Outcome, Outcome]:
    ours, others = _cores()
    arguments = python("-m", "fissile", "run")
    with serving(arguments, ROOT / "benchmarks" / "flood_application", READY, FISSILE_PORT="0") as server:
        for task in Path(f"/proc/{server.pid}/task").iterdir():  # affinity is each thread's own
            os.sched_setaffinity(int(task.name), others)
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, ours)
        host, _, port = server.host.rpartition(":")
        body = b'{"number": 7}'
        head = (
            f"POST /api/flooded/{command} HTTP/1.1\r\nhost: {server.host}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        load = Load((host, int(port)), head.encode() + body, CONNECTIONS)
        try:
            load.open()
            load.patient(0.5, PATIENT)  # the first calls of a process are slower
            capacity = load.patient(CAPACITY_S, PATIENT if command == "compute" else 8)
            return capacity, load.flood(FLOOD_S, FACTOR * capacity.good_per_s)
        finally:
            load.close()
            os.sched_setaffinity(0, before)


def _cores() -> tuple[set[int], set[int]]:
    if not hasattr(os, "sched_setaffinity"):
        raise CannotRun("processes cannot be pinned to cores here")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise CannotRun("it needs a core for the server and another for the generator")
    return {cores[0]}, {cores[1]}


def _p99(outcome: Outcome) -> float:
    times = outcome.refusal_times_s
    return times[len(times) * 99 // 100] if times else 0.0


def _tell(command: str, measured: list[tuple[Outcome, Outcome]]) -> None:
    capacity = median(one.good_per_s for one, _ in measured)
    _, flood = measured[len(measured) // 2]
    total = flood.good + flood.refused + flood.other
    good = flood.good_times_s
    sys.stderr.write(
        f"  {command}: capacity {capacity:.0f}/s; of {total} requests in {flood.seconds:.1f} s {flood.good} good "
        f"(p50 {good[len(good) // 2] * 1e3:.0f} ms, p99 {good[len(good) * 99 // 100] * 1e3:.0f} ms), {flood.refused} refused "
        f"(p50 {flood.refusal_times_s[len(flood.refusal_times_s) // 2] * 1e3 if flood.refused else 0:.1f} ms, "
        f"p99 {_p99(flood) * 1e3:.1f} ms), {flood.other} other, {flood.reconnects} reconnects\n"
    )
