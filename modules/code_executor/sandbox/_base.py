"""What every sandbox shares: its interface and its queue."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Self

import anyio

from ._model import Program, Result, SandboxBusy, Stream, UnknownLanguage
from .languages import LANGUAGES, Language

OnOutput = Callable[[Stream, str], object]


class Sandbox(ABC):
    """Runs programs of strangers, a bounded number at a time. An async context manager; one use.

    A run that is cancelled has ended, with all its processes, before `run` returns.

    Args:
        at_once: Runs at a time. More than there are cores only makes each of them slower.
        waiting: Runs that may wait for a place; one more is refused with `SandboxBusy`.
    """

    def __init__(self, *, at_once: int, waiting: int) -> None:
        if at_once < 1 or waiting < 0:
            raise ValueError(f"at_once must be 1 or more and waiting 0 or more, not {at_once} and {waiting}.")
        self._places = anyio.Semaphore(at_once)
        self._waiting_max = waiting
        self._waiting = 0

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
            NoSandbox: No jail holds on this machine.
            SandboxError: The jail failed, the program is not to blame; it may have run in part.
        """
        language = LANGUAGES.get(program.language)
        if language is None:
            await self.probe()  # so that the error can name what there is
            raise UnknownLanguage(program.language, self.languages())
        if self._places.value == 0 and self._waiting >= self._waiting_max:
            raise SandboxBusy(self._waiting)
        self._waiting += 1
        try:
            await self._places.acquire()
        finally:
            self._waiting -= 1
        try:
            await self.probe()
            if language.id not in self.languages():
                raise UnknownLanguage(language.id, self.languages())
            return await self._run(language, program, on_output)
        finally:
            self._places.release()

    @abstractmethod
    async def _run(self, language: Language, program: Program, on_output: OnOutput | None) -> Result:
        """Run one program; a place is held already. Must leave nothing behind, however it ends."""

    @abstractmethod
    async def _close(self) -> None:
        """End what was kept ready. Called shielded from cancellation."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.CancelScope(shield=True):
            await self._close()


def whole_seconds(seconds: float) -> int:
    """Round up to whole seconds, at least one: the resolution of `RLIMIT_CPU`."""
    return max(1, math.ceil(seconds))
