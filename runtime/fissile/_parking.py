"""What AnyIO has no cheap word for: wait for one value, and call a function soon, in no task.

An `anyio.Event` costs 5 to 8 µs per use and a task 15; a future of the event loop's own costs 2. A process that waits for thousands of
replies at a time has one of these per reply.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVarTuple

import sniffio

if TYPE_CHECKING:
    import asyncio

    import trio

Arguments = TypeVarTuple("Arguments")


class Parked(Protocol):
    """One task that waits for one value. Any: the value is whatever the two sides have agreed on."""

    def set(self, value: Any) -> None:
        """Hand over the value and wake the task; does nothing the second time."""
        ...

    def wait(self) -> Awaitable[Any]:
        """Wait for the value."""
        ...


class _AsyncioParked:
    __slots__ = ("_future",)

    def __init__(self, create_future: Callable[[], asyncio.Future[Any]]) -> None:
        self._future = create_future()

    def set(self, value: Any) -> None:
        if not self._future.done():
            self._future.set_result(value)

    def wait(self) -> Awaitable[Any]:
        return self._future  # not a coroutine around it: there is one of these per call


class _TrioParked:
    __slots__ = ("_is_set", "_lowlevel", "_task", "_value")

    def __init__(self, lowlevel: Any) -> None:  # Any: the module trio.lowlevel, imported where Trio runs
        self._lowlevel = lowlevel
        self._task: trio.lowlevel.Task | None = None
        self._is_set = False
        self._value: Any = None

    def set(self, value: Any) -> None:
        if self._is_set:
            return
        self._is_set, self._value = True, value
        if self._task is not None:
            task, self._task = self._task, None
            self._lowlevel.reschedule(task)

    async def wait(self) -> Any:
        if not self._is_set:
            self._task = self._lowlevel.current_task()
            await self._lowlevel.wait_task_rescheduled(self._abort)
        return self._value

    def _abort(self, _: Callable[[], object]) -> trio.lowlevel.Abort:
        self._task = None
        succeeded: trio.lowlevel.Abort = self._lowlevel.Abort.SUCCEEDED
        return succeeded


def parking() -> Callable[[], Parked]:
    """Return what makes a `Parked` of the running event loop."""
    if sniffio.current_async_library() == "trio":
        import trio

        return partial(_TrioParked, trio.lowlevel)
    import asyncio

    # Looked up once: on Python 3.11 asking for the running loop is a system call.
    return partial(_AsyncioParked, asyncio.get_running_loop().create_future)


def loop_time() -> Callable[[], float]:
    """Return the clock of the running event loop, in seconds: what `anyio.current_time` tells, without finding out the loop each time."""
    if sniffio.current_async_library() == "trio":
        import trio

        return trio.current_time
    import asyncio

    return asyncio.get_running_loop().time


def call_soon(function: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
    """Call a function in the next turn of the running event loop. It must not raise."""
    if sniffio.current_async_library() == "trio":
        import trio

        trio.lowlevel.current_trio_token().run_sync_soon(function, *arguments)
    else:
        import asyncio

        asyncio.get_running_loop().call_soon(function, *arguments)


def posting() -> Callable[..., object]:
    """Return what calls a function in the running event loop from another thread; it raises RuntimeError once the loop has ended."""
    if sniffio.current_async_library() == "trio":
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon  # its RunFinishedError is a RuntimeError
    import asyncio

    return asyncio.get_running_loop().call_soon_threadsafe
