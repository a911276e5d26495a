"""The access log: one line for each request when its answer has been sent.

It tells the path and never the query, which may hold what nobody should read, and no field of the request but its id and its trace.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import random
from time import perf_counter, time
from typing import TYPE_CHECKING, Any

from fissile_gateway._settings import GatewaySettings

if TYPE_CHECKING:
    from fissile_gateway._exchange import Exchange, Scope

CLIENT_GONE = 499
"""What the access log says where nobody was there to be answered (nginx began it)."""

_logger = logging.getLogger("fissile.gateway.access")


class AccessLog:
    """Writes the access log.

    Args:
        settings: Whether there is one, and which share of requests it tells.
        random: Gives numbers from 0 to 1, for that share.
    """

    def __init__(self, settings: GatewaySettings, random: Callable[[], float] = random) -> None:
        self._is_on = settings.access_log
        self._share = settings.access_log_share
        self._random = random
        self._same: dict[str, Any] = {}  # Any: what a record holds
        self._started = 0.0

    def write(self, scope: Scope, path: str, exchange: Exchange, began: float) -> None:
        """Tell of a request that has been answered; one that was answered with an error is always told.

        Args:
            scope: The request.
            path: Its path below the point where the gateway is mounted.
            exchange: The request and its answer.
            began: When it began, on `perf_counter`.
        """
        if not self._is_on or not _logger.isEnabledFor(logging.INFO):
            return
        status = status_of(exchange)
        if status < 400 and self._share < 1.0 and self._random() >= self._share:
            return
        method = scope["method"]
        if not path.isprintable():  # a line end in it would forge a line of the log
            path = path.encode("unicode_escape").decode()
        client: tuple[str, int] | None = scope.get("client")
        if not self._same:
            self._same = self._first_record()
        now = time()
        record = logging.LogRecord.__new__(logging.LogRecord)
        fields = record.__dict__
        fields.update(self._same)
        fields["args"] = (method, path, status)
        fields["created"], fields["msecs"] = now, int(now % 1 * 1000) + 0.0
        fields["relativeCreated"] = (now - self._started) * 1000
        fields["method"] = method
        fields["path"] = path
        fields["status"] = status
        fields["duration_ms"] = round((perf_counter() - began) * 1000, 3)
        fields["bytes"] = exchange.sent_bytes
        fields["request_id"] = exchange.request_id
        if exchange.route is not None:
            fields["route"] = exchange.route
        if client is not None:
            fields["client"] = client[0]
        if exchange.identity is not None and exchange.identity.is_authenticated:
            fields["subject"] = exchange.identity.subject
        if exchange.trace is not None:
            fields["trace_id"], fields["span_id"] = exchange.trace.trace_id, exchange.trace.span_id
        _logger.handle(record)

    def _first_record(self) -> dict[str, Any]:
        """Return what is the same in all records.

        `Logger.info` would look for the line that calls it, and `LogRecord` for the process, the thread and the task, which takes as long as
        all the rest.
        """
        record = logging.LogRecord(_logger.name, logging.INFO, __file__, 0, "%s %s %s", None, None)
        self._started = record.created - record.relativeCreated / 1000
        same = dict(vars(record))
        if "taskName" in same:
            same["taskName"] = None
        return same


def status_of(exchange: Exchange) -> int:
    """Return the status of an answer; 499 where the client left before there was one, 500 where none was made."""
    return exchange.status or (CLIENT_GONE if exchange.is_gone else 500)
