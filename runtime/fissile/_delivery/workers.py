"""The workers of a consumer: a pool that grows while there is work for it, each with one cancel scope for all that it handles.

A task and a scope per message would cost 25 µs. A worker keeps its scope across messages and makes a new one only when it was cancelled. As long
as no handler suspends, one worker handles them all, without a turn of the event loop in between; when one does, two more are woken, so that
a hundred which suspend all have a worker after seven turns, and a hundred which do not wake nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any

import anyio
import anyio.abc

from fissile._delivery.lifecycle import Delivery, State
from fissile._isolation import drive
from fissile._parking import Parked, parking
from fissile._sweeper import Sweeper


class Workers:
    """Handles deliveries, so many at a time, and stops those whose deadline has passed.

    Args:
        limit: How many at a time.
        handle: Handles one; called in the task of a worker, inside its scope. Any: a coroutine's other two types, which nobody uses.

    Attributes:
        sweeper: What looks after deadlines.
    """

    def __init__(self, limit: int, handle: Callable[[Delivery], Coroutine[Any, Any, None]]) -> None:
        self._limit = limit
        self._handle = handle
        self._ready: deque[Delivery] = deque()
        self._idle: list[Parked] = []
        self._count = 0
        self._waking = 0
        self._is_busy = False
        self._suspended: set[Delivery] = set()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._new_parked = parking()
        self.sweeper = Sweeper(self._expire)

    def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Begin anew, with no workers and nothing to do; they live in this task group."""
        self._tasks = tasks
        self._ready.clear()
        self._idle.clear()
        self._suspended.clear()
        self._count = self._waking = 0
        self._is_busy = False

    def offer(self, delivery: Delivery) -> None:
        """Have a delivery handled as soon as a worker is free."""
        self._ready.append(delivery)
        if not self._waking and not self._is_busy:
            self._wake()

    def _wake(self) -> None:
        if self._idle:
            self._waking += 1
            self._idle.pop().set(None)
        elif self._count < self._limit and self._tasks is not None:
            self._waking += 1
            self._count += 1
            self._tasks.start_soon(self._work)

    @property
    def has_work(self) -> bool:
        """Whether something waits for a worker."""
        return any(delivery.state is State.READY for delivery in self._ready)

    async def _work(self) -> None:
        self._waking -= 1
        ready, handle = self._ready, self._handle
        while True:
            with anyio.CancelScope() as scope:
                self._is_busy = True  # until something is awaited: this worker takes what is offered meanwhile
                while not scope.cancel_called:
                    while ready:
                        delivery = ready.popleft()
                        if delivery.state is not State.READY:
                            continue
                        handling = handle(delivery)
                        try:
                            yielded = handling.send(None)
                        except StopIteration:
                            continue  # it did not suspend: nobody could have stopped it
                        await self._go_on(delivery, scope, handling, yielded)
                        break
                    else:
                        await self._rest()

    async def _rest(self) -> None:
        """Wait until there may be something to do."""
        self._is_busy = False
        parked = self._new_parked()
        self._idle.append(parked)
        await parked.wait()
        self._waking -= 1
        self._is_busy = True

    # Any: what a coroutine yields is between it and the event loop.
    async def _go_on(
        self, delivery: Delivery, scope: anyio.CancelScope, handling: Coroutine[Any, Any, None], yielded: Any
    ) -> None:
        """Go on with what has suspended, so that it can be stopped; others do what is left meanwhile."""
        delivery.scope = scope
        if delivery.deadline != inf:
            self._suspended.add(delivery)
            self.sweeper.note(delivery.deadline)
        self._is_busy = False
        for _ in range(2):
            if len(self._ready) > self._waking:
                self._wake()
        try:
            await drive(_call, handling, yielded)
        finally:
            self._is_busy = True
            self._suspended.discard(delivery)
            delivery.scope = None

    def _expire(self, now: float) -> float:
        earliest = inf
        for delivery in tuple(self._suspended):
            if delivery.deadline <= now:
                delivery.give_up()
            else:
                earliest = min(earliest, delivery.deadline)
        return earliest


def _call(function: Callable[[Any], Any], argument: Any) -> Any:  # Any: as above
    return function(argument)
