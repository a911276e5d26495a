"""One process of the placement `split` of a test: hosts one module, says `ready`, and drains on SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import Any

import anyio
import msgspec

from fissile._app import App
from fissile._module import Module
from fissile._settings import Settings


class _Task(msgspec.Struct):
    host: str
    others: tuple[str, ...]
    settings: Settings
    path: tuple[str, ...]
    overrides: str | None = None


def _import(path: str) -> Any:  # Any: whatever bears that name
    name, _, attribute = path.partition(":")
    return getattr(import_module(name), attribute)


def _find(path: str) -> Module:
    found: Module = _import(path)
    return found


async def _run(task: _Task, ready: int) -> None:
    app = App(
        [_find(task.host)],
        contracts=[_find(path).contract for path in task.others],
        settings=task.settings,
        process=task.host,
        is_dev=True,  # so that databases get their tables
        overrides=None if task.overrides is None else _import(task.overrides)(),
    )
    stop = anyio.Event()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                async for _ in signals:
                    stop.set()

            tasks.start_soon(watch)
            await app.run(on_ready=lambda _: _say_ready(ready), stop=stop)
            tasks.cancel_scope.cancel()


def _say_ready(ready: int) -> None:
    os.write(ready, b"ready\n")
    os.close(ready)


def main() -> None:
    """Run the process that the standard input describes."""
    # Nobody reads the standard output once the process is ready. What modules print goes where the log goes, or it would fill the pipe.
    ready = os.dup(1)
    os.dup2(2, 1)
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=_Task)
    sys.path[:] = list(task.path)
    anyio.run(_run, task, ready, backend=task.settings.backend)


if __name__ == "__main__":
    main()
