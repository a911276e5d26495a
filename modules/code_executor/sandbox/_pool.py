"""A pool of containers: started ahead, each used once, removed and replaced in the background. Thread-safe.

No more than `spare` wait for a program, and no more than twice `at_once` are in use or on their way out: a report need not
wait until its container has been removed, which takes longer than a small program.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import msgspec

from ._container import Container, Shape
from ._engine import DONE_WITHIN_S, Engine
from ._leases import Owner
from ._model import EngineGone, SandboxError
from ._users import Users

_log = logging.getLogger(__name__)

SWEEP_EVERY_S = 60.0
RETRY_AFTER_S = 1.0
REMOVE_AFTER_MAX_S = 60.0
"""How long it is waited at most between two tries to remove a container; each wait is twice the one before."""
_REMOVERS = 2
_SLACK_S = 600.0


class _Stuck(msgspec.Struct, frozen=True):
    """A container that has to be removed yet.

    Attributes:
        user: Its user.
        again_s: When it is tried again, by the pool's clock.
        wait_s: How long it was waited for that; 0 before the first try.
    """

    user: int
    again_s: float = 0.0
    wait_s: float = 0.0


class ContainerPool:
    """Containers of one image on one engine.

    Args:
        engine: Where they are.
        image_id: The image.
        usual: The shape of those that are kept ready.
        spare: How many are kept ready.
        at_once: How many programs run at a time.
        owner: Whose they are.
        users: Where their users come from.
        age_s: When one that nobody has used is replaced: what waits for long is what something can happen to.
        now_s: The clock for what is done in the background.
    """

    def __init__(
        self,
        engine: Engine,
        image_id: str,
        *,
        usual: Shape,
        spare: int,
        at_once: int,
        owner: Owner,
        users: Users,
        age_s: float = 600.0,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.engine = engine
        self._image_id = image_id
        self._usual = usual
        self._spare_max = spare
        self._owner = owner
        self._users = users
        self._age_s = age_s
        self._now_s = now_s
        self._spare: list[Container] = []
        self._in_use: set[str] = set()
        self._to_remove: dict[str, _Stuck] = {}
        self._used = threading.BoundedSemaphore(2 * at_once)
        self._changed = threading.Condition()  # over all of the above; held for moments
        self._closed = False
        self._sweep_s = now_s() + SWEEP_EVERY_S
        self._removers = ThreadPoolExecutor(_REMOVERS, thread_name_prefix="docker-remove")
        self._keeper = threading.Thread(target=self._keep, name="docker-pool", daemon=True)

    def open(self) -> None:
        """Begin to start what is to be kept ready."""
        self._keeper.start()

    # --- one run -----------------------------------------------------------------------------------------------------

    def take(self, shape: Shape) -> Container:
        """Take a container that waits for its order. It must be given back.

        Raises:
            SandboxError: The engine could not start one.
        """
        if not self._used.acquire(timeout=DONE_WITHIN_S):
            raise EngineGone("The Docker engine did not remove containers in time, so no further one is started.")
        try:
            while (container := self._pop(shape)) is not None:
                try:
                    if container.waits():
                        container.become(shape)
                        return container
                except BaseException as error:
                    if isinstance(error, EngineGone) or not isinstance(error, SandboxError):
                        self._discard(container)
                        raise
                    _log.debug("The spare container %s ended this moment: %s", container.name, error)
                self._discard(container)
            return self._start(shape)
        except BaseException:
            self._used.release()
            raise

    def give_back(self, container: Container, *, wait: bool) -> None:
        """Have a used container removed.

        Args:
            container: From `take`.
            wait: Return only when it is gone: something in it may run still.
        """
        container.close()
        done = self._removers.submit(self._remove_used, container)
        if wait:
            done.result()

    def _remove_used(self, container: Container) -> None:
        try:
            self._remove(container.name, container.user)
        finally:
            self._used.release()

    def _pop(self, shape: Shape) -> Container | None:
        with self._changed:
            fitting = [spare for spare in self._spare if spare.shape.becomes(shape)]
            if not fitting:
                return None
            self._spare.remove(fitting[0])
            self._changed.notify()
            return fitting[0]

    # --- starting and removing ---------------------------------------------------------------------------------------

    def _start(self, shape: Shape) -> Container:
        user, name = self._users.take(), self._owner.name()
        with self._changed:
            self._in_use.add(name)
        try:
            labels = self._owner.labels(self._age_s + _SLACK_S)
            return Container.start(self.engine, name, self._image_id, shape, user, labels)
        except EngineGone:
            with self._changed:  # who has not answered may have done it, or may do it yet
                self._to_remove[name] = _Stuck(user)
                self._sweep_s = 0.0
                self._changed.notify()
            raise
        except BaseException:
            self._remove(name, user)
            raise

    def _discard(self, container: Container) -> None:
        container.close()
        self._removers.submit(self._remove, container.name, container.user)

    def _remove(self, name: str, user: int) -> None:
        gone = self.engine.remove(name)
        with self._changed:
            before = self._to_remove.pop(name, _Stuck(user))
            if gone:
                self._in_use.discard(name)
            else:
                wait_s = min(2 * before.wait_s or RETRY_AFTER_S, REMOVE_AFTER_MAX_S)
                self._to_remove[name] = _Stuck(user, self._now_s() + wait_s, wait_s)
                self._changed.notify()
        if gone:
            self._users.give_back(user)
            if before.wait_s:
                _log.info("The container %s has been removed at last.", name)
        elif not before.wait_s:  # said once
            _log.warning(
                "The container %s could not be removed yet; it is tried again, every %g s in the end. "
                "See `docker rm -f %s` for the engine's reason.",
                name,
                REMOVE_AFTER_MAX_S,
                name,
            )

    # --- in the background -------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Replace what was used, what has died and what is too old, and sweep, until the pool is closed."""
        is_told = False
        while True:
            with self._changed:
                if self._closed:
                    return
                wait_s = self.next_s() - self._now_s()
                if wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
            try:
                self.put_right()
                is_told = False
            except Exception as error:  # noqa: BLE001 - whatever it was: without this thread no container is ever made ready again
                if not is_told:
                    ours = isinstance(error, SandboxError)
                    _log.log(
                        logging.WARNING if ours else logging.ERROR,
                        "The pool of containers cannot be kept full for now: %s",
                        error if ours else repr(error),
                        exc_info=None if ours else error,
                    )
                is_told = True
                self._pause()

    def next_s(self) -> float:
        """When there is something to do, by the pool's clock."""
        if len(self._spare) < self._spare_max:
            return 0.0
        return min(
            [
                self._sweep_s,
                *(container.since_s + self._age_s for container in self._spare),
                *(stuck.again_s for stuck in self._to_remove.values()),
            ]
        )

    def _pause(self) -> None:
        until_s = time.monotonic() + RETRY_AFTER_S
        with self._changed:
            while not self._closed and (left_s := until_s - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def put_right(self) -> None:
        """Do what there is to do now.

        Raises:
            SandboxError: The engine could not do it.
        """
        now_s = self._now_s()
        with self._changed:
            worn = [spare for spare in self._spare if now_s >= spare.since_s + self._age_s or not spare.waits()]
            self._spare = [spare for spare in self._spare if spare not in worn]
            to_remove = {name: stuck.user for name, stuck in self._to_remove.items() if now_s >= stuck.again_s}
        for container in worn:
            self._discard(container)
        if to_remove:
            self.engine.ping()  # where it does not answer, one deadline is enough
        for name, user in to_remove.items():
            self._remove(name, user)
        if now_s >= self._sweep_s:
            self.sweep()
            self._sweep_s = now_s + SWEEP_EVERY_S
        with self._changed:
            missing = self._spare_max - len(self._spare)
        if missing > 0 and not self._closed:
            container = self._start(self._usual)
            with self._changed:
                if not self._closed:
                    container.since_s = self._now_s()
                    self._spare.append(container)
                    return
            self._discard(container)

    def sweep(self) -> int:
        """Remove leftovers of executors that are dead, and what a call to the engine has left behind; return how many.

        Raises:
            EngineGone: It does not answer.
        """
        with self._changed:
            in_use = set(self._in_use)
        return self._owner.sweep(self.engine, in_use)

    def close(self) -> None:
        """Remove everything, as far as the engine does it in time: what is left ends by itself, and is swept later."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            spare, self._spare = self._spare, []
        for container in spare:
            container.close()
        if self._keeper.ident is not None:
            self._keeper.join()
        try:
            self.engine.ping()
        except SandboxError as error:
            _log.warning("Containers may be left until the next start: %s", error)
            self._removers.shutdown(wait=True)
        else:
            users = {container.name: container.user for container in spare}
            users |= {name: stuck.user for name, stuck in self._to_remove.items()}
            list(self._removers.map(self._remove, users.keys(), users.values()))
            self._removers.shutdown(wait=True)
            with suppress(SandboxError):  # the next start sweeps, too
                self._owner.sweep(self.engine, ())
