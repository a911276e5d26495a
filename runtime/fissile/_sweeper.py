"""Deadlines by the thousand: one task that looks after all of them, to 50 ms.

A timer or a scope for each would cost more than the call that it bounds; so would an entry in a wheel, since hardly a deadline ever comes.
What waits is in a table anyway. It is looked through only when the earliest deadline that was noted may have come.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import anyio

SWEEP_S = 0.05


class Sweeper:
    """Has what waits looked through when a deadline may have passed, up to 50 ms late.

    Args:
        expire: Takes the time, on the event loop's clock in seconds; ends what has a deadline up to then, and returns the earliest of the
            deadlines that are left, or infinity.
    """

    def __init__(self, expire: Callable[[float], float]) -> None:
        self._expire = expire
        self._earliest = inf

    def note(self, deadline: float) -> None:
        """Note a deadline, on the event loop's clock in seconds. Whether what it bounds still waits then, `expire` sees."""
        if deadline < self._earliest:
            self._earliest = deadline

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            now = anyio.current_time()
            if self._earliest <= now:
                self._earliest = inf
                self._earliest = self._expire(now)
            await anyio.sleep(SWEEP_S)
