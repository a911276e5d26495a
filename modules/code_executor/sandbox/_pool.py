"""A pool of containers: started ahead, each used once, removed and replaced in the background. Thread-safe.

No more than `spare` wait for a program, and no more than twice `at_once` are in use or on their way out: a report need not
wait until its container has been removed, which takes longer than a small program.
"""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from ._container import Container, Shape
from ._engine import DONE_WITHIN_S, Engine
from ._leases import Owner
from ._model import EngineGone, SandboxError
from ._users import Users

_log = logging.getLogger(__name__)

SWEEP_EVERY_S = 60.0
RETRY_AFTER_S = 1.0
_REMOVERS = 2
_SLACK_S = 600.0


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
    ) -> None:
        self.engine = engine
        self._image_id = image_id
        self._usual = usual
        self._spare_max = spare
        self._owner = owner
        self._users = users
        self._age_s = age_s
        self._spare: list[Container] = []
        self._in_use: set[str] = set()
        self._to_remove: dict[str, int] = {}
        self._used = threading.BoundedSemaphore(2 * at_once)
        self._changed = threading.Condition()  # over all of the above; held for moments
        self._closed = False
        self._sweep_s = time.monotonic() + SWEEP_EVERY_S
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
                except EngineGone:
                    self._discard(container)
                    raise
                except SandboxError as error:  # it ended this moment
                    _log.debug("The spare container %s cannot be used: %s", container.name, error)
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
                self._to_remove[name] = user
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
            if gone:
                self._to_remove.pop(name, None)
                self._in_use.discard(name)
            else:
                self._to_remove[name] = user
                self._changed.notify()
        if gone:
            self._users.give_back(user)
        else:
            _log.warning("The container %s could not be removed yet.", name)

    # --- in the background -------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Replace what was used, what has died and what is too old, and sweep, until the pool is closed."""
        is_told = False
        while True:
            with self._changed:
                if self._closed:
                    return
                wait_s = self._next_s() - time.monotonic()
                if wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
            try:
                self._put_right()
                is_told = False
            except SandboxError as error:
                if not is_told:
                    _log.warning("The pool of containers cannot be kept full for now: %s", error)
                is_told = True
                self._pause()

    def _next_s(self) -> float:
        """When there is something to do, by the monotonic clock."""
        if self._to_remove or len(self._spare) < self._spare_max:
            return 0.0
        return min([self._sweep_s, *(container.since_s + self._age_s for container in self._spare)])

    def _pause(self) -> None:
        until_s = time.monotonic() + RETRY_AFTER_S
        with self._changed:
            while not self._closed and (left_s := until_s - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def _put_right(self) -> None:
        now_s = time.monotonic()
        with self._changed:
            worn = [spare for spare in self._spare if now_s >= spare.since_s + self._age_s or not spare.waits()]
            self._spare = [spare for spare in self._spare if spare not in worn]
            to_remove = dict(self._to_remove)
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
            users = {container.name: container.user for container in spare} | self._to_remove
            list(self._removers.map(self._remove, users.keys(), users.values()))
            self._removers.shutdown(wait=True)
            with suppress(SandboxError):  # the next start sweeps, too
                self._owner.sweep(self.engine, ())
