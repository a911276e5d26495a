"""Blocking work in a worker thread that a cancellation ends from inside: nothing is abandoned, nothing is left."""

import os
from collections.abc import Callable

import anyio
import anyio.lowlevel
from anyio import from_thread, to_thread

from ._base import OnOutput
from ._model import Outcome, Result, SandboxError, Stream
from ._supervise import Ending


async def run_poked(work: Callable[[int], Ending], limiter: anyio.CapacityLimiter) -> Ending:
    """Do blocking work that watches a descriptor, and make that readable when this task is cancelled.

    Args:
        work: Called in a worker thread with the descriptor; must end soon, and clean up, when it is readable.
        limiter: Counts the threads.
    """
    poke = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def guarded() -> Ending | BaseException:
        try:
            return work(poke)
        except BaseException as error:  # noqa: BLE001 - raised below, where no task group wraps it
            return error

    ending: Ending | BaseException = SandboxError("The run was cut off.")
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_poke_when_cancelled, poke)
            ending = await to_thread.run_sync(guarded, limiter=limiter)
            group.cancel_scope.cancel()
    finally:
        os.close(poke)
    if isinstance(ending, BaseException):
        raise ending
    if ending.outcome is None:
        await anyio.lowlevel.checkpoint()  # raises: it is the cancellation that has poked
        raise SandboxError("The run was cut off, and nobody had cancelled it.")
    return ending


async def _poke_when_cancelled(poke: int) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        os.eventfd_write(poke, 1)


def call_in_loop(on_output: OnOutput, stream: Stream, text: str) -> None:
    """Call a listener in the event loop that the worker thread belongs to, and wait for it."""
    from_thread.run_sync(on_output, stream, text)


def result_of(ending: Ending, level: str) -> Result:
    """Turn what the worker thread has seen into what the caller learns."""
    status = ending.status
    assert ending.outcome is not None
    by_itself = status is not None and ending.outcome in (Outcome.FINISHED, Outcome.COMPILE_ERROR)
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
    )
