"""The sandbox of Docker containers: the strongest one, where an engine runs."""

import functools
import logging
import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import anyio
from anyio import to_thread

from . import _engine
from ._base import OnOutput, Sandbox
from ._container import Container, Shape
from ._container_run import ContainerRun
from ._model import Limits, NoSandbox, Program, Result, SandboxError
from ._orders import JAIL_FOLDER, content_for
from ._supervise import Ending
from ._syscalls import allow_list
from ._threads import call_in_loop, result_of, run_poked
from ._users import Users
from .languages import LANGUAGES, SEARCH_PATH, Language

_log = logging.getLogger(__name__)

_LIVES_S = 24 * 3600.0
"""A container that is older than this has been forgotten, wherever its executor was."""


class DockerSandbox(Sandbox):
    """Containers without network, rights or anything of the host; each is used for one run.

    Args:
        at_once: Runs at a time.
        waiting: Runs that may wait for a place.
        image: Needs `python3`, and the tools of the languages; see `.docker/sandbox`.
        build: Build the image from the recipe of this project if it is missing.
        spare: Containers that are kept ready for runs with the default limits; each costs about 13 MB.
    """

    def __init__(
        self, *, at_once: int = 2, waiting: int = 32, image: str = _engine.IMAGE, build: bool = False, spare: int = 1
    ) -> None:
        super().__init__(at_once=at_once, waiting=waiting)
        self._image = image
        self._build = build
        self._image_id = ""
        self._api: Any = None
        self._no_sandbox: NoSandbox | None = None
        self._tools: dict[str, str] = {}
        self._seccomp = b""
        self._users = Users(also_as_user=True)
        self._owner = _engine.Owner()
        self._probing = anyio.Lock()
        self._threads = anyio.CapacityLimiter(at_once + 1)
        self._spare: deque[Container] = deque()
        self._spare_max = spare
        self._closed = False
        self._lock = threading.Lock()  # over _spare and _closed, held for moments
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="docker-sandbox")

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

        Raises:
            NoSandbox: No engine answers, or it has no usable image; the text tells the cure.
        """
        async with self._probing:
            if not self._image_id and self._no_sandbox is None:
                try:
                    await to_thread.run_sync(self._prepare, limiter=self._threads)
                except NoSandbox as error:
                    self._no_sandbox = error
        if self._no_sandbox is not None:
            raise self._no_sandbox
        return self.level

    def _prepare(self) -> None:
        api = _engine.connect()
        try:
            image_id = _engine.find_image(api, self._image, build=self._build)
            self._seccomp = allow_list(unix_sockets=True) or b""
            count = _engine.reap(api)
            self._api = api
            self._tools = self._look_for_tools(image_id)
        except SandboxError as error:
            api.close()
            raise error if isinstance(error, NoSandbox) else NoSandbox(str(error)) from error
        self._image_id = image_id
        _log.info("The sandbox is at level 'docker', image %r; %d leftover containers removed.", self._image, count)
        self._refill_soon()

    def _look_for_tools(self, image_id: str) -> dict[str, str]:
        """Ask the image itself, in a container as closed as any: its answer is not trusted with more than that."""
        names = sorted({tool for language in LANGUAGES.values() for tool in language.tools})
        source = (
            "import os, shutil\n"
            f"found = {{name: shutil.which(name, path={os.pathsep.join(SEARCH_PATH)!r}) for name in {names!r}}}\n"
            "print(*(f'{name}={path}' for name, path in found.items() if path), sep='\\n')"
        )
        self._tools = {"python3": ""}  # the launcher's own interpreter, wherever the image has it
        poke = os.eventfd(0, os.EFD_CLOEXEC)
        try:
            ending = self._carry_out(LANGUAGES["python"], Program("python", source), None, poke, image_id)
        finally:
            os.close(poke)
        tools = dict(line.split("=", 1) for line in ending.stdout.text().splitlines() if "=" in line)
        if "python3" not in tools:
            raise NoSandbox(
                f"The Docker image {self._image!r} cannot run python3: {ending.stderr.text().strip()[-300:]}. "
                "Cure: build the image from .docker/sandbox of the project."
            )
        return tools

    async def _run(self, language: Language, program: Program, on_output: OnOutput | None) -> Result:
        emit = functools.partial(call_in_loop, on_output) if on_output else None

        def work(poke: int) -> Ending:
            return self._carry_out(language, program, emit, poke, self._image_id)

        return result_of(await run_poked(work, self._threads), self.level)

    def _carry_out(self, language: Language, program: Program, emit: Any, poke: int, image_id: str) -> Ending:
        shape = Shape.of(program.limits, executable=language.executes_own_files)
        container = self._take(shape, image_id)
        try:
            # The container counts its own processes; the kernel would count this user's in all containers.
            content = content_for(language, program, self._tools, JAIL_FOLDER, count_processes=False)
            return ContainerRun(
                container=container,
                content={**content, "cores": [], "landlock": [], "seccomp": self._seccomp},
                steps_wall_s=[*([language.compile_wall_s] if language.compile else []), program.limits.wall_s],
                stdin=program.stdin.encode("utf-8", "surrogatepass"),
                limits=program.limits,
                poke=poke,
                emit=emit,
            ).run()
        finally:
            self._end(container)
            self._refill_soon()

    def _take(self, shape: Shape, image_id: str) -> Container:
        while True:
            with self._lock:
                container = next((spare for spare in self._spare if spare.shape == shape), None)
                if container is not None:
                    self._spare.remove(container)
            if container is None:
                return self._start(shape, image_id)
            if container.waits():
                return container
            self._end(container)  # somebody has ended it

    def _start(self, shape: Shape, image_id: str) -> Container:
        user = self._users.take()
        try:
            return Container.start(self._api, image_id, shape, user, self._owner.labels(_LIVES_S))
        except SandboxError:
            self._users.give_back(user)
            raise

    def _refill_soon(self) -> None:
        with suppress(RuntimeError):  # it is closed
            self._background.submit(self._refill)

    def _refill(self) -> None:
        shape = Shape.of(Limits(), executable=False)
        with self._lock:
            missing = 0 if self._closed or not self._image_id else self._spare_max - len(self._spare)
        for _ in range(missing):
            try:
                container = self._start(shape, self._image_id)
            except SandboxError as error:
                _log.warning("No spare container could be started: %s", error)
                return
            with self._lock:
                if not self._closed:
                    self._spare.append(container)
                    continue
            self._end(container)

    def _end(self, container: Container) -> None:
        if container.remove():
            self._users.give_back(container.user)
        else:
            _log.warning("Container %s was not removed; the next start sweeps it away.", container.id[:12])

    async def _close(self) -> None:
        await to_thread.run_sync(self._close_all)

    def _close_all(self) -> None:
        with self._lock:
            self._closed = True
        self._background.shutdown(wait=True)
        while self._spare:
            self._end(self._spare.popleft())
        if self._api is not None:
            self._api.close()
        self._users.close()
        self._owner.close()
