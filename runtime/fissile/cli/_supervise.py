"""The supervisor of `fissile dev`: it owns a child that runs the application, and starts it anew when a file changes.

Everything that happens (a change, a report of the child, its end, a signal) comes through one queue and is answered in one place, so that
there is one order of events. The child has a session of its own: Ctrl-C reaches it through the supervisor only, once and not twice.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import anyio
import anyio.abc
import msgspec
from attrs import define, field

from fissile._application import Application
from fissile._errors import StartupFailed
from fissile._garbage import collect_less
from fissile.cli._banner import banner
from fissile.cli._children import Changed, Child, Ended, Event, Signalled, Told, how_it_ended
from fissile.cli._context import Context
from fissile.cli._exit import Exit
from fissile.cli._serve import Ready
from fissile.cli._signals import StopSignals
from fissile.cli._watch import CONFIGURATION, Watched, forget_compiled


@define(eq=False)
class Supervisor:
    """Answers events until the developer stops."""

    context: Context
    settings: Mapping[str, Any]  # Any: values of settings
    signals: StopSignals
    child: Child | None = field(default=None, init=False)
    watched: Watched = field(init=False)
    _watching: anyio.CancelScope | None = field(default=None, init=False)
    _was_ready: bool = field(default=False, init=False)
    _is_stopping: bool = field(default=False, init=False)
    _verdict: Exit | None = field(default=None, init=False)
    _announced: tuple[str, ...] = field(default=(), init=False)
    _reason: str = field(default="", init=False)

    async def run(self) -> Exit:
        """Run until the developer stops."""
        self.watched = self._find_watched()
        send, receive = anyio.create_memory_object_stream[Event](1000)

        def on_signal(count: int) -> None:
            if count > 1 and self.child is not None:
                self.child.signal(signal.SIGKILL)
            send.send_nowait(Signalled())

        async with anyio.create_task_group() as tasks, send, receive:
            with self.signals.listening(on_signal):
                tasks.start_soon(self._watch, send)
                await self._start(tasks, send, self.context.started)
                async for event in receive:
                    code = await self._answer(event, tasks, send)
                    if code is not None:
                        tasks.cancel_scope.cancel()
                        return code
        raise AssertionError("the queue of events does not end")

    async def _answer(self, event: Event, tasks: anyio.abc.TaskGroup, send: _Queue) -> Exit | None:
        """Answer one event; return the exit code where it was the last one."""
        if isinstance(event, Signalled):
            if self.child is None:
                return self._end_code()
            if not self._is_stopping:
                self._is_stopping = True
                self.context.output.say("draining; Ctrl-C again stops at once")
                self.child.signal(signal.SIGTERM)
        elif isinstance(event, Told):
            if event.child is self.child:
                self._tell(event)
        elif isinstance(event, Ended):
            return self._ended(event)
        elif not self.signals.count:
            await self._reload(event, tasks, send)
        return None

    def _tell(self, event: Told) -> None:
        output, report = self.context.output, event.report
        seconds = perf_counter() - event.child.began
        if report.ready is not None:
            ready = msgspec.convert(report.ready, Ready)
            if not self._was_ready:
                banner(output, ready, seconds, self.watched.names())
            else:
                parts = [f"{self._reason} changed", output.style(f"ready in {seconds:.2f} s", "green")]
                parts += ready.announcements if ready.announcements != self._announced else ()
                output.say(f"{output.style('reload', 'cyan')} {' · '.join(parts)}")
            self._was_ready, self._announced = True, ready.announcements
        elif report.error is not None:
            event.child.has_failed = True
            output.error(report.error, *report.details)
            if report.code == Exit.UNAVAILABLE and not self._was_ready:
                self._verdict = Exit.UNAVAILABLE  # a taken port is not cured by saving a file

    def _ended(self, event: Ended) -> Exit | None:
        if event.child is not self.child:
            return None
        self.child = None
        if self.signals.count:
            return self._end_code()
        if self._verdict is not None:
            return self._verdict
        if not event.child.has_failed:
            self.context.output.error(f"The application has ended {how_it_ended(event.code)}.")
        self.context.output.say(f"waiting for a change in {', '.join(self.watched.names())}")
        return None

    def _end_code(self) -> Exit:
        return Exit.INTERRUPTED if self.signals.is_forced else Exit.OK

    # --- starting and watching ---------------------------------------------------------------------------------------

    async def _start(self, tasks: anyio.abc.TaskGroup, send: _Queue, began: float) -> None:
        child = self.child = await Child.start(self.settings, self.context, began)

        async def pass_on() -> None:
            async with child.link:
                async for event in child.events():
                    await send.send(event)

        tasks.start_soon(pass_on)

    async def _reload(self, event: Changed, tasks: anyio.abc.TaskGroup, send: _Queue) -> None:
        began = perf_counter()
        self._reason = self.watched.shown(event.paths)
        output = self.context.output
        output.say(f"{output.style('reload', 'cyan')} {self._reason} changed · starting anew")
        if self.child is not None:
            child, self.child = self.child, None
            await child.stop()
            if self.signals.count:
                return
        forget_compiled(event.paths)
        if any(path.name in CONFIGURATION for path in event.paths):
            watched = self._find_watched()
            if watched != self.watched and self._watching is not None:
                self.watched = watched
                self._watching.cancel()
        await self._start(tasks, send, began)

    def _find_watched(self) -> Watched:
        try:
            application = Application.find(Path.cwd(), command_line=self.settings, is_dev=True)
        except StartupFailed:
            return self.watched if hasattr(self, "watched") else Watched.of(None, Path.cwd())
        return Watched.of(application, application.root)

    async def _watch(self, send: _Queue) -> None:
        while True:
            with anyio.CancelScope() as self._watching:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._pass_on, self.watched.configuration_changes(), send)
                    if self.watched.folders:
                        tasks.start_soon(self._pass_on, self.watched.folder_changes(), send)

    async def _pass_on(self, changes: AsyncIterator[set[Path]], send: _Queue) -> None:
        async for paths in changes:
            await send.send(Changed(paths))


_Queue = anyio.abc.ObjectSendStream[Event]


def supervise(context: Context, settings: Mapping[str, Any]) -> Exit:
    """Run the application in a child, started anew on change, until the developer stops.

    Args:
        context: What all commands are given.
        settings: Settings from the command line; Any: of the setting's type.

    Raises:
        StartupFailed: There is no application here.
    """
    if not any((folder / name).is_file() for folder in (Path.cwd(), *Path.cwd().parents) for name in CONFIGURATION[:2]):
        context.application()  # says that there is none
    collect_less()
    with StopSignals() as signals:
        return anyio.run(Supervisor(context, settings, signals).run)
