"""Time, ids and randomness come from the runtime, so that a test can own them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random, SystemRandom
from typing import Protocol

import anyio
from attrs import field, frozen


class Clock(Protocol):
    """What the runtime and its modules know of time."""

    def now(self) -> datetime:
        """Return the time of day, in UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go backwards, from an arbitrary start."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for the given number of seconds."""
        ...


class SystemClock:
    """The clock of the machine."""

    def now(self) -> datetime:
        """Return the time of day, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds of the operating system's monotonic clock."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for the given number of seconds."""
        await anyio.sleep(seconds)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def milliseconds_of(clock: Clock) -> Callable[[], int]:
    """Return what tells a clock's time of day in milliseconds since 1970; of the machine's clock without a `datetime` in between."""
    if type(clock) is SystemClock:
        return lambda: time.time_ns() // 1_000_000
    return lambda: (clock.now() - _EPOCH) // _MILLISECOND


class Ids:
    """Makes ids: a prefix that no other process has, and a counter. (A UUID of version 4 costs ten times as much.)

    Args:
        prefix: The prefix; made of 60 random bits unless told.
    """

    def __init__(self, prefix: str | None = None) -> None:
        self.prefix = f"{SystemRandom().getrandbits(60):015x}" if prefix is None else prefix
        self._next = itertools.count(1).__next__

    def new(self) -> str:
        """Return an id that was not given out before."""
        return f"{self.prefix}-{self._next():x}"


@frozen
class Environment:
    """Where the runtime takes time, ids and randomness from.

    Attributes:
        clock: For retries, retention and timestamps; deadlines run on the event loop's own clock.
        ids: For messages.
        random: For jitter.
    """

    clock: Clock = field(factory=SystemClock)
    ids: Ids = field(factory=Ids)
    random: Random = field(factory=Random)
