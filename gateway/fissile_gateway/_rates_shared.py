"""Sliding windows in a store that replicas share, as the library `limits` keeps them there."""

from __future__ import annotations

from typing import Any

from limits import RateLimitItem, parse
from limits.storage import Storage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from fissile_gateway._rates import STORE_S, Rate, Verdict, verdict_of


class SharedWindows:
    """Counts requests in a store. Its methods wait for the network: call them in a worker thread.

    Args:
        url: Where; what `limits` knows, such as `redis://host:6379`.

    Raises:
        ValueError: There is no such store, or what reaches it is not installed.
    """

    def __init__(self, url: str) -> None:
        self._store = _open(url)
        self._limiter = SlidingWindowCounterRateLimiter(self._store)
        self._items: dict[str, RateLimitItem] = {}

    def count(self, rate: Rate, key: str) -> Verdict:
        """Count a request, unless that is beyond the limit.

        Args:
            rate: The limit.
            key: Whose.
        """
        item = self._items.get(rate.text)
        if item is None:
            item = self._items[rate.text] = parse(rate.text)
        is_allowed = self._limiter.hit(item, rate.name, key)
        storage: Any = self._store  # Any: the library has no common type for what can do this
        place = item.key_for(rate.name, key)
        before, before_s, current, current_s = storage.get_sliding_window(place, rate.window_s)
        return verdict_of(rate, before, before_s, current, max(0.0, current_s - rate.window_s), is_allowed=is_allowed)

    def close(self) -> None:
        """Close the connections to the store."""
        # The library has no word for it; the clients of Redis, Valkey and MongoDB that it keeps here have.
        client: object = getattr(self._store, "storage", None)
        close: object = getattr(client, "close", None)
        if callable(close):
            close()


def _open(url: str) -> Storage:
    options: dict[str, float | str | bool] = {}
    if url.startswith(("redis", "valkey")):
        options = {"socket_timeout": STORE_S, "socket_connect_timeout": STORE_S}
    try:
        storage = storage_from_string(url, **options)
    except Exception as error:  # noqa: BLE001 -- of whatever client library it is
        # The URL may hold a password, and the library repeats it.
        shown, why = f"{url.partition(':')[0]}://…", str(error).replace(url, "it")
        raise ValueError(f"rate_limit_storage ({shown}) cannot be used: {type(error).__name__}: {why}") from None
    if not isinstance(storage, Storage):
        raise ValueError("rate_limit_storage names an asynchronous store; leave out the prefix async+")  # noqa: TRY004
    return storage
