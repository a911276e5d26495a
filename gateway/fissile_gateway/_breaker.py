"""A circuit breaker per module: a module that does not answer is not called for a while.

Otherwise each request for it would wait for its deadline, and hold a place that others need.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec
from attrs import frozen

State = Literal["closed", "open", "half-open"]


class BreakerPolicy(msgspec.Struct, frozen=True):
    """When a circuit opens, and for how long.

    Attributes:
        failures: After how many failures in a row; 0: never.
        rate: From which share of failures on, among the last calls.
        calls: How many calls that share is of.
        open_s: For how long, in seconds.
        trials: How many calls try afterwards, at a time; so many have to succeed.
    """

    failures: int
    rate: float
    calls: int
    open_s: float
    trials: int


@frozen
class Call:
    """A call to a module that its circuit has let through."""

    _circuit: Breaker
    _begun: int

    def end(self, has_failed: bool | None) -> None:  # noqa: FBT001 -- the outcome, and there is nothing else
        """Tell how it ended.

        Args:
            has_failed: Whether the module failed; None where that cannot be told, because the caller left or the module was not asked.
        """
        self._circuit.end(self._begun, has_failed)


class Breaker:
    """The circuit of one module.

    Attributes:
        module: Its name.
        opened: How often it has opened.

    Args:
        module: The name of the module.
        policy: When it opens.
        clock: Returns seconds.
    """

    def __init__(self, module: str, policy: BreakerPolicy, clock: Callable[[], float]) -> None:
        self.module = module
        self.opened = 0
        self._policy = policy
        self._clock = clock
        self._open_until: float | None = None  # None: closed
        self._round = 0  # changes with each opening and closing
        self._trying = 0
        self._succeeded = 0
        self._in_a_row = 0
        self._last: deque[bool] = deque(maxlen=policy.calls)

    @property
    def state(self) -> State:
        """Whether calls are made: all, none, or a few that try."""
        if self._open_until is None:
            return "closed"
        return "open" if self._clock() < self._open_until else "half-open"

    @property
    def retry_s(self) -> float:
        """In how many seconds a call may be made again."""
        return max(0.0, (self._open_until or 0.0) - self._clock())

    def begin(self) -> Call | None:
        """Return a call that may be made, whose end has to be told; None where none may be made."""
        if self._open_until is None:
            return Call(self, self._round)
        if self._clock() < self._open_until or self._trying + self._succeeded >= self._policy.trials:
            return None
        self._trying += 1
        return Call(self, self._round)

    def end(self, begun: int, has_failed: bool | None) -> None:  # noqa: FBT001 -- the outcome
        """Tell how a call ended; see `Call`."""
        if begun != self._round:
            return  # it was begun before the circuit opened or closed, and says nothing of what the module does since
        if self._open_until is not None:
            self._end_trial(has_failed)
        elif has_failed is not None and self._policy.failures:
            self._in_a_row = self._in_a_row + 1 if has_failed else 0
            self._last.append(has_failed)
            is_full = len(self._last) == self._policy.calls
            if self._in_a_row >= self._policy.failures or (
                has_failed and is_full and sum(self._last) >= self._policy.rate * self._policy.calls
            ):
                self._open()

    def _end_trial(self, has_failed: bool | None) -> None:  # noqa: FBT001
        self._trying -= 1
        if has_failed:
            self._open()
        elif has_failed is False:
            self._succeeded += 1
            if self._succeeded >= self._policy.trials:
                self._round += 1
                self._open_until = None
                self._in_a_row = 0
                self._last.clear()

    def _open(self) -> None:
        self.opened += 1
        self._round += 1
        self._open_until = self._clock() + self._policy.open_s
        self._trying = self._succeeded = 0
