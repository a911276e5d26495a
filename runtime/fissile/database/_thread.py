"""One piece of blocking work in a worker thread, that can be stopped from outside and is never left alone.

`anyio.to_thread` offers to wait for a thread, deaf to cancellation, or to abandon it. A statement needs a third way: when the caller is
cancelled the statement is interrupted, and the caller waits until the thread has let go of the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from threading import Lock
from typing import Generic, TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter, get_cancelled_exc_class

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
    """Worker threads under a limit of their own.

    Args:
        count: How many jobs run at a time.
    """

    def __init__(self, count: int) -> None:
        self._limiter = CapacityLimiter(count)
        self._stoppers = CapacityLimiter(
            inf
        )  # a job that is to be stopped holds a thread already: no limit may stand in the way
        self._cancelled = get_cancelled_exc_class()

    async def run(self, job: Job[T]) -> T:
        """Run a job; when the caller is cancelled, interrupt it and wait for its end.

        The cancellation always goes on, also when the work was done just before it: as with every call, the caller does not learn whether
        it has happened.
        """
        try:
            return await anyio.to_thread.run_sync(job.work, abandon_on_cancel=True, limiter=self._limiter)
        except self._cancelled:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(job.stop, limiter=self._stoppers)
            raise

    async def finish(self, job: Job[T]) -> T:
        """Run a job that is not to be interrupted once it has begun; a cancellation waits for its end."""
        shield = anyio.CancelScope(shield=True)
        try:
            # A thread that was begun with `abandon_on_cancel=False` would be abandoned all the same by a native cancellation of asyncio's,
            # which no scope holds off.
            with shield:
                return await anyio.to_thread.run_sync(job.work, abandon_on_cancel=True, limiter=self._limiter)
            raise AssertionError("nothing cancels the shield")
        except self._cancelled:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(job.stop, limiter=self._stoppers)
            raise
