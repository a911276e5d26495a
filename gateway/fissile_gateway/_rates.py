"""How often a client may ask: sliding windows of the library `limits`, counted in memory or in a store that replicas share.

In memory, counting takes microseconds. A shared store is asked in worker threads, so that no request waits for another one's, and where it
cannot be reached, each replica counts for itself: a store that is down must not take the gateway with it.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from limits import RateLimitItem, parse
from limits.storage import Storage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from fissile_gateway._problems import Problem

Fields = tuple[tuple[bytes, bytes], ...]

_STORE_S = 1.0
"""How long the shared store may take to answer, in seconds."""
_AWAY_S = 5.0
"""For how long it is not asked after it did not answer, in seconds."""
_STORE_THREADS = 16

_logger = logging.getLogger("fissile.gateway")


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
        return _verdict(rate, window[1], length - elapsed, window[2], length - elapsed, is_allowed=is_allowed)


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

    Args:
        name: The same.
        text: The limit, as `limits` reads it.
        is_of_address: The same.
    """

    def __init__(self, name: str, text: str, *, is_of_address: bool = False) -> None:
        self.name = name
        self.is_of_address = is_of_address
        self.item: RateLimitItem = parse(text)
        self.amount = self.item.amount
        self.window_s = self.item.get_expiry()
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
        self._shared: SlidingWindowCounterRateLimiter | None = None
        self._away_until = -math.inf
        self._threads = anyio.CapacityLimiter(_STORE_THREADS)
        self._store: Storage | None = None
        if url not in ("memory://", ""):
            self._store = _open(url)
            self._shared = SlidingWindowCounterRateLimiter(self._store)

    @property
    def is_shared(self) -> bool:
        """Whether replicas count together."""
        return self._shared is not None

    def close(self) -> None:
        """Close the connections to the store; what is counted afterwards would open others."""
        # The library has no word for it; the clients of Redis, Valkey and MongoDB that it keeps here have.
        client: object = getattr(self._store, "storage", None)
        close: object = getattr(client, "close", None)
        if callable(close):
            close()

    async def count(self, rate: Rate, key: str) -> Verdict:
        """Count a request.

        Args:
            rate: The limit.
            key: Whose.
        """
        if self._shared is None or self._clock() < self._away_until:
            return self.memory.count(rate, key)
        verdict: Verdict | None = None
        with anyio.move_on_after(_STORE_S):
            try:
                verdict = await anyio.to_thread.run_sync(
                    _hit, self._shared, rate, key, limiter=self._threads, abandon_on_cancel=True
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


def _open(url: str) -> Storage:
    options: dict[str, float | str | bool] = {}
    if url.startswith(("redis", "valkey")):
        options = {"socket_timeout": _STORE_S, "socket_connect_timeout": _STORE_S}
    try:
        storage = storage_from_string(url, **options)
    except Exception as error:  # noqa: BLE001 -- of whatever client library it is
        # The URL may hold a password, and the library repeats it.
        shown, why = f"{url.partition(':')[0]}://…", str(error).replace(url, "it")
        raise ValueError(f"rate_limit_storage ({shown}) cannot be used: {type(error).__name__}: {why}") from None
    if not isinstance(storage, Storage):
        raise ValueError("rate_limit_storage names an asynchronous store; leave out the prefix async+")  # noqa: TRY004
    return storage


def _hit(limiter: SlidingWindowCounterRateLimiter, rate: Rate, key: str) -> Verdict:
    is_allowed = limiter.hit(rate.item, rate.name, key)
    storage: Any = limiter.storage  # Any: the library has no common type for what can do this
    before, before_s, current, current_s = storage.get_sliding_window(rate.item.key_for(rate.name, key), rate.window_s)
    return _verdict(rate, before, before_s, current, max(0.0, current_s - rate.window_s), is_allowed=is_allowed)


def _verdict(rate: Rate, before: int, before_s: float, current: int, current_s: float, *, is_allowed: bool) -> Verdict:
    """Say what the counts of the last window and of this one mean, each of which ends in so many seconds."""
    amount, window_s = rate.amount, rate.window_s
    if is_allowed:
        remaining = max(0, amount - math.ceil(before * before_s / window_s + current))
        return Verdict(is_allowed, remaining, current_s)
    if current < amount and before:
        # What the last window still counts for falls evenly: when is there room for one more?
        return Verdict(is_allowed, 0, max(0.0, before_s - (amount - current - 1) * window_s / before))
    return Verdict(is_allowed, 0, current_s + window_s / amount)
