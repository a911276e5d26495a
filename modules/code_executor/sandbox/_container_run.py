"""One run in a container from order to end: the counterpart of `_supervise`, blocking code for a worker thread.

All goes over one connection, the container's three streams multiplexed: input and the program's order one way, its
output and the launcher's reports the other.
"""

import os
import secrets
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attrs import define, evolve, field

from ._container import GONE_WITHIN_S, START_WITHIN_S, Container
from ._jail import order
from ._model import Limits, Outcome, SandboxError, Stream
from ._output import Capture
from ._reports import Reports
from ._supervise import Ending


@define(eq=False)
class ContainerRun:
    """Carries one order out in one container.

    Attributes:
        container: Started, unused. It is not removed here.
        content: The order, without what is added here.
        steps_wall_s: Seconds by the clock that each step may take.
        stdin: What the program may read.
        limits: The program's limits.
        poke: A descriptor that becomes readable when the run must end.
        emit: Called with each new piece of the last step's output.
    """

    container: Container
    content: dict[str, Any]
    steps_wall_s: list[float]
    stdin: bytes
    limits: Limits
    poke: int
    emit: Callable[[Stream, str], object] | None
    _reports: Reports = field(init=False)
    _captures: dict[Stream, Capture] = field(init=False)
    _incoming: bytearray = field(factory=bytearray)
    _outgoing: memoryview = memoryview(b"")
    _stop: Outcome | None = None
    _poked: bool = False
    _ended: bool = False
    _step: int = -1
    _status: int | None = None
    _started_s: float = 0.0
    _ended_s: float = 0.0
    _deadline_s: float = 0.0
    _failure: str = ""
    _input_open: bool = True

    def run(self) -> Ending:
        """Carry the order out.

        Raises:
            SandboxError: The launcher could not do what it was told.
        """
        mark = secrets.token_hex(16).encode()
        self._reports = Reports(mark)
        cap = self.limits.output_bytes
        self._captures = {"stdout": Capture(cap), "stderr": Capture(cap)}
        self._deadline_s = time.monotonic() + START_WITHIN_S
        self.container.send(
            order({**self.content, "mark": mark, "cpu_s": self.limits.cpu_s, "steps_wall_s": self.steps_wall_s})
        )
        self._loop()
        ending = Ending(
            outcome=None,
            status=self._status,
            stdout=self._captures["stdout"],
            stderr=self._captures["stderr"],
            duration_s=(self._ended_s or time.monotonic()) - self._started_s if self._started_s else 0.0,
        )
        if self._poked:
            return ending
        if self._stop is None and self._failure:
            raise SandboxError(f"The container could not run the program: {self._failure}.")
        if self._stop is None and self._step < 0:
            text = ending.stderr.text().strip()[-300:] or "it ended without a word"
            raise SandboxError(f"The container's launcher did not start: {text}.")
        return self._with_verdict(ending)

    def _loop(self) -> None:
        connection = self.container.connection
        connection.settimeout(0)
        with selectors.DefaultSelector() as selector:
            selector.register(self.poke, selectors.EVENT_READ)
            selector.register(connection, selectors.EVENT_READ)
            while not self._ended and self._stop is None and not self._poked:
                left_s = self._deadline_s - time.monotonic()
                if left_s <= 0:
                    if self._status is None or not self._last_step:
                        self._stop = Outcome.TIMEOUT
                    return
                wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
                selector.modify(connection, wanted)
                for key, events in selector.select(left_s):
                    if key.fd == self.poke:
                        self._poked = True
                    elif events & selectors.EVENT_READ:
                        self._receive(connection)
                    else:
                        self._feed(connection)

    @property
    def _last_step(self) -> bool:
        return self._step == len(self.steps_wall_s) - 1

    def _receive(self, connection: socket.socket) -> None:
        try:
            data = connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._add("stderr", self._reports.rest())
            self._ended = True
            return
        # The engine's framing: one byte that names the stream, three empty ones, four of length, the content.
        self._incoming += data
        while len(self._incoming) >= 8:
            size = int.from_bytes(self._incoming[4:8], "big")
            if len(self._incoming) < 8 + size:
                return
            number, content = self._incoming[0], bytes(self._incoming[8 : 8 + size])
            del self._incoming[: 8 + size]
            if number == 1:
                self._add("stdout", content)
                continue
            for own, report in self._reports.split(content):
                self._add("stderr", own)
                self._note(report)

    def _add(self, stream: Stream, data: bytes) -> None:
        if not data:
            return
        capture = self._captures[stream]
        text = capture.add(data)
        if text and self.emit and self._last_step and not self._poked:
            self.emit(stream, text)
        if capture.overflowed and self._stop is None and self._status is None:
            self._stop = Outcome.OUTPUT_LIMIT

    def _note(self, report: str) -> None:
        kind, _, rest = report.partition(" ")
        now = time.monotonic()
        if kind == "start":
            self._step, self._started_s = int(rest), now
            self._deadline_s = now + self.steps_wall_s[self._step]
            if self._last_step:
                self._outgoing = memoryview(self.stdin)
                self._feed(self.container.connection)
        elif kind == "end":
            self._status, self._ended_s = int(rest.split()[1]), now
            self._deadline_s = now + GONE_WITHIN_S
            if not self._last_step and self._status == 0:
                self._status, self._ended_s = None, 0.0
                for capture in self._captures.values():
                    capture.clear()
                self._outgoing = memoryview(b"g")
        elif kind == "failed":
            self._failure = rest
        elif kind in ("memory", "cpu") and self._stop is None:
            self._stop = Outcome.MEMORY_LIMIT if kind == "memory" else Outcome.CPU_LIMIT

    def _feed(self, connection: socket.socket) -> None:
        if self._outgoing:
            try:
                sent = connection.send(self._outgoing[: 1 << 16])
            except BlockingIOError:
                return
            except OSError:
                sent = len(self._outgoing)
            self._outgoing = self._outgoing[sent:]
        if not self._outgoing and self._last_step and self._input_open:
            self._input_open = False
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)

    def _with_verdict(self, ending: Ending) -> Ending:
        outcome, status = self._stop, self._status
        if outcome is Outcome.OUTPUT_LIMIT and not self._last_step:
            outcome = Outcome.COMPILE_ERROR
        if outcome is None and status is None:
            code, out_of_memory = self.container.how_it_ended()
            outcome = Outcome.MEMORY_LIMIT if out_of_memory else Outcome.KILLED
            status = code - 128 if code is not None and 128 < code < 160 else None
        elif outcome is None and not self._last_step:
            outcome = Outcome.COMPILE_ERROR
        elif outcome is None and status is not None and os.WIFSIGNALED(status):
            outcome = Outcome.CPU_LIMIT if os.WTERMSIG(status) == 24 else Outcome.KILLED
        return evolve(ending, outcome=outcome or Outcome.FINISHED, status=status)
