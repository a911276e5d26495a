"""What every sandbox shares: its interface, its queue, and what compilers have made."""

import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio
from anyio import from_thread, to_thread

from ._builds import Artifact, Builds, Refusal, key_of
from ._model import MIB, Limits, Outcome, Program, Result, SandboxBusy, SandboxError, Stream, UnknownLanguage, Work
from ._supervise import Ending
from .languages import LANGUAGES, Language

OnOutput = Callable[[Stream, str], object]
Emit = Callable[[Stream, str], object]
"""The same, called from a worker thread."""

COMPILING = Limits(wall_s=30.0, cpu_s=20.0, memory_bytes=512 * MIB, file_bytes=64 * MIB, disk_bytes=64 * MIB)
"""What a compiler may use."""

_LIMITS_TOLD = {
    Outcome.TIMEOUT: "took too long",
    Outcome.CPU_LIMIT: "used too much CPU time",
    Outcome.MEMORY_LIMIT: "used too much memory",
    Outcome.OUTPUT_LIMIT: "wrote too many messages",
    Outcome.KILLED: "was killed",
}


class Sandbox(ABC):
    """Runs programs of strangers, a bounded number at a time. An async context manager; one use.

    A run that is cancelled has ended, with all its processes, before `run` returns. Runs get their places in the order
    in which they have asked; a compiler takes a place like a program.

    Args:
        at_once: Runs at a time. More than there are cores only makes each of them slower.
        waiting: Runs that may wait for a place; one more is refused with `SandboxBusy`.
        compiling: The limits of compilers.
        builds: What compilers have made.
    """

    def __init__(
        self, *, at_once: int, waiting: int, compiling: Limits | None = None, builds: Builds | None = None
    ) -> None:
        if at_once < 1 or waiting < 0:
            raise ValueError(f"at_once must be 1 or more and waiting 0 or more, not {at_once} and {waiting}.")
        self._places = anyio.Semaphore(at_once)
        self._at_once_max = at_once
        self._waiting_max = waiting
        self._asked = 0
        self._compiling = compiling or COMPILING
        self._builds = builds or Builds()

    @property
    @abstractmethod
    def level(self) -> str:
        """Which walls stand around a run; `unprobed` before `probe` has found out."""

    @abstractmethod
    def languages(self) -> tuple[str, ...]:
        """The ids of the languages that this sandbox can run, sorted."""

    @abstractmethod
    async def probe(self) -> str:
        """Attack our own jail and return the level that holds. The first call does the work; `run` waits for it.

        Raises:
            NoSandbox: No jail holds; the text tells why and the cure.
        """

    async def run(self, program: Program, *, on_output: OnOutput | None = None) -> Result:
        """Run one program and tell what became of it.

        Args:
            program: What to run, and its limits.
            on_output: Called in the event loop with (stream, text) while the program writes. It gets no more than
                the result will hold. An exception from it ends the run and is raised here.

        Raises:
            UnknownLanguage: The language is not available in this sandbox.
            SandboxBusy: As many runs wait as may wait.
            NoSandbox: No jail holds on this machine, or there is no engine any more.
            SandboxError: The jail failed, the program is not to blame; it may have run in part.
        """
        language = LANGUAGES.get(program.language)
        if language is None:
            await self.probe()  # so that the error can name what there is
            raise UnknownLanguage(program.language, self.languages())
        if self._asked >= self._at_once_max + self._waiting_max:
            raise SandboxBusy(self._asked - self._at_once_max)
        self._asked += 1
        try:
            await self.probe()
            if language.id not in self.languages():
                raise UnknownLanguage(language.id, self.languages())
            built = await self._built(language, program.source) if language.compile else None
            if isinstance(built, Refusal):
                return _refused(built, self.level)
            async with self._places:
                work = Work(language, program.source, program.limits, program.stdin, built=built)
                emit = functools.partial(_call_in_loop, on_output) if on_output else None
                return result_of(await self.carry_out(work, emit), self.level)
        finally:
            self._asked -= 1

    async def _built(self, language: Language, source: str) -> Artifact | Refusal:
        """Return what the compiler makes of a source. It is asked once, also where many runs come at the same time."""
        key = key_of(language.id, self.toolchain(language), repr((language, self._compiling)), source)
        async with self._builds.turn(key):
            found = self._builds.find(key)
            if found is None:
                async with self._places:
                    ending = await self.carry_out(Work(language, source, self._compiling, is_compiling=True), None)
                found = await to_thread.run_sync(self._made, ending)
                self._builds.keep(key, found)
            return found

    def _made(self, ending: Ending) -> Artifact | Refusal:
        if ending.outcome is Outcome.FINISHED and ending.status == 0 and not ending.refused:
            try:
                return Artifact(ending.stdout.content())
            except OSError as error:
                raise SandboxError(f"There is no room for the compiled program: {error}.") from error
        text = ending.stderr.text()
        if ending.outcome is not Outcome.FINISHED:
            assert ending.outcome is not None
            text += f"\nThe compiler {_LIMITS_TOLD[ending.outcome]}, and was ended.\n"
        elif ending.refused:
            text += f"\nThe compiler made nothing that could be run: {ending.refused}.\n"
        until_s = self._builds.now_s() + self._builds.refusals_s
        return Refusal(ending.status, text.lstrip("\n"), ending.stderr.overflowed, ending.duration_s * 1000, until_s)

    @abstractmethod
    def toolchain(self, language: Language) -> str:
        """What tells one version of a language's tools from another one."""

    @abstractmethod
    async def carry_out(self, work: Work, emit: Emit | None) -> Ending:
        """Do some work; a place is held already. Must leave nothing behind, however it ends.

        Args:
            work: What to do.
            emit: Called in a worker thread with each piece of a program's output.
        """

    @abstractmethod
    async def _close(self) -> None:
        """End what was kept ready. Called shielded from cancellation."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            self._builds.clear()
            await self._close()


def _call_in_loop(on_output: OnOutput, stream: Stream, text: str) -> None:
    """Call a listener in the event loop that the worker thread belongs to, and wait for it."""
    from_thread.run_sync(on_output, stream, text)


def result_of(ending: Ending, level: str) -> Result:
    """Turn what the worker thread has seen into what the caller learns."""
    status = ending.status
    assert ending.outcome is not None
    by_itself = ending.outcome is Outcome.FINISHED
    return Result(
        outcome=ending.outcome,
        exit_code=os.WEXITSTATUS(status) if by_itself and status is not None and os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
        stdout=ending.stdout.text(),
        stderr=ending.stderr.text(),
        stdout_truncated=ending.stdout.overflowed,
        stderr_truncated=ending.stderr.overflowed,
        duration_ms=ending.duration_s * 1000,
        level=level,
        cpu_ms=None if ending.cpu_s is None else ending.cpu_s * 1000,
    )


def _refused(refusal: Refusal, level: str) -> Result:
    status = refusal.status
    return Result(
        outcome=Outcome.COMPILE_ERROR,
        exit_code=os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
        stdout="",
        stderr=refusal.text,
        stdout_truncated=False,
        stderr_truncated=refusal.truncated,
        duration_ms=refusal.duration_ms,
        level=level,
    )
