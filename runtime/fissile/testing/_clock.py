"""A clock that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel
from attrs import define, field

PATIENCE_S = 10.0
"""How long a test waits for somebody to sleep, in seconds of real time."""


@define(eq=False)
class _Sleeper:
    until: float
    woken: anyio.Event = field(factory=anyio.Event)


class ManualClock:
    """A `fissile.Clock` that stands still until `advance` moves it.

    Retries, retention, commits and timestamps run on it. Deadlines do not: they belong to the event loop.

    Args:
        start: What time of day it is at first.

    Attributes:
        pauses: Every pause that was asked for so far, in seconds, in order.
    """

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.pauses: list[float] = []
        self._start = start
        self._elapsed_s = 0.0
        self._sleepers: list[_Sleeper] = []
        self._changed = anyio.Event()

    def now(self) -> datetime:
        """Return the time of day, in UTC."""
        return self._start + timedelta(seconds=self._elapsed_s)

    def monotonic(self) -> float:
        """Return for how many seconds it was moved in all."""
        return self._elapsed_s

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock was moved by the given number of seconds."""
        self.pauses.append(seconds)
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        sleeper = _Sleeper(self._elapsed_s + seconds)
        self._sleepers.append(sleeper)
        self._changed.set()
        self._changed = anyio.Event()
        try:
            await sleeper.woken.wait()
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)

    def advance(self, seconds: float) -> None:
        """Move the clock, and wake who has slept long enough, the first due first. They run when the caller next waits.

        Args:
            seconds: By how much.
        """
        self._elapsed_s += seconds
        due = sorted((each for each in self._sleepers if each.until <= self._elapsed_s), key=lambda each: each.until)
        for sleeper in due:
            self._sleepers.remove(sleeper)
            sleeper.woken.set()

    @property
    def sleeping(self) -> tuple[float, ...]:
        """For how many more seconds each sleeper sleeps, the first to wake first."""
        return tuple(sorted(sleeper.until - self._elapsed_s for sleeper in self._sleepers))

    async def wait_sleeping(self, *, at_most_s: float, count: int = 1) -> float:
        """Wait until somebody sleeps, and return for how many more seconds the first of them does.

        Args:
            at_most_s: Count only who wakes within so many seconds: a test that waits for a retry passes over a commit in an hour.
            count: How many sleepers to wait for.

        Raises:
            TimeoutError: Nobody did, within ten seconds of real time.
        """
        with anyio.move_on_after(PATIENCE_S):
            while True:
                short = [pause for pause in self.sleeping if pause <= at_most_s]
                if len(short) >= count:
                    return short[0]
                await self._changed.wait()
        raise TimeoutError(
            f"Waited {PATIENCE_S:g} s in vain until {count} sleep for at most {at_most_s:g} s; there are {self.sleeping}."
        )

    def __repr__(self) -> str:
        return f"<ManualClock {self.now().isoformat()}: {len(self._sleepers)} sleep>"
