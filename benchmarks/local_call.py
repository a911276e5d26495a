"""The rows of the local call. As a program, `python -m benchmarks.local_call LOOP ROUNDS`, it measures on one event loop."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import anyio
import anyio.lowlevel
from attrs import frozen

from benchmarks._rows import CannotRun, Row, Spec, python, run
from benchmarks.executor import service
from benchmarks.executor.contract import ExplainCode, RunAndTell, RunCode
from benchmarks.floors import local_call as floor
from fissile import App, Bus, Command, Contract, Handling, Module

Pairs = dict[str, list[tuple[float, float]]]
"""By the name of what was measured, the µs that a call took in each round, and those of the floor in that round."""

LOOPS = ("asyncio", "uvloop", "trio")
CALLS = 200
"""In one round: short, so that the floor and what is measured against it meet the same machine."""
WARM_UP = 3
"""Rounds that are not counted."""
BOUND = 2.0
FLOOR = "await handler(message), with encode and decode of message and reply"

FLOORED = {
    "execute": ("bus.execute", BOUND),
    "ask": ("bus.ask", BOUND),
    "root": ("bus.execute, from outside of all modules (opens a scope)", None),
    "publish": ("bus.execute, the handler publishes an event", None),
    "middleware": ("bus.execute, with one middleware", None),
}


def rows(rounds: int) -> list[Row]:
    """Measure the local call on each event loop, in a process of its own."""
    found: list[Row] = []
    for loop in LOOPS:
        specs = {name: Spec(f"{what}, {loop}", FLOOR, "µs", bound) for name, (what, bound) in FLOORED.items()}
        try:
            taken: Pairs = json.loads(run(python("-m", "benchmarks.local_call", loop, str(rounds))))
        except CannotRun as error:
            found += [spec.cannot(str(error)) for spec in specs.values()]
            continue
        found += [spec.row(taken[name]) for name, spec in specs.items()]
    return found


# --- the measuring process -------------------------------------------------------------------------------------------


@frozen
class Measure(Command[None]):
    """Have calls made by a handler, as modules make them."""

    names: tuple[str, ...]


async def pass_through(_handling: Handling, call_next: Callable[[], Awaitable[Any]]) -> Any:
    """Do nothing around a message."""
    return await call_next()


async def measure(bus: Bus, rounds: int, *names: str) -> Pairs:
    """Make the calls of each name, and those of the floor, by turns; note the µs that one takes."""
    message, query = RunCode("python", "print(6*7)"), ExplainCode("python", "print(6*7)")
    telling = RunAndTell("python", "print(6*7)")

    async def call_floor() -> None:
        await floor.call_many(message, CALLS)

    async def execute() -> None:
        for _ in range(CALLS):
            await bus.execute(message)

    async def ask() -> None:
        for _ in range(CALLS):
            await bus.ask(query)

    async def publish() -> None:
        for _ in range(CALLS):
            await bus.execute(telling)

    async def time_of(calls: Callable[[], Awaitable[None]]) -> float:
        began = perf_counter()
        await calls()
        return (perf_counter() - began) / CALLS * 1e6

    ways = {"ask": ask, "publish": publish}
    taken: Pairs = {name: [] for name in names}
    for number in range(rounds + WARM_UP):
        for name in names:
            pair = (await time_of(ways.get(name, execute)), await time_of(call_floor))
            if number >= WARM_UP:
                taken[name].append(pair)
        await anyio.lowlevel.checkpoint()
    return taken


async def main(rounds: int) -> Pairs:
    """Measure everything on the running event loop."""
    taken: Pairs = {}
    caller = Module(Contract("caller", messages=[Measure]))

    @caller.command(Measure, idempotent=True)
    async def measure_here(command: Measure, bus: Bus) -> None:
        taken.update(await measure(bus, rounds, *command.names))

    async with App([service.module, caller]) as app:
        with anyio.fail_after(600):
            await app.bus.execute(Measure(("execute", "ask")))
            await app.bus.execute(Measure(("publish",)))
        taken.update(await measure(app.bus, rounds, "root"))
    async with App([service.module, caller], middleware=[pass_through]) as app:
        with anyio.fail_after(600):
            await app.bus.execute(Measure(("middleware",)))
    return taken


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    loop_name, round_count = sys.argv[1], int(sys.argv[2])
    options = {"use_uvloop": loop_name == "uvloop"} if loop_name != "trio" else {}
    backend = "trio" if loop_name == "trio" else "asyncio"
    result = anyio.run(main, round_count, backend=backend, backend_options=options)
    sys.stdout.write(json.dumps(result))
