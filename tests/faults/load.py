"""Commands and events, many at a time, each with its lines in the history."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Literal

import anyio

from fissile import CallError, DeclaredError
from fissile._errors import TransportClosed
from tests.faults.driver import SETTINGS, Site
from tests.faults.history import Op, OpType
from tests.faults.modules import SLOW_S, Note, Noted

CALLERS = 20
KEYS = 16
EXPOSED = 2 * CALLERS
"""How many commands may come again because of one process that is hit, however slow the machine is: of each caller one that the process has in
hand, and one that it has done and not committed. The offset of a command is committed when those before it in its partition are done
(`WORK_S`), the interval is over, and the broker has answered. In that time no caller gets more than one of its commands done: that takes
`WORK_S` too, its own pause, which is as long as the interval, and the round trips of a request and of a reply."""


def exposed(pause_s: float) -> int:
    """Return how many events may come again because of one fault or hand-over, where publishers pause so long between two, on average.

    Offsets are committed up to the lowest unfinished one. So behind one that takes `SLOW_S`, and behind one of the same key that has not begun
    because of it, all stays uncommitted that is done meanwhile, and until the next commit. Of each key those come one after the other.
    """
    return round(KEYS * (1 + (SLOW_S + SETTINGS.commit_interval_s) / pause_s))


async def commands(site: Site, total: int, *, pause_s: float = 0.0, prefix: str = "c") -> None:
    """Execute commands from several callers, each of which waits for its answer and then a bit, `pause_s` on average."""
    numbers = count()

    async def caller() -> None:
        while (number := next(numbers)) < total:
            await _tell(site, "command", f"{prefix}{number}", _command(site, f"{prefix}{number}", number))
            await anyio.sleep(site.random.uniform(0.0, 2 * pause_s))  # not all at the same time

    async with anyio.create_task_group() as tasks:
        for _ in range(min(CALLERS, total)):
            tasks.start_soon(caller)


def _command(site: Site, name: str, number: int) -> Callable[[], Awaitable[str]]:
    return lambda: site.bus.execute(Note(number), id=name)


async def events(site: Site, total: int, *, pause_s: float = 0.0, prefix: str = "k") -> None:
    """Publish events of several keys, those of one key one after the other and `pause_s` apart, on average."""

    async def publisher(key: str, numbers: range) -> None:
        for number in numbers:
            await _tell(site, "event", f"{key}/{number}", _event(site, key, number), key, number)
            await anyio.sleep(site.random.uniform(0.0, 2 * pause_s))  # not all at the same time

    keys = min(KEYS, total)
    async with anyio.create_task_group() as tasks:
        for key in range(keys):
            tasks.start_soon(publisher, f"{prefix}{key}", range((total - key + keys - 1) // keys))


def _event(site: Site, key: str, number: int) -> Callable[[], Awaitable[str]]:
    async def publish() -> str:
        await site.bus.publish(Noted(key, number))
        return "stored"

    return publish


STEADY_S = 0.1
"""How long the publishers of `steady` pause, on average."""


async def steady(site: Site, stop: anyio.Event) -> None:
    """Send commands and events, round after round of each, until told to stop."""

    async def rounds(send: Callable[[str], Awaitable[None]]) -> None:
        for number in count():
            if stop.is_set():
                return
            await send(str(number))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rounds, lambda number: commands(site, 40, pause_s=0.2, prefix=f"{number}c"))
        tasks.start_soon(rounds, lambda number: events(site, 80, pause_s=STEADY_S, prefix=f"{number}k"))


async def _tell(
    site: Site,
    kind: Literal["command", "event"],
    name: str,
    act: Callable[[], Awaitable[str]],
    key: str = "",
    number: int = 0,
) -> None:
    def write(outcome: OpType, value: str = "", happened: bool | None = None) -> None:
        site.history.write(Op(time.monotonic(), outcome, kind, name, key, number, value, happened))

    write("invoke")
    try:
        value = await act()
    except DeclaredError:
        write("ok", "declared")
    except CallError as error:
        text = f"{type(error).__name__}: {error}"
        write("info" if error.happened is None else "fail", text, error.happened)
    except TransportClosed as error:
        write("info", f"{type(error).__name__}: {error}")
    else:
        write("ok", value)
