"""How many requests are in progress, who waits for a place, and when it is no use to wait.

A queue that only grows answers everybody late. So there are two signs of too much work, and one measure of what is too much:

* a `Gate` is a bound of requests in progress, with a short line before it;
* `Arrivals` are requests that were read and not begun yet: where handlers use the processor, that line is the event loop's own, and
  no count of requests in progress shows it;
* `Patience` is how long a request may wait in either: a tenth of a second in a burst, a tenth of that where bursts do not end (as CoDel has
  it). Who would have to wait longer is answered at once, which is what keeps the line short for the others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import anyio

SHORTEST = 0.1
"""The share of a burst's patience that is left when bursts do not end."""

_INTERVAL_S = 0.1
_WEIGHT = 0.2
_READY_MAX = 8

Clock = Callable[[], float]


class Patience:
    """How long a request may wait for its turn.

    It is halved in each tenth of a second in which a request was refused, and grows back where none was.

    Args:
        longest_s: How long a request may wait in a burst, in seconds.
        clock: Returns seconds.
    """

    def __init__(self, longest_s: float, clock: Clock) -> None:
        self.longest_s = longest_s
        self._step_s = longest_s * SHORTEST
        self._allowed_s = longest_s
        self._changed_at = 0.0
        self._clock = clock

    def refused(self) -> None:
        """Note that a request was refused."""
        now = self._clock()
        if self._allowed_s == self.longest_s or now - self._changed_at >= _INTERVAL_S:
            self._allowed_s = max(self._step_s, self._allowed_s / 2)
            self._changed_at = now

    def allowed_s(self) -> float:
        """Return how long a request may wait that comes now, in seconds."""
        if self._allowed_s < self.longest_s:
            now = self._clock()
            if now - self._changed_at >= 2 * _INTERVAL_S:  # a tenth of a second without any that was refused
                self._allowed_s = min(self.longest_s, self._allowed_s + self._step_s)
                self._changed_at = now - _INTERVAL_S
        return self._allowed_s


class Gate:
    """A bound of requests in progress, and the line of those that wait for a place.

    Attributes:
        name: What it bounds, as a refusal tells it.
        limit: How many there may be.
        running: How many there are.
        coming: How many were let in and will ask for a place, in the event loop's next turns.
        refused: How many were refused.

    Args:
        name: The same.
        limit: The same.
        waiting: How many may wait.
        patience: How long.
        clock: Returns seconds.
    """

    def __init__(self, name: str, limit: int, waiting: int, patience: Patience, clock: Clock) -> None:
        self.name = name
        self.limit = limit
        self.running = 0
        self.coming = 0
        self.refused = 0
        self._waiting_limit = waiting
        self._patience = patience
        self._clock = clock
        self._line: deque[anyio.Event] = deque()
        # A few may wait whatever the estimate is, so that a place that becomes free is taken in the same turn of the event loop.
        self._ready = min(_READY_MAX, max(1, limit // 8))
        self._between_s = 0.0  # between two requests that end while others wait
        self._left_at: float | None = None  # while any wait

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    def is_hopeless(self) -> bool:
        """Tell whether a request that comes now would wait in vain."""
        ahead = self.running + self.coming - self.limit
        if ahead < 0:
            return False
        waiting = len(self._line) + min(ahead, self.coming)
        if waiting < self._ready:
            return waiting >= self._waiting_limit
        if waiting >= self._waiting_limit:
            return True
        # Places that were given up lately tell when the next one is; where none was for a while, that is the better estimate.
        since_s = 0.0 if self._left_at is None else self._clock() - self._left_at
        return (waiting + 1) * max(self._between_s, since_s) > self._patience.allowed_s()

    async def enter(self) -> bool:
        """Take a place, or wait for one; return False where there is none in time."""
        if self.running < self.limit:
            self.running += 1
            return True
        if self.is_hopeless() or not await self._wait():
            self.refuse()
            return False
        return True

    def refuse(self) -> None:
        """Count a request that was refused."""
        self.refused += 1
        self._patience.refused()

    def leave(self) -> None:
        """Give a place back: to the first in line, if there is one."""
        if not self._line:
            self.running -= 1
            self._left_at = None
            return
        now = self._clock()
        if self._left_at is not None:
            self._between_s += _WEIGHT * (now - self._left_at - self._between_s)
        self._left_at = now
        self._line.popleft().set()

    async def _wait(self) -> bool:
        granted = anyio.Event()
        self._line.append(granted)
        if self._left_at is None:
            self._left_at = self._clock()
        try:
            with anyio.move_on_after(self._patience.longest_s):
                await granted.wait()
        except BaseException:
            if granted.is_set():
                self.leave()  # it was handed over at the moment of the cancellation
            else:
                self._line.remove(granted)
            raise
        if not granted.is_set():
            self._line.remove(granted)
        return granted.is_set()


Ticket = tuple[float, int, tuple[Gate, ...]]
"""Of a request that was let in: when, how many were ahead with it, and where it will ask for a place."""


class Arrivals:
    """Requests that were read and not begun yet: how much of the processor's time will those take that are ahead?

    Time is the processor's, in this thread. By the clock on the wall, a request would wait as well where the machine is busy with other
    processes, and refusing it would help nobody.

    Attributes:
        pending: How many there are.

    Args:
        patience: How long they may wait.
        processor_time: Returns seconds.
    """

    def __init__(self, patience: Patience, processor_time: Clock) -> None:
        self.pending = 0
        self._patience = patience
        self._clock = processor_time
        self._cost_s = 0.0  # of each that is ahead

    def arrived(self, gates: tuple[Gate, ...]) -> Ticket:
        """Note a request; return what `started` or `forget` want to know of it.

        Args:
            gates: Where it will ask for a place.
        """
        self.pending += 1
        for gate in gates:
            gate.coming += 1
        return self._clock(), self.pending, gates

    def started(self, ticket: Ticket) -> float:
        """Note that a request begins; return how long it waited behind others, in seconds of the processor's time.

        One that was alone has waited for something else, such as an event that goes to many streams: its refusal would help nobody.
        """
        self.forget(ticket)
        arrived_at, ahead, _ = ticket
        waited_s = self._clock() - arrived_at
        self._cost_s += _WEIGHT * (waited_s / ahead - self._cost_s)
        return waited_s if ahead > 1 else 0.0

    def forget(self, ticket: Ticket) -> None:
        """Note that a request will not begin any more."""
        self.pending -= 1
        for gate in ticket[2]:
            gate.coming -= 1

    def is_hopeless(self) -> bool:
        """Tell whether a request that comes now would wait for too long."""
        wait_s = self.pending * self._cost_s
        return wait_s > self._patience.longest_s * SHORTEST and wait_s > self._patience.allowed_s()
