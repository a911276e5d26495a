"""One local run from order to end: plain blocking code for a worker thread, the same on every event loop.

It waits for all of it at once: the launcher's words, both outputs, room on stdin, the deadline, the next look at memory
and CPU, a poke from the event loop (cancelled), and the end of the control socket. Only the last one ends the run: the
end of the output is not the end of the program, nor the other way round.
"""

import os
import select
import selectors
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec
from attrs import define, field

from ._builds import ARTIFACT_BYTES
from ._jail import GONE_WITHIN_S, READY_WITHIN_S, Jail
from ._model import Built, JailGoneError, Outcome, SandboxError, Stream, Work
from ._output import Capture
from ._watch import Watch

LOOK_EVERY_S = 0.03


class Ending(msgspec.Struct, frozen=True):
    """How the run ended.

    Attributes:
        outcome: None where the run was poked from outside.
        status: The wait status of the last step that ended, None where nobody could report one.
        refused: Why there is nothing to take out of the jail, where something was to be.
        cpu_s: How much CPU time was used, in seconds; None where nobody could report it.
    """

    outcome: Outcome | None
    status: int | None
    stdout: Capture
    stderr: Capture
    duration_s: float
    refused: str = ""
    cpu_s: float | None = None


def captures(work: Work) -> dict[Stream, Capture]:
    """Room for the two outputs. What a compiler made comes over stdout."""
    cap = work.limits.output_bytes
    made = Capture(ARTIFACT_BYTES, is_text=False)
    return {"stdout": made if work.is_compiling else Capture(cap), "stderr": Capture(cap)}


def parts(built: Built | None) -> Iterator[bytes]:
    """What was compiled before, in pieces."""
    sent = 0
    while built is not None and sent < built.size:
        part = built.part(sent, 1 << 18)
        sent += len(part)
        yield part


