"""The sandbox of Docker containers: the strongest one, where an engine runs."""

import logging
import os
import time

import anyio
from anyio import to_thread

from . import _engine
from ._base import Emit, Sandbox
from ._builds import Builds
from ._container import Shape
from ._container_run import ContainerRun
from ._engine import Engine
from ._leases import Owner
from ._model import EngineGone, JailGoneError, Limits, NoSandbox, Outcome, SandboxError, Work
from ._orders import JAIL_FOLDER, content_for
from ._pool import ContainerPool
from ._supervise import Ending
from ._syscalls import allow_list
from ._threads import run_poked
from ._users import Users
from .languages import LANGUAGES, SEARCH_PATH, Language

_log = logging.getLogger(__name__)

_ASK_AGAIN_AFTER_S = 1.0


class DockerSandbox(Sandbox):
    """Containers without network, rights or anything of the host; each is used for one run.

    Args:
        at_once: Runs at a time.
        waiting: Runs that may wait for a place.
        image: Needs `python3`, and the tools of the languages; see `.docker/sandbox`.
        build: Build the image from the recipe of this project if it is missing.
        spare: Containers that are kept ready; each costs about 13 MB. A run that finds one starts as fast as a process.
        spare_age_s: When one that nobody has used is replaced.
        usual: The limits that most runs have. What is kept ready has them; memory can differ.
        compiling: The limits of compilers.
        builds: What compilers have made.
    """

    def __init__(
        self,
        *,
        at_once: int = 2,
        waiting: int = 32,
        image: str = _engine.IMAGE,
        build: bool = False,
        spare: int = 2,
        spare_age_s: float = 600.0,
        usual: Limits | None = None,
        compiling: Limits | None = None,
        builds: Builds | None = None,
    ) -> None:
        super().__init__(at_once=at_once, waiting=waiting, compiling=compiling, builds=builds)
        self._at_once = at_once
        self._image = image
        self._build = build
        self._image_id = ""
        self._pool: ContainerPool | None = None
        self._no_sandbox: NoSandbox | None = None
        self._ask_again_s = 0.0
        self._tools: dict[str, str] = {}
        self._seccomp = b""
        self._users = Users(also_as_user=True)
        self._owner = Owner()
        self._probing = anyio.Lock()
        self._threads = anyio.CapacityLimiter(at_once + 1)
        self._spare = spare
        self._spare_age_s = spare_age_s
        self._usual = usual or Limits()

    @property
    def level(self) -> str:
        """`docker`, or `unprobed` before `probe` has found out."""
        return "docker" if self._image_id else "unprobed"

    def languages(self) -> tuple[str, ...]:
        """The ids of the languages whose tools are in the image, sorted; none before `probe`."""
        return tuple(
            sorted(name for name, language in LANGUAGES.items() if all(tool in self._tools for tool in language.tools))
        )

    async def probe(self) -> str:
        """Find the engine and the image, sweep leftovers away, and look what the image can run.

        Where that failed, or the engine has gone away since, it is tried again, but not more often than once a second.

        Raises:
            NoSandbox: No engine answers, or it has no usable image; the text tells the cure.
        """
        async with self._probing:
            is_settled = self._no_sandbox is None and self._pool is not None
            if not is_settled and time.monotonic() >= self._ask_again_s:
                try:
                    await to_thread.run_sync(self._prepare, limiter=self._threads)
                except NoSandbox as error:
                    self._no_sandbox = error
                    self._ask_again_s = time.monotonic() + _ASK_AGAIN_AFTER_S
                else:
                    self._no_sandbox = None
            if self._no_sandbox is not None:
                raise NoSandbox(str(self._no_sandbox)) from self._no_sandbox
        return self.level

    def _prepare(self) -> None:
        if self._pool is not None:
            self._pool.engine.ping()
            return
        engine = Engine.connect()
        pool: ContainerPool | None = None
        try:
            image_id = engine.find_image(self._image, build=self._build)
            self._seccomp = allow_list(unix_sockets=True) or b""
            pool = ContainerPool(
                engine,
                image_id,
                usual=Shape.of(self._usual),
                spare=self._spare,
                at_once=self._at_once,
                owner=self._owner,
                users=self._users,
                age_s=self._spare_age_s,
            )
            count = pool.sweep()
            self._tools = self._look_for_tools(pool)
        except SandboxError as error:
            if pool is not None:
                pool.close()
            engine.close()
            raise error if isinstance(error, NoSandbox) else NoSandbox(str(error)) from error
        self._image_id, self._pool = image_id, pool
        _log.info("The sandbox is at level 'docker', image %r; %d leftover containers removed.", self._image, count)
        pool.open()

    def _look_for_tools(self, pool: ContainerPool) -> dict[str, str]:
        """Ask the image itself, in a container as closed as any: its answer is not trusted with more than that."""
        names = sorted({tool for language in LANGUAGES.values() for tool in language.tools})
        source = (
            "import os, shutil\n"
            f"found = {{name: shutil.which(name, path={os.pathsep.join(SEARCH_PATH)!r}) for name in {names!r}}}\n"
            "print(*(f'{name}={path}' for name, path in found.items() if path), sep='\\n')"
        )
        poke = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            # The launcher's own interpreter, wherever the image has it.
            work = Work(LANGUAGES["python"], source, self._usual)
            ending = self._carry_out(pool, work, None, {"python3": ""}, poke, in_background=False)
        finally:
            os.close(poke)
        tools = dict(line.split("=", 1) for line in ending.stdout.text().splitlines() if "=" in line)
        if "python3" not in tools:
            raise NoSandbox(
                f"The Docker image {self._image!r} cannot run python3: {ending.stderr.text().strip()[-300:]}. "
                "Cure: build the image from .docker/sandbox of the project."
            )
        return tools

    def toolchain(self, language: Language) -> str:  # noqa: ARG002 - the same for all
        """The image: what is in it does not change."""
        return self._image_id

    async def carry_out(self, work: Work, emit: Emit | None) -> Ending:
        """Do some work in a container."""
        await self.probe()  # it may have gone away while this run waited
        pool = self._pool
        assert pool is not None

        def do(poke: int) -> Ending:
            for _ in range(self._spare):
                try:
                    return self._carry_out(pool, work, emit, self._tools, poke)
                except JailGoneError:
                    continue  # nothing was started; the next container may be in a better state
            return self._carry_out(pool, work, emit, self._tools, poke)

        try:
            return await run_poked(do, self._threads)
        except EngineGone as error:
            if self._no_sandbox is None:
                _log.error("nothing is run for now: %s", error)
            self._no_sandbox = error
            self._ask_again_s = time.monotonic() + _ASK_AGAIN_AFTER_S
            raise

    def _carry_out(
        self,
        pool: ContainerPool,
        work: Work,
        emit: Emit | None,
        tools: dict[str, str],
        poke: int,
        *,
        in_background: bool = True,
    ) -> Ending:
        container = pool.take(Shape.of(work.limits))
        wait = True
        try:
            # The container counts its own processes; the kernel would count this user's in all containers.
            content = content_for(work, tools, JAIL_FOLDER, count_processes=False)
            ending = ContainerRun(
                container=container,
                content={**content, "alone": True, "cores": [], "landlock": [], "seccomp": self._seccomp},
                work=work,
                poke=poke,
                emit=emit,
            ).run()
            wait = not in_background or ending.outcome is not Outcome.FINISHED
            return ending
        except EngineGone:
            wait = False  # there is nobody to wait for
            raise
        finally:
            pool.give_back(container, wait=wait)

    async def _close(self) -> None:
        await to_thread.run_sync(self._close_all)

    def _close_all(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool.engine.close()
        self._users.close()
        self._owner.close()
