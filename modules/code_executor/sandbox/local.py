"""The embedded sandbox: jails made of what the kernel offers, without anything installed and without a service."""

import logging
import os
import threading
from collections import deque

import anyio
from anyio import to_thread

from . import _levels
from ._base import Emit, Sandbox
from ._builds import Builds
from ._jail import Jail
from ._levels import Level
from ._model import JailGoneError, Limits, NoSandbox, SandboxError, Work
from ._orders import order_for, run_folder
from ._probe import find_level
from ._supervise import Ending, Supervisor
from ._threads import run_poked
from ._users import Users
from .languages import LANGUAGES, Language

_log = logging.getLogger(__name__)


class LocalSandbox(Sandbox):
    """Jails on this machine, the strongest level that its own attacks cannot break.

    Args:
        at_once: Runs at a time.
        waiting: Runs that may wait for a place.
        allow_weak: Accept the levels `landlock` and `rlimits`, which do not contain a hostile program. For one's own
            machine and one's own programs only.
        spare: Jails that are kept ready, 5 to 10 MB each. A run that finds one starts as fast as a bare process.
        usual: The limits that most runs have.
        compiling: The limits of compilers.
        builds: What compilers have made.
        levels: The levels to try, in this order; by default all.
    """

    def __init__(
        self,
        *,
        at_once: int = 2,
        waiting: int = 32,
        allow_weak: bool = False,
        spare: int = 2,
        usual: Limits | None = None,
        compiling: Limits | None = None,
        builds: Builds | None = None,
        levels: tuple[str, ...] = (*_levels.STRONG_LEVELS, *_levels.WEAK_LEVELS),
    ) -> None:
        super().__init__(at_once=at_once, waiting=waiting, compiling=compiling, builds=builds)
        self._usual = usual or Limits()
        self._levels = tuple(name for name in levels if allow_weak or name in _levels.STRONG_LEVELS)
        self._spare_max = spare
        self._level: Level | None = None
        self._no_sandbox: NoSandbox | None = None
        self._tools: dict[str, str] = {}
        self._spare: deque[Jail] = deque()
        self._closed = False
        self._lock = threading.Lock()  # over _spare and _closed; held for moments, in worker threads
        self._users = Users()
        self._probing = anyio.Lock()
        self._threads = anyio.CapacityLimiter(at_once + 1)

    @property
    def level(self) -> str:
        """Which walls stand around a run; `unprobed` before `probe` has found out."""
        return self._level.name if self._level else "unprobed"

    def languages(self) -> tuple[str, ...]:
        """The ids of the languages that this sandbox can run, sorted."""
        tools = self._tools or _levels.tools(_levels.interpreters()[0])
        return tuple(
            sorted(name for name, language in LANGUAGES.items() if all(tool in tools for tool in language.tools))
        )

    async def probe(self) -> str:
        """Attack our own jail and return the level that holds. The first call does the work; `run` waits for it.

        Raises:
            NoSandbox: No jail holds; the text tells why and the cure.
        """
        async with self._probing:
            if self._level is None and self._no_sandbox is None:
                try:
                    self._level = await to_thread.run_sync(self._find_level, limiter=self._threads)
                except NoSandbox as error:
                    self._no_sandbox = error
                else:
                    await to_thread.run_sync(self._refill, limiter=self._threads)
        if self._no_sandbox is not None:
            raise self._no_sandbox
        return self.level

    def _find_level(self) -> Level:
        level = find_level(self._levels, self._users, disk_bytes=self._usual.disk_bytes)
        self._tools = _levels.tools(level.walls.mother.python)
        if level.name in _levels.WEAK_LEVELS:
            _log.warning(
                "The sandbox has only the weak level %r: a hostile program CAN harm this machine. "
                "Run your own programs only, and install bubblewrap or Docker before anybody else may.",
                level.name,
            )
        else:
            filtered = "with" if level.seccomp else "without (libseccomp is missing)"
            landlock = "with" if level.landlock else "without (the kernel has none)"
            _log.info(
                "The sandbox holds at level %r, %s system call filter, %s Landlock.", level.name, filtered, landlock
            )
        return level

    def toolchain(self, language: Language) -> str:
        """The files of the tools: a package that is upgraded changes them."""
        seen: list[tuple[str, int, int]] = []
        for tool in language.tools:
            path = os.path.realpath(self._tools[tool])
            state = os.stat(path)  # noqa: PTH116 - on the way of each run
            seen.append((path, state.st_size, state.st_mtime_ns))
        return repr(seen)

    async def carry_out(self, work: Work, emit: Emit | None) -> Ending:
        """Do some work in a jail."""

        def do(poke: int) -> Ending:
            for _ in range(self._spare_max):
                try:
                    return self._carry_out(work, emit, poke)
                except JailGoneError:
                    continue  # nothing was started; the next jail may be in a better state
            return self._carry_out(work, emit, poke)

        return await run_poked(do, self._threads)

    def _carry_out(self, work: Work, emit: Emit | None, poke: int) -> Ending:
        assert self._level is not None
        level = self._level
        jail = self._take(work.limits.disk_bytes)
        try:
            with run_folder(level, jail.uid) as folder:
                return Supervisor(
                    jail=jail,
                    order=order_for(level, self._tools, work, folder),
                    work=work,
                    poke=poke,
                    emit=emit,
                    on_start=self._refill,
                ).run()
        finally:
            self._end(jail)

    def _take(self, disk_bytes: int) -> Jail:
        """Take a jail that stands ready, or make one."""
        assert self._level is not None
        level = self._level
        if level.name == "bubblewrap" and disk_bytes != self._usual.disk_bytes:  # bubblewrap fixes the size beforehand
            abi = 1 if level.landlock else 0
            level = _levels.level(level.name, level.walls.mother, landlock_abi=abi, disk_bytes=disk_bytes)
            return self._start(level)
        while True:
            with self._lock:
                jail = self._spare.popleft() if self._spare else None
            if jail is None:
                return self._start(level)
            try:
                jail.wait_ready()
            except SandboxError:  # somebody killed it while it waited
                self._end(jail)
            except BaseException:
                self._end(jail)
                raise
            else:
                return jail

    def _start(self, level: Level) -> Jail:
        mother = level.walls.mother
        while True:
            asked = mother.process_id
            jail = self._make(level)
            try:
                jail.wait_ready()
            except BaseException as error:
                self._end(jail)
                if asked == 0 or mother.lives(asked) or not isinstance(error, SandboxError):
                    raise
                # Somebody had killed her, and her socket took one more request; she is replaced at the next.
            else:
                return jail

    def _make(self, level: Level) -> Jail:
        uid = self._users.take()
        try:
            return Jail.start(level.walls, uid)
        except BaseException:
            self._users.give_back(uid)
            raise

    def _refill(self) -> None:
        """Start what is missing of the spare jails. Only starts them: nobody waits until they are ready.

        Where one cannot be made, the next run makes its own, and tells why it cannot: the one that runs now has its jail.
        """
        assert self._level is not None
        while True:
            with self._lock:
                if self._closed or len(self._spare) >= self._spare_max:
                    return
                try:
                    self._spare.append(self._make(self._level))
                except SandboxError as error:
                    _log.warning("No jail can be kept ready for now: %s", error)
                    return

    def _end(self, jail: Jail) -> None:
        jail.close()
        if jail.gone:
            self._users.give_back(jail.uid)

    async def _close(self) -> None:
        await to_thread.run_sync(self._close_spare)

    def _close_spare(self) -> None:
        with self._lock:
            self._closed = True
            jails = list(self._spare)
            self._spare.clear()
        for jail in jails:
            jail.kill()
        for jail in jails:
            self._end(jail)
        if self._level is not None:
            self._level.walls.mother.close()
        self._users.close()