@define(eq=False)
class Supervisor:
    """Carries one order out in one jail.

    Attributes:
        jail: Ready, unused; it is closed at the end.
        order: The framed order.
        work: What it is about.
        poke: A descriptor that becomes readable when the run must end.
        emit: Called with each new piece of the program's output.
        on_start: Called once, when the work has been started.
    """

    jail: Jail
    order: bytes
    work: Work
    poke: int
    emit: Callable[[Stream, str], object] | None
    on_start: Callable[[], None]
    _stop: Outcome | None = None
    _poked: bool = False
    _status: int | None = None
    _started_s: float = 0.0
    _ended_s: float = 0.0
    _deadline_s: float = 0.0
    _cpu_s: float = 0.0
    _killed: bool = False
    _failure: str = ""
    _refused: str = ""
    _over: bool = False
    _stdin: memoryview = memoryview(b"")
    _captures: dict[Stream, Capture] = field(init=False)
    _watch: Watch = field(init=False)
    _selector: selectors.BaseSelector = field(factory=selectors.DefaultSelector)

    def __attrs_post_init__(self) -> None:
        self._captures = captures(self.work)
        self._watch = Watch(self.jail.launcher, self.jail.has_network)
        self._stdin = memoryview(self.work.stdin.encode("utf-8", "surrogatepass"))

    def run(self) -> Ending:
        """Carry the order out.

        Raises:
            SandboxError: The launcher could not do what it was told.
        """
        try:
            with self._selector as selector:
                selector.register(self.poke, selectors.EVENT_READ, self._poked_from_outside)
                selector.register(self.jail.control, selectors.EVENT_READ, self._listen)
                selector.register(self.jail.stdout, selectors.EVENT_READ, lambda: self._read("stdout"))
                selector.register(self.jail.stderr, selectors.EVENT_READ, lambda: self._read("stderr"))
                if self._stdin:
                    selector.register(self.jail.stdin, selectors.EVENT_WRITE, self._feed)
                else:
                    self.jail.close_stdin()
                self._deadline_s = time.monotonic() + READY_WITHIN_S
                self.jail.send(self.order)
                for part in parts(self.work.built):
                    self.jail.send(part)
                self._loop()
        finally:
            self.jail.close()
        if not self._started_s and not self._failure and not self._poked:
            reason = "ended" if self._stop is None else f"did nothing for {READY_WITHIN_S:g} s"
            raise JailGoneError(f"The jail {reason} before the program was started. The machine may be overloaded.")
        if self._failure and not self._killed_for_a_reason:
            raise SandboxError(f"The jail could not run the program: {self._failure}.")
        return Ending(
            outcome=None if self._poked else self._verdict(),
            status=self._status,
            stdout=self._captures["stdout"],
            stderr=self._captures["stderr"],
            duration_s=max(0.0, (self._ended_s or time.monotonic()) - self._started_s) if self._started_s else 0.0,
            refused=self._refused,
            cpu_s=self._cpu_s,
        )

    @property
    def _killed_for_a_reason(self) -> bool:
        return self._poked or self._stop is not None

    def _loop(self) -> None:
        look_s = time.monotonic() + LOOK_EVERY_S
        while not self._over:
            now = time.monotonic()
            if now >= self._deadline_s:
                if self._killed:
                    return  # not even the kill has worked in time; `Jail.close` has the last resort
                self._end(Outcome.TIMEOUT)
                continue
            if now >= look_s:
                self._look()
                look_s = time.monotonic() + LOOK_EVERY_S
            for key, _ in self._selector.select(max(0.0, min(self._deadline_s, look_s) - now)):
                if key.fd in self._selector.get_map():
                    key.data()
        for stream in self._captures:
            self._read(stream, to_the_end=True)

    def _end(self, why: Outcome | None) -> None:
        """Kill everything, for the first reason that is found."""
        if self._killed:
            return
        if self._status is None:
            self._stop = why
        self._killed = True
        self._ended_s = self._ended_s or time.monotonic()
        self._deadline_s = time.monotonic() + GONE_WITHIN_S
        self.jail.kill()

    def _poked_from_outside(self) -> None:
        self._selector.unregister(self.poke)
        self._poked = True
        self._end(None)

    def _listen(self) -> None:
        lines = self.jail.lines()
        if lines is None:
            self._over = True
            self._ended_s = self._ended_s or time.monotonic()
            return
        for line in lines:
            kind, _, rest = line.partition(" ")
            if kind == "start":
                self._started_s = time.monotonic()
                self._deadline_s = self._started_s + self.work.limits.wall_s
                self.on_start()
            elif kind == "end":
                status, _, cpu_s = rest.partition(" ")
                self._status, self._cpu_s = int(status), max(self._cpu_s, float(cpu_s))
                self._ended_s = time.monotonic()
                self._deadline_s = self._ended_s + GONE_WITHIN_S
            elif kind == "artifact":
                size, _, reason = rest.partition(" ")
                self._refused = reason if int(size) < 0 else ""
            elif kind == "failed":
                self._failure = rest

    def _look(self) -> None:
        if not self._started_s or self._killed:
            return
        seen = self._watch.look()
        self._cpu_s = max(self._cpu_s, seen.cpu_s)
        if seen.memory_bytes > self.work.limits.memory_bytes:
            exact = self._watch.exact_bytes()
            if exact is None or exact > self.work.limits.memory_bytes:
                self._end(Outcome.MEMORY_LIMIT)
        if seen.cpu_s > self.work.limits.cpu_s:
            self._end(Outcome.CPU_LIMIT)

    def _read(self, stream: Stream, *, to_the_end: bool = False) -> None:
        """Take what there is of one output. `to_the_end` goes on until the pipe is empty or the cap is reached."""
        handle = self.jail.stdout if stream == "stdout" else self.jail.stderr
        capture = self._captures[stream]
        while not capture.overflowed:
            try:
                data = os.read(handle, 65536)
            except BlockingIOError:
                return
            if not data:
                with suppress(KeyError):
                    self._selector.unregister(handle)
                return
            text = capture.add(data)
            if text and self.emit and not self._poked:
                self.emit(stream, text)
            if capture.overflowed:
                with suppress(KeyError):
                    self._selector.unregister(handle)
                self._end(Outcome.OUTPUT_LIMIT)
            if not to_the_end:
                return

    def _feed(self) -> None:
        try:
            written = os.write(self.jail.stdin, self._stdin[: select.PIPE_BUF * 16])
        except BlockingIOError:
            return
        except BrokenPipeError:
            written = len(self._stdin)
        self._stdin = self._stdin[written:]
        if not self._stdin:
            self._selector.unregister(self.jail.stdin)
            self.jail.close_stdin()

    def _verdict(self) -> Outcome:
        if self._stop is not None:
            return self._stop
        if any(capture.overflowed for capture in self._captures.values()):
            return Outcome.OUTPUT_LIMIT  # whether its output or its end was seen first is chance
        if self._status is None:
            return Outcome.KILLED
        if not os.WIFSIGNALED(self._status):
            return Outcome.FINISHED
        number = os.WTERMSIG(self._status)
        out_of_time = number == signal.SIGXCPU or (number == signal.SIGKILL and self._cpu_s >= self.work.limits.cpu_s)
        return Outcome.CPU_LIMIT if out_of_time else Outcome.KILLED
