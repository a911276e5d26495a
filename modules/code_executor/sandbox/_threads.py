"""Blocking work in a worker thread that a cancellation ends from inside: nothing is abandoned, nothing is left."""

import os
from collections.abc import Callable

import anyio
import anyio.lowlevel
from anyio import to_thread

from ._model import SandboxError
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
