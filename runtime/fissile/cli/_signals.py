"""Ctrl-C and SIGTERM: once drains, twice stops at once, in one place.

The handlers are plain ones, not the event loop's: those would wait for a loop that is blocked by a handler, and the second Ctrl-C is for
exactly that case. If the process is still there two seconds after it, it is ended from a thread.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from time import monotonic
from types import FrameType, TracebackType
from typing import Any, Self

from fissile.cli._exit import Exit

_END_S = 2.0
_ECHO_S, _ECHO_AT_ONCE_S = 0.1, 0.005
"""Wrappers such as `timeout` deliver one signal twice. What comes this soon before the first was announced, or at once after it, is no
second one: no hand is so quick."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Counts the signals that ask to stop, and passes them to the event loop.

    Use it as a context manager, in the main thread. As long as nobody listens, the first signal raises `KeyboardInterrupt`, because
    there is nothing to drain.
    """

    def __init__(self) -> None:
        self.count = 0
        self._tell: Callable[[int], None] | None = None
        self._last = 0.0
        self._is_announced = False
        self._before: dict[int, Any] = {}  # Any: what signal.signal returns

    @property
    def is_forced(self) -> bool:
        """Whether the process was told to stop at once."""
        return self.count > 1

    def __enter__(self) -> Self:
        """Take the signals."""
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def listening(self, tell: Callable[[int], None]) -> Generator[None]:
        """Pass signals on to the running event loop.

        Args:
            tell: Called in the event loop with the number of signals so far.
        """
        post = _loop_poster()

        def announce(count: int) -> None:
            self._is_announced = True
            tell(count)

        self._tell = lambda count: post(announce, count)
        try:
            yield
        finally:
            self._tell = None

    def ignore(self) -> None:
        """Pass over all signals from now on: the process ends anyway."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        now = monotonic()
        if self.count and now - self._last < (_ECHO_AT_ONCE_S if self._is_announced else _ECHO_S):
            return
        self._last, self._is_announced = now, False
        self.count += 1
        if self.count > 2:
            _end_now()
        if self.count == 2:
            watchdog = threading.Timer(_END_S, _end_now)
            watchdog.daemon = True
            watchdog.start()
        if self._tell is not None:
            self._tell(self.count)
        elif self.count == 1:
            raise KeyboardInterrupt


def _end_now() -> None:
    sys.stderr.flush()
    os._exit(Exit.INTERRUPTED)


def _loop_poster() -> Callable[[Callable[[int], None], int], None]:
    """Return what runs a function soon in the running event loop; it may be called from a signal handler."""
    import sniffio

    if sniffio.current_async_library() == "trio":
        import trio

        token = trio.lowlevel.current_trio_token()
        return lambda function, count: token.run_sync_soon(function, count)
    import asyncio

    loop = asyncio.get_running_loop()
    return lambda function, count: _quietly(loop, function, count)


def _quietly(loop: Any, function: Callable[[int], None], count: int) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, count)
