"""A sandbox that runs nothing, for the executor in whatever process it is: what it does, its program says."""

from __future__ import annotations

from pathlib import Path

import anyio

from modules.code_executor.sandbox import NoSandbox, Outcome, Program, Result, Sandbox, SandboxBusy, Stream
from modules.code_executor.sandbox._base import Emit, OnOutput
from modules.code_executor.sandbox._model import Work
from modules.code_executor.sandbox._supervise import Ending
from modules.code_executor.sandbox.languages import Language
from modules.code_executor.service import ExecutorSettings

LIMIT_BYTES = 500
RUNS_KEPT = 5
PEOPLE_AT_ONCE, WAITING = 2, 3
EACH = 1


class FakeSandbox(Sandbox):
    """Echoes the source to stdout, in two pieces, and the input to stderr.

    A source `touch PATH` leaves a file there when it runs; `wait PATH` leaves one, says so, waits until it is cancelled, and then takes it away.
    `limits` tells its limits; `fault` is one of the sandbox; `nul N` writes so many NULs to both streams; `drip N` writes so many letters to
    each, faster than anybody can be told.
    """

    def __init__(self, *, holds: bool = True, is_busy: bool = False) -> None:
        super().__init__(at_once=8, waiting=8)
        self.holds = holds
        self.is_busy = is_busy

    @property
    def level(self) -> str:
        return "fake"

    def languages(self) -> tuple[str, ...]:
        return ("bash", "python")

    async def probe(self) -> str:
        if not self.holds:
            raise NoSandbox("nothing holds; install bubblewrap")
        return self.level

    async def run(self, program: Program, *, on_output: OnOutput | None = None) -> Result:
        if self.is_busy:
            raise SandboxBusy(7)
        word, _, path = program.source.partition(" ")
        if word in ("touch", "wait"):
            _leave(path)
        if word == "fault":
            raise ValueError("a fault of the sandbox")
        if word == "wait":
            if on_output is not None:
                on_output("stdout", "waits\n")
            try:
                await anyio.sleep_forever()
            finally:
                _take_away(path)
        stdout, stderr = program.source, program.stdin
        half = len(stdout) // 2
        pieces: list[tuple[Stream, str]] = [("stdout", stdout[:half]), ("stdout", stdout[half:])]
        if word == "limits":
            stdout, pieces = repr(program.limits), []
        elif word == "nul":
            stdout, stderr, pieces = "\0" * int(path), "\0" * int(path), []
        elif word == "drip":
            stdout, stderr, pieces = "o" * int(path), "e" * int(path), [("stdout", "o"), ("stderr", "e")] * int(path)
        for stream, piece in pieces:
            if on_output is not None and piece:
                on_output(stream, piece)
        return Result(Outcome.FINISHED, 0, None, stdout, stderr, False, False, 1.5, self.level)

    def toolchain(self, language: Language) -> str:
        raise NotImplementedError

    async def carry_out(self, work: Work, emit: Emit | None) -> Ending:
        raise NotImplementedError

    async def _close(self) -> None:
        pass


def _leave(path: str) -> None:
    Path(path).touch()


def _take_away(path: str) -> None:
    Path(path).unlink()


def _overrides(sandbox: FakeSandbox, *, each: int = WAITING) -> dict[type, object]:
    settings = ExecutorSettings(
        source_bytes=LIMIT_BYTES,
        runs_kept=RUNS_KEPT,
        at_once=3,
        people_at_once=PEOPLE_AT_ONCE,
        waiting=WAITING,
        waiting_each=each,
    )
    return {Sandbox: sandbox, ExecutorSettings: settings}


def that_echoes() -> dict[type, object]:
    return _overrides(FakeSandbox())


def that_lets_each_wait() -> dict[type, object]:
    return _overrides(FakeSandbox(), each=EACH)


def that_does_not_hold() -> dict[type, object]:
    return _overrides(FakeSandbox(holds=False))


def that_is_busy() -> dict[type, object]:
    return _overrides(FakeSandbox(is_busy=True))
