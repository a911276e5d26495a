"""The supervisor of `fissile run --workers N`: it starts workers anew when they end, replaces them one by one on SIGHUP, and drains them all on
SIGTERM.

As in `_supervise.py`, everything that happens comes through one queue and is answered in one place.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import anyio
import anyio.abc
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.memory import MemoryObjectSendStream
from attrs import define, field, frozen

from fissile._application import Application
from fissile._garbage import collect_less
from fissile._health import folder_of_sockets
from fissile._metrics import Metric, counter, gauge, labelled, merged
from fissile._metrics_local import ask_metrics
from fissile._process import Check
from fissile._settings import Settings, variable_name
from fissile.cli._child import Report
from fissile.cli._children import give_orders, how_it_ended
from fissile.cli._exit import Exit
from fissile.cli._signals import StopSignals
from fissile.cli._worker import Orders
from fissile.cli._workers import made

_logger = logging.getLogger("fissile.workers")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_STEADY_S = 60.0
"""A worker that ran so long is started again without a longer pause than the first, in seconds."""
_START_S = 60.0
"""How long a replacement may take to be ready, in seconds."""
_MARGIN_S = 5.0
_REPORT_BYTES = 1024 * 1024


@define(eq=False)
class Worker:
    """One worker.

    Attributes:
        number: Its place, from 0 on, which its replacement gets.
        process: Its process.
        link: The socket to it. It drains when this is closed.
        began: When it was started, on `monotonic`.
        ready: Set when it is ready, or has ended.
        is_ready: Whether it is ready.
        is_ending: Whether it was told to end.
        ended: Set when it has ended.
    """

    number: int
    process: anyio.abc.Process
    link: anyio.abc.SocketStream
    began: float = field(factory=monotonic)
    ready: anyio.Event = field(factory=anyio.Event)
    is_ready: bool = False
    is_ending: bool = False
    ended: anyio.Event = field(factory=anyio.Event)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def end(self, within_s: float) -> None:
        """Drain it, and kill it where it takes longer than so many seconds."""
        self.is_ending = True
        self.signal(signal.SIGTERM)
        with anyio.move_on_after(within_s):
            await self.ended.wait()
            return
        _logger.error("worker %d did not end within %g s and is killed", self.number, within_s)
        self.signal(signal.SIGKILL)
        await self.ended.wait()

    async def reports(self) -> AsyncIterator[Report]:
        """Yield what it tells, until it ends."""
        lines = BufferedByteReceiveStream(self.link)
        with suppress(anyio.IncompleteRead, anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream):
            while True:
                yield msgspec.json.decode(await lines.receive_until(b"\n", _REPORT_BYTES), type=Report)


@frozen
class Stop:
    """Somebody wants all to end."""


@frozen
class Replace:
    """Somebody wants all workers to be replaced (SIGHUP)."""


@frozen
class Again:
    """A worker that ended is to be started again."""

    number: int


@frozen
class Failed:
    """A worker has ended that was not told to.

    Attributes:
        worker: The worker.
        code: The exit code of its process.
        told: The exit code that it has told, if it could not start.
    """

    worker: Worker
    code: int
    told: int


Happening = Stop | Replace | Again | Failed


@define(eq=False)
class WorkersSupervisor:
    """Answers events until it is told to stop.

    Args:
        process: The process of the placement that each worker runs.
        settings: The runtime's settings.
        given: Settings from the command line; Any: of the setting's type.
        listeners: The sockets that workers accept from.
        signals: Tells when to stop.
        started: When the command began, on `perf_counter`.
        verbose: Whether details are wanted.
    """

    process: str
    settings: Settings
    given: Mapping[str, Any]
    listeners: list[socket.socket]
    signals: StopSignals
    started: float
    verbose: bool
    workers: dict[int, Worker] = field(factory=dict[int, Worker], init=False)
    """Those that serve, by their place."""
    _all: set[Worker] = field(factory=set[Worker], init=False)
    """All that have not ended, replacements on their way included."""
    _ends: dict[int, int] = field(factory=dict[int, int], init=False)
    _restarts: int = field(default=0, init=False)
    _was_ready: bool = field(default=False, init=False)
    _is_draining: bool = field(default=False, init=False)
    _verdict: Exit = field(default=Exit.OK, init=False)
    _folder: Path = field(factory=lambda: folder_of_sockets() / f"{os.getpid()}.workers", init=False)
    """Where workers ask each other for what only one of them knows; each has a socket there, named after its process."""
    _replacing: anyio.CancelScope | None = field(default=None, init=False)
    _tasks: anyio.abc.TaskGroup = field(init=False)
    _send: MemoryObjectSendStream[Happening] = field(init=False)

    async def run(self) -> Exit:
        """Run until it is told to stop, or the first start fails.

        Raises:
            StartupFailed: The port for metrics is taken.
        """
        self._send, receive = anyio.create_memory_object_stream[Happening](1000)
        async with AsyncExitStack() as stack:
            stack.enter_context(made(self._folder))
            await self._open_operations(stack)
            async with self._send, receive, anyio.create_task_group() as self._tasks:
                with self.signals.listening(self._on_signal):
                    self._tasks.start_soon(self._take_hangups)
                    try:
                        for number in range(self.settings.workers):
                            self.workers[number] = await self._start(number)
                        async for event in receive:
                            if isinstance(event, Stop):
                                break
                            await self._answer(event)
                        await self._drain()
                    finally:
                        self._kill_all()
                self._tasks.cancel_scope.cancel()
        return Exit.INTERRUPTED if self.signals.is_forced else self._verdict

    async def _answer(self, event: Happening) -> None:
        if isinstance(event, Failed):
            self._answer_failure(event)
        elif isinstance(event, Again):
            self.workers[event.number] = await self._start(event.number)
        elif isinstance(event, Replace):
            if self._replacing is None:
                self._tasks.start_soon(self._replace_all)
            else:
                _logger.warning("workers are being replaced already")

    def _answer_failure(self, event: Failed) -> None:
        worker, number = event.worker, event.worker.number
        if self.workers.get(number) is not worker:
            return  # a replacement: who started it has been told
        del self.workers[number]
        if event.told and not self._was_ready:
            # The first start has failed for a reason that the log tells, and that the next try would meet too.
            self._verdict = Exit(event.told)
            self._send.send_nowait(Stop())
            return
        self._ends[number] = 1 if monotonic() - worker.began > _STEADY_S else self._ends.get(number, 0) + 1
        pause_s = min(_FIRST_PAUSE_S * 2.0 ** (self._ends[number] - 1), _LONGEST_PAUSE_S)
        self._restarts += 1
        _logger.error(
            "worker %d has ended %s; it is started again in %.1f s",
            number,
            how_it_ended(event.code),
            pause_s,
            extra={"pid": worker.process.pid},
        )
        self._tasks.start_soon(self._later, pause_s, Again(number))

    async def _later(self, seconds: float, event: Happening) -> None:
        await anyio.sleep(seconds)
        await self._send.send(event)

    # --- one worker --------------------------------------------------------------------------------------------------

    async def _start(self, number: int) -> Worker:
        descriptors = [listener.fileno() for listener in self.listeners]
        ours, theirs = socket.socketpair()
        with theirs:
            settings = {
                **self.given,
                variable_name("workers"): 1,
                variable_name("metrics_port"): 0,  # the supervisor tells those of all
                variable_name("listen_fds"): ",".join(map(str, descriptors)),
                variable_name("workers_folder"): str(self._folder),
            }
            process = await anyio.open_process(
                [sys.executable, "-m", "fissile.cli._worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=None,
                stderr=None,
                pass_fds=[theirs.fileno(), *descriptors],
                start_new_session=True,  # Ctrl-C reaches it through the supervisor only, once and not twice
            )
        link = await anyio.abc.SocketStream.from_socket(ours)
        await give_orders(link, Orders(number, self.process, settings, self.verbose))
        worker = Worker(number, process, link)
        self._all.add(worker)
        self._tasks.start_soon(self._follow, worker)
        return worker

    async def _follow(self, worker: Worker) -> None:
        told = 0
        async with worker.link:
            async for report in worker.reports():
                if report.ready is not None:
                    worker.is_ready = True
                    worker.ready.set()
                    _logger.info("worker %d is ready", worker.number, extra={"pid": worker.process.pid})
                    self._became_ready(report.ready)
                told = report.code or told
            code = await worker.process.wait()
        with suppress(OSError):
            (self._folder / str(worker.process.pid)).unlink(missing_ok=True)  # it may have been killed
        worker.is_ready = False
        self._all.discard(worker)
        worker.ready.set()
        worker.ended.set()
        if not worker.is_ending:
            await self._send.send(Failed(worker, code, told))

    def _became_ready(self, ready: Mapping[str, Any]) -> None:  # Any: the fields of `Ready`
        if self._was_ready or not all(worker.is_ready for worker in self.workers.values()):
            return
        if len(self.workers) == self.settings.workers:
            self._was_ready = True
            told = {key: ready[key] for key in ("application", "backend", "bus", "modules")}
            extra = {
                **told,
                "fissile_process": self.process,
                "at": ready["announcements"],
                "workers": len(self.workers),
                "ready_s": round(perf_counter() - self.started, 3),
            }
            _logger.info("ready", extra=extra)

    # --- all of them -------------------------------------------------------------------------------------------------

    async def _take_hangups(self) -> None:
        with anyio.open_signal_receiver(signal.SIGHUP) as hangups:
            async for _ in hangups:
                await self._send.send(Replace())

    async def _replace_all(self) -> None:
        """Start a replacement of each worker, and end the worker when it is ready; the first that fails ends it all."""
        _logger.info("replacing %d workers, one by one", len(self.workers))
        with anyio.CancelScope() as self._replacing:
            for number, old in sorted(self.workers.items()):
                new = await self._start(number)
                with anyio.move_on_after(_START_S):
                    await new.ready.wait()
                if not new.is_ready:
                    new.is_ending = True
                    new.signal(signal.SIGKILL)
                    _logger.error(
                        "the replacement of worker %d is not ready; the workers that are left go on as they are", number
                    )
                    break
                self.workers[number] = new
                self._ends.pop(number, None)
                await old.end(self._drain_s())
            else:
                _logger.info("all workers have been replaced")
        self._replacing = None

    def _drain_s(self) -> float:
        return self.settings.drain_delay_s + self.settings.drain_s + _MARGIN_S

    async def _drain(self) -> None:
        self._is_draining = True
        if self._replacing is not None:
            self._replacing.cancel()
        # The workers have the sockets too, and accept until they stop doing so; what came after that would wait here for ever.
        for listener in self.listeners:
            listener.close()
        async with anyio.create_task_group() as tasks:
            for worker in tuple(self._all):
                tasks.start_soon(worker.end, self._drain_s())

    def _on_signal(self, count: int) -> None:
        if count > 1:
            self._kill_all()
            return
        _logger.info("draining, for %g s at most; a second signal stops at once", self._drain_s() - _MARGIN_S)
        self._send.send_nowait(Stop())

    def _kill_all(self) -> None:
        for worker in self._all:
            worker.is_ending = True
            worker.signal(signal.SIGKILL)

    # --- what is told of them ----------------------------------------------------------------------------------------

    async def _open_operations(self, stack: AsyncExitStack) -> None:
        if not self.settings.metrics_port:
            return
        from fissile._metrics_server import Operations, open_port, serving

        listener = await open_port(self.settings.metrics_host, self.settings.metrics_port)
        operations = Operations(self._collect, self._checks, has_registered=False)
        await stack.enter_async_context(serving(listener, operations))

    async def _collect(self) -> tuple[Metric, ...]:
        """Ask all workers for their metrics; each value gets the label of its worker."""
        found: dict[int, tuple[Metric, ...]] = {}

        async def ask(worker: Worker) -> None:
            found[worker.number] = labelled(await ask_metrics(worker.process.pid), {"worker": str(worker.number)})

        async with anyio.create_task_group() as tasks:
            for worker in self.workers.values():
                if worker.is_ready:
                    tasks.start_soon(ask, worker)
        ready = sum(worker.is_ready for worker in self.workers.values())
        own = (
            gauge("fissile_workers", "Workers that are to serve.", [({}, self.settings.workers)]),
            gauge("fissile_workers_ready", "Workers that are ready.", [({}, ready)]),
            counter("fissile_worker_restarts", "Workers started again because they had ended.", [({}, self._restarts)]),
        )
        return merged([own, *(found[number] for number in sorted(found))])

    def _checks(self) -> tuple[Check, ...]:
        if self._is_draining:
            return (Check("workers", "they are draining"),)
        is_any_ready = any(worker.is_ready for worker in self.workers.values())
        return (Check("workers", None if is_any_ready else "none is ready"),)


def supervise_workers(
    application: Application,
    process: str | None,
    given: Mapping[str, Any],
    signals: StopSignals,
    *,
    started: float,
    verbose: bool,
) -> Exit:
    """Run several workers of one process on one port, until told to stop.

    Args:
        application: The application.
        process: The process's name; may be left out where there is one.
        given: Settings from the command line, by the name of their environment variable; Any: of the setting's type.
        signals: Tells when to stop.
        started: When the command began, on `perf_counter`.
        verbose: Whether details are wanted.

    Raises:
        StartupFailed: The process may not have several workers, or a port is taken.
    """
    from fissile.cli._workers import address_of, listening

    address = address_of(application, process)
    passed = {name: value for name, value in given.items() if value is not None}
    with listening(address) as listeners:
        supervisor = WorkersSupervisor(
            address.process, application.settings, passed, listeners, signals, started, verbose
        )
        collect_less()
        return anyio.run(supervisor.run)
