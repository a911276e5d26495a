"""One piece of blocking work in a worker thread, that can be stopped from outside and is never left alone.

`anyio.to_thread` offers to wait for a thread, deaf to cancellation, or to abandon it. A statement needs a third way: when the caller is
cancelled the statement is interrupted, and the caller waits until the thread has let go of the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from math import inf
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter, get_cancelled_exc_class
from anyio.lowlevel import checkpoint_if_cancelled
from sniffio import current_async_library_cvar

from fissile._parking import Parked, parking, posting

T = TypeVar("T")

WAITING, RUNNING, FINISHING, DONE = range(4)
"""The phases of a job. It may be interrupted while it runs, no more when it finishes (commits, rolls back)."""

_REPEAT_S = 0.05
"""How often an interrupt is repeated, in seconds: a function may have been between two statements when the first one came."""


class Job(Generic[T]):
    """A function to be run in a worker thread.

    Args:
        function: The work. It calls `finishing()` when it must not be interrupted any more.
        interrupt: Stops the statement that the work is executing, from another thread.
    """

    __slots__ = ("_function", "_guard", "_interrupt", "_is_done", "_phase")

    def __init__(self, function: Callable[[Job[T]], T], interrupt: Callable[[], None]) -> None:
        self._function = function
        self._interrupt = interrupt
        self._phase = WAITING
        self._guard = Lock()
        self._is_done = Lock()
        self._is_done.acquire()

    def finishing(self) -> None:
        """Tell, from the work, that it is not to be interrupted from here on; one that is under way has ended then."""
        with self._guard:
            self._phase = FINISHING

    def work(self) -> T:
        """Run the function, in a worker thread; do nothing if the caller has gone before."""
        with self._guard:
            if self._phase != WAITING:
                raise RuntimeError("the job was stopped before it began")  # nobody is there to see it
            self._phase = RUNNING
        try:
            return self._function(self)
        finally:
            with self._guard:
                self._phase = DONE
            self._is_done.release()

    def stop(self) -> None:
        """Make the work end, and wait for that, in another worker thread. What has not begun never will."""
        with self._guard:
            if self._phase == WAITING:
                self._phase = DONE
                return
        wait_s = 0.0
        while not self._is_done.acquire(timeout=wait_s):
            with self._guard:
                if self._phase == RUNNING:
                    self._interrupt()
            wait_s = _REPEAT_S


class Threads:
    """Worker threads of a store's own. A hop to one costs half of a hop through `anyio.to_thread`, and a transaction is two or three.

    Args:
        count: How many jobs run at a time; a thread is started when it is first needed.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads: list[Thread] = []
        self._busy = 0
        self._jobs: SimpleQueue[tuple[Job[Any], Context, Parked] | None] = SimpleQueue()
        self._new_parked = parking()
        self._post = posting()
        self._stoppers = CapacityLimiter(inf)  # a job to be stopped holds a thread already: no limit may be in the way
        self._cancelled = get_cancelled_exc_class()

    async def run(self, job: Job[T]) -> T:
        """Run a job; when the caller is cancelled, interrupt it and wait for its end.

        The cancellation always goes on, also when the work was done just before it: as with every call, the caller does not learn whether
        it has happened.
        """
        try:
            return await self._hand_over(job)
        except self._cancelled:
            await self._stop(job)
            raise

    async def finish(self, job: Job[T]) -> T:
        """Run a job that is not to be interrupted once it has begun; a cancellation waits for its end."""
        try:
            with anyio.CancelScope(shield=True):
                return await self._hand_over(job)
            raise AssertionError("nothing cancels the shield")
        except self._cancelled:  # a native cancellation of asyncio's, which no scope holds off
            await self._stop(job)
            raise

    def close(self) -> None:
        """Let the threads end, and wait for that; no job is under way any more."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    async def _hand_over(self, job: Job[T]) -> T:
        await checkpoint_if_cancelled()
        parked = self._new_parked()
        self._busy += 1
        if self._busy > len(self._threads) < self._count:
            thread = Thread(target=self._work, name="fissile database", daemon=True)
            self._threads.append(thread)
            thread.start()
        context = copy_context()
        context.run(current_async_library_cvar.set, None)  # no event loop runs in a worker thread
        self._jobs.put((job, context, parked))
        succeeded, value = await parked.wait()
        if not succeeded:
            try:
                raise value
            finally:
                del value  # it refers to this frame
        result: T = value
        return result

    def _work(self) -> None:
        while (given := self._jobs.get()) is not None:
            job, context, parked = given
            try:
                outcome = True, context.run(job.work)
            except BaseException as error:  # noqa: BLE001 -- raised in the task that waits
                outcome = False, error
            with suppress(RuntimeError):  # the event loop has ended; nobody waits
                self._post(self._done, parked, outcome)
            del given, job, context, parked, outcome  # nothing is kept until the next job

    def _done(self, parked: Parked, outcome: tuple[bool, Any]) -> None:
        self._busy -= 1
        parked.set(outcome)

    async def _stop(self, job: Job[Any]) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(job.stop, limiter=self._stoppers)
