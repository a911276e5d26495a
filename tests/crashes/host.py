"""The process that hosts the modules and dies: `python -m tests.crashes.host`.

What it is asked for are JSON lines. It has imported everything, and forks a child per request: a start costs what the application's start costs,
and not what Python's imports do. It writes JSON lines too: `started`, `ready` and `ended` of each child.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
from typing import Literal

import anyio
import msgspec

from fissile import App, Settings
from fissile.database import _lease
from tests.crashes.checkpoints import Plan, plant
from tests.crashes.modules import make_ledger, make_orders

LEASE_S, RENEW_S = 0.6, 0.1
"""The lease of a relay on PostgreSQL, instead of 5 s: so long the outbox rests after a kill, and a test has many of them."""

_PR_SET_PDEATHSIG = 1


class Task(msgspec.Struct):
    """What a child is to do."""

    settings: Settings
    checkpoint: str
    passage: int
    notes: str
    is_cured: bool


class Line(msgspec.Struct):
    """What is told of a child."""

    what: Literal["started", "ready", "ended"]
    pid: int
    status: int = 0


def tell(line: Line) -> None:
    """Write a line to stdout at once, in one piece."""
    os.write(1, msgspec.json.encode(line) + b"\n")


async def _run(task: Task) -> None:
    app = App([make_orders(), make_ledger(is_cured=task.is_cured)], settings=task.settings, process="host")
    stop = anyio.Event()
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                async for _ in signals:
                    stop.set()

            tasks.start_soon(watch)
            await app.run(on_ready=lambda _: tell(Line("ready", os.getpid())), stop=stop)
            tasks.cancel_scope.cancel()


def _live(task: Task) -> None:
    """Be the child."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    setattr(_lease, "LEASE_S", LEASE_S)  # noqa: B010 -- it is a constant to the type checker
    setattr(_lease, "_RENEW_S", RENEW_S)  # noqa: B010
    plant(Plan(task.checkpoint, task.passage, task.notes))
    anyio.run(_run, task, backend=task.settings.backend)


def main() -> None:
    """Fork a child per line of stdin, and wait until it has ended."""
    for name in ("aiokafka.admin", "psycopg", "fissile.transports.kafka", "fissile.transports.sqlite", "trio"):
        importlib.import_module(name)
    for text in sys.stdin.buffer:
        task = msgspec.json.decode(text, type=Task)
        pid = os.fork()
        if pid == 0:
            try:
                _live(task)
            except BaseException:  # noqa: BLE001 -- a child never gets back into the loop of its parent
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        tell(Line("started", pid))
        _, status = os.waitpid(pid, 0)
        tell(Line("ended", pid, os.waitstatus_to_exitcode(status)))


if __name__ == "__main__":
    main()
