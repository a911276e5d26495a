"""What the measured programs and their floors do alike: make calls with so many in flight, count what was handled, obey the driver.

The driver writes one JSON object a line to a program's stdin and reads one a line from its stdout; the end of stdin ends the program.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic, perf_counter
from typing import Any

import anyio
import anyio.to_thread

from fissile._garbage import collect_less

Order = Callable[..., Awaitable[Mapping[str, Any]]]
"""What a program does when it is told to. Any: what it is told, and what it tells, as JSON has it."""


async def load(call: Callable[[], Awaitable[object]], in_flight: int, count: int) -> Mapping[str, float]:
    """Make calls, so many at a time.

    Args:
        call: Makes one.
        in_flight: How many callers there are; each makes its next call when the last was answered.
        count: How many calls they make together.

    Returns:
        Calls per second, and of their times the median and the 99th percentile in milliseconds.
    """
    times: list[float] = []
    left = count

    async def make_calls() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began = perf_counter()
            await call()
            times.append(perf_counter() - began)

    began = perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(in_flight):
            tasks.start_soon(make_calls)
    took_s = perf_counter() - began
    times.sort()
    return {
        "rate": count / took_s,
        "p50_ms": times[len(times) // 2] * 1e3,
        "p99_ms": times[len(times) * 99 // 100] * 1e3,
    }


class Tally:
    """Counts what was handled and tells when it was enough."""

    def __init__(self) -> None:
        self._left = 0
        self._reached: anyio.Event | None = None
        self._at = 0.0

    def add(self) -> None:
        """Count one."""
        self._left -= 1
        if self._left == 0 and self._reached is not None:
            self._at = monotonic()
            self._reached.set()

    def expect(self, count: int) -> None:
        """Begin to count."""
        self._left, self._reached = count, anyio.Event()

    async def at(self) -> float:
        """Wait until so many were counted; return when that was, on the clock that all processes of a machine share, in seconds."""
        assert self._reached is not None
        await self._reached.wait()
        return self._at


async def obey(orders: Mapping[str, Order]) -> None:
    """Say that the program is ready, then do what the driver says until it has nothing more to say.

    Args:
        orders: What can be done, by name.
    """
    collect_less()  # as in production; the floors likewise
    tell({"ready": True})
    while line := await anyio.to_thread.run_sync(sys.stdin.readline):
        said: dict[str, Any] = json.loads(line)
        tell(await orders[said.pop("do")](**said))


def tell(what: Mapping[str, Any]) -> None:
    """Tell the driver."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()
