"""How often a client may ask: sliding windows, counted in memory or in a store that replicas share.

In memory, counting takes microseconds. A shared store (`_rates_shared.py`) is asked in worker threads, so that no request waits for another
one's, and where it cannot be reached, each replica counts for itself: a store that is down must not take the gateway with it.
"""

from __future__ import annotations

import logging
import math
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import msgspec

from fissile_gateway._problems import Problem

if TYPE_CHECKING:
    from fissile_gateway._rates_shared import SharedWindows  # it imports `limits`, which takes as long as half of Quart

Fields = tuple[tuple[bytes, bytes], ...]

_TEXT = re.compile(r"([1-9][0-9]*)(?:/| per )(?:([1-9][0-9]*) ?)?(second|minute|hour|day)s?")
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}

STORE_S = 1.0
"""How long the shared store may take to answer, in seconds."""
_AWAY_S = 5.0
"""For how long it is not asked after it did not answer, in seconds."""
_STORE_THREADS = 16

_logger = logging.getLogger("fissile.gateway")


def read_rate(text: str) -> tuple[int, int] | None:
    """Return how many requests in how many seconds a text allows, such as `600/minute` or `10 per 5 seconds`; None where it says neither."""
    found = _TEXT.fullmatch(text)
    return None if found is None else (int(found[1]), int(found[2] or 1) * _SECONDS[found[3]])


class Windows:
    """Sliding windows in memory, of at most so many keys; what was not asked for longest is forgotten first.

    The library's own memory storage has no such bound, starts a thread for what expires, and takes five times as long. The rule is the same.

    Args:
        keys: How many.
        clock: Returns seconds.
    """

    def __init__(self, keys: int, clock: Callable[[], float]) -> None:
        self._keys = keys
        self._clock = clock
        # By the name of the limit, and whose it is: the number of the window, the count before it, the count in it.
        self._windows: OrderedDict[tuple[str, str], list[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def count(self, rate: Rate, key: str, amount: int = 1) -> Verdict:
        """Count, unless that is beyond the limit.

        Args:
            rate: The limit.
            key: Whose.
            amount: How much; 0 looks only.
        """
        length, place = rate.window_s, (rate.name, key)
        number, elapsed = divmod(self._clock(), length)
        window = self._windows.get(place)
        if window is None:
            window = self._windows[place] = [int(number), 0, 0]
            if len(self._windows) > self._keys:
                self._windows.popitem(last=False)
        else:
            self._windows.move_to_end(place)
            if window[0] != number:
                window[1] = window[2] if window[0] == number - 1 else 0
                window[0], window[2] = int(number), 0
        is_allowed = window[1] * (1 - elapsed / length) + window[2] + max(1, amount) <= rate.amount
        if is_allowed:
            window[2] += amount
        return verdict_of(rate, window[1], length - elapsed, window[2], length - elapsed, is_allowed=is_allowed)


class Verdict(msgspec.Struct, frozen=True):
    """What was counted.

    Attributes:
        is_allowed: Whether the request is within the limit.
        remaining: How many more are.
        wait_s: In how many seconds the next one is allowed, where this one is not; else after which time all are again.
    """

    is_allowed: bool
    remaining: int
    wait_s: float


class Rate:
    """One limit, such as 600 requests a minute.

    Attributes:
        name: What it is called in `RateLimit-Policy`.
        is_of_address: Whether an address has it, whoever asks from there.
        text: What it was read from.
        amount: How many requests.
        window_s: In how many seconds.

    Args:
        name: The same.
        text: The limit, as `read_rate` reads it.
        is_of_address: The same.

    Raises:
        ValueError: It cannot be read.
    """

    def __init__(self, name: str, text: str, *, is_of_address: bool = False) -> None:
        self.name = name
        self.is_of_address = is_of_address
        read = read_rate(text)
        if read is None:
            raise ValueError(f"{text!r} is no limit; write a number and a time, such as 600/minute or 10 per 5 seconds")
        self.text = text
        self.amount, self.window_s = read
        self._policy = (b"ratelimit-policy", f'"{name}";q={self.amount};w={self.window_s}'.encode())
        self._name = name.encode()

    def fields(self, verdict: Verdict) -> Fields:
        """Tell a client where it stands (draft-ietf-httpapi-ratelimit-headers-10)."""
        told = b'"%b";r=%d;t=%d' % (self._name, verdict.remaining, math.ceil(verdict.wait_s))
        return (self._policy, (b"ratelimit", told))

    def problem(self, verdict: Verdict) -> Problem:
        """Refuse a request."""
        wait_s = max(1, math.ceil(verdict.wait_s))
        detail = f"More than {self.amount} requests in {self.window_s} s. Nothing happened; try again in {wait_s} s."
        return Problem(429, "too-many-requests", detail, headers=(("retry-after", str(wait_s)),))


class Rates:
    """Counts requests.

    Args:
        url: Where; `memory://`, or what `limits` knows, such as `redis://host:6379`.
        keys: How many keys are remembered in memory.
        clock: Returns seconds, for counting in memory.

    Attributes:
        memory: What is counted in this process.

    Raises:
        ValueError: There is no such store, or what reaches it is not installed.
    """

    def __init__(self, url: str, keys: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.memory = Windows(keys, clock)
        self._shared: SharedWindows | None = None
        self._away_until = -math.inf
        self._threads = anyio.CapacityLimiter(_STORE_THREADS)
        if url not in ("memory://", ""):
            from fissile_gateway._rates_shared import SharedWindows  # most gateways have no shared store

            self._shared = SharedWindows(url)

    @property
    def is_shared(self) -> bool:
        """Whether replicas count together."""
        return self._shared is not None

    def close(self) -> None:
        """Close the connections to the store; what is counted afterwards would open others."""
        if self._shared is not None:
            self._shared.close()

    async def count(self, rate: Rate, key: str) -> Verdict:
        """Count a request.

        Args:
            rate: The limit.
            key: Whose.
        """
        if self._shared is None or self._clock() < self._away_until:
            return self.memory.count(rate, key)
        verdict: Verdict | None = None
        with anyio.move_on_after(STORE_S):
            try:
                verdict = await anyio.to_thread.run_sync(
                    self._shared.count, rate, key, limiter=self._threads, abandon_on_cancel=True
                )
            except Exception as error:  # noqa: BLE001 -- of whatever client library it is
                _logger.warning(
                    "the store of rate limits failed, so each replica counts for itself: %s", type(error).__name__
                )
                self._away_until = self._clock() + _AWAY_S
                return self.memory.count(rate, key)
        if verdict is None:
            _logger.warning("the store of rate limits is silent, so each replica counts for itself")
            self._away_until = self._clock() + _AWAY_S
            return self.memory.count(rate, key)
        return verdict


def verdict_of(
    rate: Rate, before: int, before_s: float, current: int, current_s: float, *, is_allowed: bool
) -> Verdict:
    """Say what the counts of the last window and of this one mean, each of which ends in so many seconds."""
    amount, window_s = rate.amount, rate.window_s
    if is_allowed:
        remaining = max(0, amount - math.ceil(before * before_s / window_s + current))
        return Verdict(is_allowed, remaining, current_s)
    if current < amount and before:
        # What the last window still counts for falls evenly: when is there room for one more?
        return Verdict(is_allowed, 0, max(0.0, before_s - (amount - current - 1) * window_s / before))
    return Verdict(is_allowed, 0, current_s + window_s / amount)
