"""Deadlines by the thousand: a wheel of 50 ms, and one task that turns it.

A timer or a scope for each would cost more than the call that it bounds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import anyio

T = TypeVar("T")

SWEEP_S = 0.05


class Sweeper(Generic[T]):
    """Calls a function for each thing whose deadline has passed, up to 50 ms late.

    Args:
        expire: Takes a thing whose deadline has passed and which was not discarded before.
    """

    def __init__(self, expire: Callable[[T], None]) -> None:
        self._expire = expire
        self._buckets: dict[int, dict[T, None]] = {}

    def add(self, deadline: float, thing: T) -> None:
        """Note a deadline, on the event loop's clock in seconds."""
        number = int(deadline / SWEEP_S) + 1
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = {}
        bucket[thing] = None

    def discard(self, deadline: float, thing: T) -> None:
        """Forget a thing that is done: at thousands a second, what waits for a deadline in half a minute is a heap of its own."""
        bucket = self._buckets.get(int(deadline / SWEEP_S) + 1)
        if bucket is not None:
            bucket.pop(thing, None)

    async def run(self) -> None:
        """Turn the wheel until cancelled."""
        last = int(anyio.current_time() / SWEEP_S) - 1
        while True:
            now = int(anyio.current_time() / SWEEP_S)
            for number in range(last + 1, now + 1):
                for thing in self._buckets.pop(number, ()):
                    self._expire(thing)
            last = now
            await anyio.sleep(SWEEP_S)
