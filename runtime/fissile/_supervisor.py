"""Owns every task of a process. A task that fails is reported, and started again with backoff; readiness says so meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from fissile._clock import Environment
from fissile._errors import Unavailable
from fissile._handler import only_leaf
from fissile._retry import Retry

_logger = logging.getLogger("fissile.supervisor")

_RESTART = Retry(attempts=2**31, first_s=0.1, longest_s=30.0)
_AWAY = Retry(attempts=2**31, first_s=0.1, longest_s=2.0)
"""What cannot be reached is tried again soon: when it is back, nobody should sit out a pause that its absence has made long."""
_TOLD_EVERY_S = 30.0
"""How often it is told of a task that something it needs is away, in seconds."""
_STEADY_S = 60.0
"""A task that ran so long starts again without a pause, in seconds."""


class Supervisor(msgspec.Struct, eq=False):
    """Runs named tasks and knows how they are.

    Attributes:
        problems: What is wrong, by the name of the task.
        failures: The last error, by the name of the task.
        restarts: How often each task was started again.
        running: The names of the tasks that have not returned.
    """

    environment: Environment
    problems: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    failures: dict[str, BaseException] = msgspec.field(default_factory=dict[str, BaseException])
    restarts: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    running: set[str] = msgspec.field(default_factory=set[str])
    _told_at: dict[str, float] = msgspec.field(default_factory=dict[str, float])

    async def keep(self, name: str, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a function until it returns; start it again when it raises.

        Args:
            name: What people call the task.
            function: The task.
        """
        self.running.add(name)
        try:
            await self._keep(name, function)
        finally:
            self.running.discard(name)

    async def _keep(self, name: str, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        failures = 0
        while True:
            began = self.environment.clock.monotonic()
            try:
                await function()
            except (Exception, BaseExceptionGroup) as error:
                if isinstance(error, BaseExceptionGroup) and error.split(Exception)[1] is not None:
                    raise  # somebody is being cancelled in there
                failures = 1 if self.environment.clock.monotonic() - began > _STEADY_S else failures + 1
                leaf = only_leaf(error)
                policy = _AWAY if isinstance(leaf, Unavailable) else _RESTART
                pause_s = policy.pause_s(failures, self.environment.random)
                self.failures[name] = leaf
                self.problems[name] = f"{type(leaf).__name__}: {leaf}"
                self.restarts[name] = self.restarts.get(name, 0) + 1
                self._tell(name, leaf, error, pause_s)
                await self.environment.clock.sleep(pause_s)
            else:
                self.problems.pop(name, None)
                return

    def _tell(self, name: str, leaf: BaseException, error: BaseException, pause_s: float) -> None:
        if not isinstance(leaf, Unavailable):
            _logger.error("%s failed; it starts again in %.2g s", name, pause_s, exc_info=error)
            return
        # Where it was raised says nothing, and it comes every other second for as long as a broker is away.
        now = self.environment.clock.monotonic()
        if now - self._told_at.get(name, -_TOLD_EVERY_S) >= _TOLD_EVERY_S:
            self._told_at[name] = now
            _logger.error("%s failed; it is tried again until that is over: %s", name, leaf)

    def recovered(self, name: str) -> None:
        """Note that a task is well again."""
        self.problems.pop(name, None)
