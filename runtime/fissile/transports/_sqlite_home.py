"""The way from the transport's threads to the runtime's event loop ("home"): one queue, and one wake-up per burst."""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVarTuple

import sniffio

from fissile._parking import parking

Arguments = TypeVarTuple("Arguments")
Call = tuple[Callable[..., object], tuple[Any, ...]]  # Any: a function and its arguments, whatever they are


class Home:
    """Made at home; threads call `call`."""

    def __init__(self) -> None:
        self._queue: deque[Call] = deque()
        self._is_armed = False
        self.park = parking()
        self._wake, self._gone = self._waker()

    def _waker(self) -> tuple[Callable[[], object], type[Exception]]:
        if sniffio.current_async_library() == "trio":
            import trio

            token = trio.lowlevel.current_trio_token()
            return lambda: token.run_sync_soon(self._drain), trio.RunFinishedError
        import asyncio

        loop = asyncio.get_running_loop()
        # That of who opens the transport: AnyIO finds in it which event loop runs, which no task tells where there is none.
        context = contextvars.copy_context()
        return lambda: loop.call_soon_threadsafe(self._drain, context=context), RuntimeError

    def call(self, function: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
        """From a thread: call a function at home. It must not raise. Nothing happens if the event loop has ended."""
        self._queue.append((function, arguments))
        if not self._is_armed:
            self._is_armed = True
            with suppress(self._gone):
                self._wake()

    def _drain(self) -> None:
        self._is_armed = False  # before the queue is emptied: one wake-up too many, and never one too few
        while self._queue:
            function, arguments = self._queue.popleft()
            function(*arguments)
