"""One process of the placement, as `fissile dev --split` sees it: its child, its lines in the log, and the files it depends on."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter

import anyio
from attrs import define, field

from fissile._placement import GATEWAY
from fissile.cli._children import Child, Ended, Event
from fissile.cli._output import Output
from fissile.cli._serve import Ready
from fissile.cli._watch import CONFIGURATION

COLORS = ("cyan", "yellow", "green", "magenta", "blue")
_STEADY_S = 10.0
"""A process that has run for so long had a good start; its next end is a new trouble."""
_FIRST_S, _LONGEST_S = 0.2, 5.0
_LINE_BYTES = 64 * 1024
_DRAIN_MARGIN_S = 5.0
"""How much longer than its own bound a process may take to drain, before it is killed."""
_LAST_WORDS_S = 2.0
"""How long the ends of processes may take to be told, in seconds."""
_LAST_LINES_S = 0.5
"""How long the last lines of a process that has ended may take; what it has started may hold the pipe for ever."""


@define(eq=False)
class Unit:
    """One process of the placement.

    Attributes:
        name: Its name.
        color: The colour of its prefix.
        child: The child that runs it, if one does.
        ready: What it told when it was ready; None while it is not.
        ready_s: How long that took.
        ready_at: When that was, on `perf_counter`.
        files: The files that it has imported.
        folders: Where the files of its modules are.
        ends: How often it has ended by itself, one soon after the other.
        reason: Why it was started.
        metrics_port: The port where it tells its metrics; 0 for none.
    """

    name: str
    color: str
    child: Child | None = None
    ready: Ready | None = None
    ready_s: float = 0.0
    ready_at: float = 0.0
    files: frozenset[Path] = frozenset()
    folders: tuple[Path, ...] = ()
    ends: int = 0
    reason: str = ""
    metrics_port: int = 0
    announced: tuple[str, ...] = field(default=(), init=False)
    shown_metrics_port: int = field(default=0, init=False)

    def became_ready(self, ready: Ready, files: Iterable[str], root: Path) -> None:
        """Note what it has told.

        Args:
            ready: What it told.
            files: The files that it has imported.
            root: The folder of the application.
        """
        assert self.child is not None
        self.ready, self.ready_at = ready, perf_counter()
        self.ready_s = self.ready_at - self.child.began
        self.files = frozenset(Path(file) for file in files)
        own = (root / GATEWAY,) if GATEWAY in ready.modules else ()
        self.folders = (*(Path(folder) for folder in ready.folders), *own)

    def became_down(self) -> None:
        """Note that its child has ended by itself."""
        steady = self.ready is not None and perf_counter() - self.ready_at > _STEADY_S
        self.ends = 1 if steady else self.ends + 1
        self.child = self.ready = None

    @property
    def pause_s(self) -> float:
        """How long to wait before it is started again, in seconds."""
        return min(_LONGEST_S, _FIRST_S * 2.0 ** (self.ends - 1))

    def needs(self, path: Path) -> bool:
        """Tell whether it depends on a file: it has imported that, or one of its modules is in the same folder or above."""
        return path in self.files or any(folder in path.parents for folder in self.folders)


def units_to_restart(units: Sequence[Unit], paths: Iterable[Path]) -> list[Unit]:
    """Return the processes that have to be started anew because files have changed.

    Those that are not up are among them: the change may be the cure. So are all, where nobody is known to need a file: it may be read in
    other ways than by importing it.

    Args:
        units: All processes.
        paths: What has changed.
    """
    paths = tuple(paths)
    if any(path.name in CONFIGURATION for path in paths):
        return list(units)
    nobodys = [path for path in paths if not any(unit.needs(path) for unit in units)]
    return [unit for unit in units if unit.ready is None or nobodys or any(unit.needs(path) for path in paths)]


async def drain_in_order(units: Sequence[Unit], drain_s: float, output: Output) -> None:
    """Drain the gateway first, so that nothing new comes in, then the others; return when all ends were told.

    Args:
        units: All processes.
        drain_s: How long each of them may take by its own account, in seconds.
        output: Where one is told that does not end.
    """
    first = [unit for unit in units if unit.ready is not None and GATEWAY in unit.ready.modules]
    for together in (first, [unit for unit in units if unit not in first]):
        async with anyio.create_task_group() as tasks:
            for unit in together:
                if unit.child is not None:
                    tasks.start_soon(_drain, unit, unit.child, drain_s, output)
    with anyio.move_on_after(_LAST_WORDS_S):
        while any(unit.child is not None for unit in units):
            await anyio.sleep(0.01)  # their ends come after their last lines


async def _drain(unit: Unit, child: Child, drain_s: float, output: Output) -> None:
    child.signal(signal.SIGTERM)
    with anyio.move_on_after(drain_s + _DRAIN_MARGIN_S):
        await child.process.wait()
        return
    output.warn(f"{unit.name} does not end, and is killed.")
    child.signal(signal.SIGKILL)
    await child.process.wait()


class Lines:
    """Writes the lines of several processes as one stream, each behind the name of its process.

    Args:
        output: Writes.
        width: The length of the longest name.
    """

    def __init__(self, output: Output, width: int) -> None:
        self._output = output
        self._width = width

    def prefix(self, unit: Unit) -> str:
        """Return what the lines of a process begin with."""
        return self._output.style(f"{unit.name.ljust(self._width)} |", unit.color)

    async def follow(self, unit: Unit, child: Child, send: Callable[[Event], Awaitable[None]]) -> None:
        """Write what a child writes, and pass on what it tells; its end comes after its last line.

        Args:
            unit: Whose child it is.
            child: The child.
            send: Passes on an event.
        """
        async with child.link, anyio.create_task_group() as tasks:
            written = anyio.Event()
            tasks.start_soon(self._write, unit, child, written)
            async for event in child.events():
                if isinstance(event, Ended):
                    with anyio.move_on_after(_LAST_LINES_S):
                        await written.wait()
                    tasks.cancel_scope.cancel()
                    with anyio.CancelScope(shield=True):
                        await send(event)
                else:
                    await send(event)

    async def _write(self, unit: Unit, child: Child, written: anyio.Event) -> None:
        assert child.process.stdout is not None
        rest = b""
        async for chunk in child.process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._line(unit, line)
        if rest:
            self._line(unit, rest)
        written.set()

    def _line(self, unit: Unit, line: bytes) -> None:
        self._output.say(f"{self.prefix(unit)} {line.decode(errors='replace').rstrip()}")
