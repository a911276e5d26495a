"""One run in a container from order to end: the counterpart of `_supervise`, blocking code for a worker thread.

All goes over one connection, the container's three streams multiplexed: the order, what was compiled before and the
program's input one way, its output and the launcher's reports the other. The launcher marks the end of both outputs, so
that nobody has to wait until the engine has noticed that the container has ended, which takes as long as all the rest.
"""

import os
import secrets
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec
from attrs import define, field

from ._container import GONE_WITHIN_S, START_WITHIN_S, Container
from ._jail import order
from ._model import JailGoneError, Outcome, SandboxError, Stream, Work
from ._output import Capture
from ._reports import Reports
from ._supervise import Ending, captures, parts

SOON_S = 2.0
"""A launcher that waits for its order has said its first word by then, or somebody should look what is wrong."""


@define(eq=False)
class ContainerRun:
    """Carries one order out in one container.

    Attributes:
        container: Started, unused. It is not removed here.
        content: The order, without what is added here.
        work: What it is about.
        poke: A descriptor that becomes readable when the run must end.
        emit: Called with each new piece of the program's output.
    """

    container: Container
    content: dict[str, Any]
    work: Work
    poke: int
    emit: Callable[[Stream, str], object] | None
    _reports: dict[Stream, Reports] = field(init=False)
    _captures: dict[Stream, Capture] = field(init=False)
    _pending: Iterator[bytes] = field(init=False)
    _incoming: bytearray = field(factory=bytearray)
    _outgoing: memoryview = memoryview(b"")
    _stop: Outcome | None = None
    _poked: bool = False
    _ended: bool = False
    _over: set[Stream] = field(factory=set[Stream])
    _status: int | None = None
    _cpu_s: float | None = None
    _started_s: float = 0.0
    _ended_s: float = 0.0
    _deadline_s: float = 0.0
    _given_up_s: float = 0.0
    _failure: str = ""
    _refused: str = ""
    _input_open: bool = True

    def run(self) -> Ending:
        """Carry the order out.

        Raises:
            SandboxError: The launcher could not do what it was told, or the engine is gone.
        """
        mark = secrets.token_hex(16).encode()
        self._reports = {"stdout": Reports(mark), "stderr": Reports(mark)}
        self._captures = captures(self.work)
        self._pending = self._all_input(mark)
        self._given_up_s = time.monotonic() + START_WITHIN_S
        self._deadline_s = time.monotonic() + SOON_S
        self._loop()
        ending = Ending(
            outcome=None,
            status=self._status,
            stdout=self._captures["stdout"],
            stderr=self._captures["stderr"],
            duration_s=(self._ended_s or time.monotonic()) - self._started_s if self._started_s else 0.0,
            refused=self._refused,
            cpu_s=self._cpu_s,
        )
        if self._poked:
            return ending
        if self._stop is None and self._failure:
            raise SandboxError(f"The container could not run the program: {self._failure}.")
        if self._stop is None and not self._started_s:
            self.container.check_engine()
            text = ending.stderr.text().strip()[-300:] or "it ended without a word"
            raise JailGoneError(f"The container's launcher did not start: {text}.")
        return self._with_verdict(ending)

    def _all_input(self, mark: bytes) -> Iterator[bytes]:
        limits = self.work.limits
        yield order({**self.content, "mark": mark, "cpu_s": limits.cpu_s, "wall_s": limits.wall_s})
        yield from parts(self.work.built)
        yield self.work.stdin.encode("utf-8", "surrogatepass")

    def _loop(self) -> None:
        connection = self.container.connection
        connection.settimeout(0)
        with selectors.DefaultSelector() as selector:
            selector.register(self.poke, selectors.EVENT_READ)
            selector.register(connection, selectors.EVENT_READ)
            self._feed(connection)
            while not self._ended and self._stop is None and not self._poked:
                left_s = self._deadline_s - time.monotonic()
                if left_s <= 0:
                    self.container.check_engine()  # what it does not pass on is not the program's silence
                    if self._started_s or time.monotonic() >= self._given_up_s:
                        self._stop = Outcome.TIMEOUT if self._status is None and self._started_s else None
                        return
                    self._deadline_s = self._given_up_s
                    continue
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._input_open else 0)
                selector.modify(connection, wanted)
                for key, events in selector.select(left_s):
                    if key.fd == self.poke:
                        self._poked = True
                    elif events & selectors.EVENT_READ:
                        self._receive(connection)
                    else:
                        self._feed(connection)

    def _receive(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            for name, reports in self._reports.items():
                self._add(name, reports.rest())
            self._ended = True
            return
        # The engine's framing: one byte that names the stream, three empty ones, four of length, the content.
        self._incoming += data
        while len(self._incoming) >= 8:
            size = int.from_bytes(self._incoming[4:8], "big")
            if len(self._incoming) < 8 + size:
                return
            stream: Stream = "stdout" if self._incoming[0] == 1 else "stderr"
            content = bytes(self._incoming[8 : 8 + size])
            del self._incoming[: 8 + size]
            for own, report in self._reports[stream].split(content):
                self._add(stream, own)
                if report == "over":
                    self._over.add(stream)
                else:
                    self._note(report)
        self._ended = self._ended or len(self._over) == len(self._captures)

    def _add(self, stream: Stream, data: bytes) -> None:
        if not data or stream in self._over:
            return
        capture = self._captures[stream]
        text = capture.add(data)
        if text and self.emit and not self._poked:
            self.emit(stream, text)
        if capture.overflowed and self._stop is None:
            self._stop = Outcome.OUTPUT_LIMIT

    def _note(self, report: str) -> None:
        kind, _, rest = report.partition(" ")
        now = time.monotonic()
        if kind == "start":
            self._started_s = now
            self._deadline_s = now + self.work.limits.wall_s
        elif kind == "end":
            status, _, cpu_s = rest.partition(" ")
            self._status, self._cpu_s, self._ended_s = int(status), float(cpu_s), now
            self._deadline_s = now + GONE_WITHIN_S
        elif kind == "artifact":
            size, _, reason = rest.partition(" ")
            self._refused = reason if int(size) < 0 else ""
        elif kind == "failed":
            self._failure = rest
        elif kind in ("memory", "cpu") and self._stop is None:
            self._stop = Outcome.MEMORY_LIMIT if kind == "memory" else Outcome.CPU_LIMIT

    def _feed(self, connection: socket.socket) -> None:
        while self._input_open:
            if not self._outgoing:
                part = next(self._pending, None)
                if part is None:
                    self._input_open = False
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_WR)
                    return
                self._outgoing = memoryview(part)
            try:
                sent = connection.send(self._outgoing[: 1 << 16])
            except BlockingIOError:
                return
            except OSError:
                sent = len(self._outgoing)
            self._outgoing = self._outgoing[sent:]

    def _with_verdict(self, ending: Ending) -> Ending:
        outcome, status = self._stop, self._status
        if outcome is None and status is None:
            code, out_of_memory = self.container.how_it_ended()
            outcome = Outcome.MEMORY_LIMIT if out_of_memory else Outcome.KILLED
            status = code - 128 if code is not None and 128 < code < 160 else None
        elif outcome is None and status is not None and os.WIFSIGNALED(status):
            outcome = Outcome.CPU_LIMIT if os.WTERMSIG(status) == 24 else Outcome.KILLED
        return msgspec.structs.replace(ending, outcome=outcome or Outcome.FINISHED, status=status)
