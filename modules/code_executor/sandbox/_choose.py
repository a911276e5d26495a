"""Which sandbox this machine and these settings call for."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal, TypedDict

import anyio

from . import _engine
from ._base import Emit, Sandbox
from ._builds import Builds
from ._model import Limits, NoSandbox, Work
from ._supervise import Ending
from .languages import Language
from .local import LocalSandbox

_log = logging.getLogger(__name__)

Kind = Literal["auto", "docker", "local"]


class _Queue(TypedDict):
    at_once: int
    waiting: int
    compiling: Limits | None
    builds: Builds


class _Ready(TypedDict):
    spare: int
    usual: Limits | None


class AutoSandbox(Sandbox):
    """The first of several sandboxes that holds. It becomes known with `probe`.

    Args:
        candidates: In the order of preference; they are closed with this one.
        at_once: Runs at a time.
        waiting: Runs that may wait for a place.
        compiling: The limits of compilers.
        builds: What compilers have made.
    """

    def __init__(
        self,
        *candidates: Sandbox,
        at_once: int,
        waiting: int,
        compiling: Limits | None = None,
        builds: Builds | None = None,
    ) -> None:
        super().__init__(at_once=at_once, waiting=waiting, compiling=compiling, builds=builds)
        self._candidates = candidates
        self._chosen: Sandbox | None = None
        self._probing = anyio.Lock()

    @property
    def level(self) -> str:
        """Which walls stand around a run; `unprobed` before `probe` has found out."""
        return self._chosen.level if self._chosen else "unprobed"

    def languages(self) -> tuple[str, ...]:
        """The ids of the languages that this sandbox can run, sorted; before `probe`, those of the last candidate."""
        return (self._chosen or self._candidates[-1]).languages()

    async def probe(self) -> str:
        """Choose, and return the level.

        Raises:
            NoSandbox: No candidate holds; the text is the last one's.
        """
        async with self._probing:
            if self._chosen is not None:
                return await self._chosen.probe()
            for candidate in self._candidates:
                try:
                    await candidate.probe()
                except NoSandbox as error:
                    if candidate is self._candidates[-1]:
                        raise
                    _log.info("Trying the next sandbox: %s", error)
                else:
                    self._chosen = candidate
                    break
        return self.level

    def toolchain(self, language: Language) -> str:
        """What tells one version of a language's tools from another one."""
        assert self._chosen is not None
        return self._chosen.toolchain(language)

    async def carry_out(self, work: Work, emit: Emit | None) -> Ending:
        """Have the chosen one do some work."""
        assert self._chosen is not None
        return await self._chosen.carry_out(work, emit)

    async def _close(self) -> None:
        for candidate in self._candidates:
            await candidate._close()


@asynccontextmanager
async def choose(
    kind: Kind = "auto",
    *,
    at_once: int = 2,
    waiting: int = 32,
    allow_weak: bool = False,
    spare: int = 2,
    spare_age_s: float = 600.0,
    usual: Limits | None = None,
    compiling: Limits | None = None,
    builds: Builds | None = None,
    image: str = _engine.IMAGE,
) -> AsyncGenerator[Sandbox]:
    """Open a sandbox, and close it again with all that runs in it.

    Opening is cheap. What takes time is `Sandbox.probe`, which the first run waits for; call it in the background to
    have it done by then.

    Args:
        kind: `docker` for containers, `local` for jails of our own, `auto` for containers where an engine answers and
            has the image, else jails. Only `docker` builds a missing image.
        at_once: Runs at a time.
        waiting: Runs that may wait for a place; one more is refused with `SandboxBusy`.
        allow_weak: Accept local levels that do not contain a hostile program. For development on loopback only.
        spare: Containers, or jails, that are kept ready.
        spare_age_s: When a container that nobody has used is replaced.
        usual: The limits that most runs have: what is kept ready has them.
        compiling: The limits of compilers.
        builds: What compilers have made.
        image: The Docker image.
    """
    queue: _Queue = {"at_once": at_once, "waiting": waiting, "compiling": compiling, "builds": builds or Builds()}
    ready: _Ready = {"spare": spare, "usual": usual}
    sandbox: Sandbox
    if kind == "docker":
        from .docker import DockerSandbox  # most processes never need it

        sandbox = DockerSandbox(**queue, **ready, spare_age_s=spare_age_s, image=image, build=True)
    else:
        sandbox = LocalSandbox(**queue, **ready, allow_weak=allow_weak)
        if kind == "auto" and _engine.engine_may_run():
            from .docker import DockerSandbox

            containers = DockerSandbox(**queue, **ready, spare_age_s=spare_age_s, image=image)
            sandbox = AutoSandbox(containers, sandbox, **queue)
    async with sandbox:
        yield sandbox
