"""What the gateway measures of its requests: by route, method and status, with their durations in buckets.

Labels are bounded: a route is one of those that exist, or none of them; a method or status that is not known is `other`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from fissile import Metric
from fissile._metrics import Labels, counter, gauge, histogram

if TYPE_CHECKING:
    from fissile_gateway._gateway import Gateway
    from fissile_gateway._server import ServerStatistics

BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Where the buckets of durations end, in seconds."""

NO_ROUTE = "none"
"""The label of a request whose path leads nowhere."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMetrics:
    """Counts requests as they end."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str | None, str, int], int] = {}
        self._durations: dict[tuple[str | None, str], tuple[list[int], list[float]]] = {}
        self.streams_total = 0

    def count(self, route: str | None, method: str, status: int, duration_s: float, *, is_stream: bool) -> None:
        """Count a request that has ended; the duration of a stream says nothing and is left out."""
        key = (route, method if method in _METHODS else "other", status if 100 <= status < 600 else 0)
        self._counts[key] = self._counts.get(key, 0) + 1
        if is_stream:
            self.streams_total += 1
            return
        taken = self._durations.get(key[:2])
        if taken is None:
            taken = self._durations[key[:2]] = ([0] * (len(BOUNDS_S) + 1), [0.0])
        taken[0][bisect_left(BOUNDS_S, duration_s)] += 1
        taken[1][0] += duration_s

    def metrics(self, gateway: Gateway) -> Iterator[Metric]:
        """Yield what was counted, and what is in progress."""
        requests: list[tuple[Labels, float]] = [
            (
                {"route": route or NO_ROUTE, "method": method, "status": str(status) if status else "other"},
                number,
            )
            for (route, method, status), number in self._counts.items()
        ]
        yield counter("fissile_http_requests", "Requests answered; 499 where the client left first.", requests)
        yield histogram(
            "fissile_http_request_duration_seconds",
            "How long requests took, their answers included; event streams left out.",
            BOUNDS_S,
            [
                ({"route": route or NO_ROUTE, "method": method}, counts, total[0])
                for (route, method), (counts, total) in self._durations.items()
            ],
        )
        yield gauge(
            "fissile_http_requests_in_flight", "Requests in progress, event streams left out.", [({}, gateway.requests)]
        )
        yield gauge("fissile_http_streams", "Event streams that are open.", [({}, gateway.streams)])
        yield counter("fissile_http_streams_ended", "Event streams that have ended.", [({}, self.streams_total)])


def of_server(statistics: Callable[[], ServerStatistics]) -> Iterator[Metric]:
    """Yield what the HTTP server has done."""
    told = statistics()
    yield gauge("fissile_http_connections", "Connections that are open.", [({}, told.connections)])
    yield counter("fissile_http_connections_accepted", "Connections accepted.", [({}, told.connections_total)])
    yield counter(
        "fissile_http_refused", "Requests and connections refused before any route.", [({}, told.refused_total)]
    )
    yield counter(
        "fissile_http_stalled",
        "Connections dropped because the client did not take its answer.",
        [({}, told.stalled_total)],
    )
