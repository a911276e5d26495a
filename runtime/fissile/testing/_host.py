"""One process of the placement `split` of a test: hosts one module, says `ready`, and drains on SIGTERM."""

from __future__ import annotations

import signal
import sys
from importlib import import_module

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


def _find(path: str) -> Module:
    name, _, attribute = path.partition(":")
    found: Module = getattr(import_module(name), attribute)
    return found


async def _run(task: _Task) -> None:
    app = App(
        [_find(task.host)],
        contracts=[_find(path).contract for path in task.others],
        settings=task.settings,
        process=task.host,
        is_dev=True,  # so that databases get their tables
    )
    stop = anyio.Event()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as tasks:

            async def watch() -> None:
                async for _ in signals:
                    stop.set()

            tasks.start_soon(watch)
            await app.run(on_ready=lambda _: print("ready", flush=True), stop=stop)
            tasks.cancel_scope.cancel()


def main() -> None:
    """Run the process that the standard input describes."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=_Task)
    sys.path[:] = list(task.path)
    anyio.run(_run, task, backend=task.settings.backend)


if __name__ == "__main__":
    main()
