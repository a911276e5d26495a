"""The workers of a consumer: a pool that grows while there is work for it, each with one cancel scope for all that it handles.

A task and a scope per message would cost 25 µs. A worker keeps its scope across messages and makes a new one only when it was cancelled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import anyio
import anyio.abc

from fissile._delivery.lifecycle import Delivery, State
from fissile._parking import Parked, parking


class Workers:
    """Handles deliveries, so many at a time.

    Args:
        limit: How many at a time.
        handle: Handles one; called in the task of a worker, inside its scope.
    """

    def __init__(self, limit: int, handle: Callable[[Delivery], Awaitable[None]]) -> None:
        self._limit = limit
        self._handle = handle
        self._ready: deque[Delivery] = deque()
        self._idle: list[Parked] = []
        self._count = 0
        self._tasks: anyio.abc.TaskGroup | None = None
        self._new_parked = parking()

    def start(self, tasks: anyio.abc.TaskGroup) -> None:
        """Begin anew, with no workers and nothing to do; they live in this task group."""
        self._tasks = tasks
        self._ready.clear()
        self._idle.clear()
        self._count = 0

    def offer(self, delivery: Delivery) -> None:
        """Have a delivery handled as soon as a worker is free."""
        self._ready.append(delivery)
        if self._idle:
            self._idle.pop().set(None)
        elif self._count < self._limit and self._tasks is not None:
            self._count += 1
            self._tasks.start_soon(self._work)

    @property
    def has_work(self) -> bool:
        """Whether something waits for a worker."""
        return any(delivery.state is State.READY for delivery in self._ready)

    async def _work(self) -> None:
        while True:
            with anyio.CancelScope() as scope:
                while not scope.cancel_called:
                    delivery = await self._next()
                    delivery.scope = scope
                    try:
                        await self._handle(delivery)
                    finally:
                        delivery.scope = None

    async def _next(self) -> Delivery:
        while True:
            while self._ready:
                delivery = self._ready.popleft()
                if delivery.state is State.READY:
                    return delivery
            parked = self._new_parked()
            self._idle.append(parked)
            await parked.wait()
