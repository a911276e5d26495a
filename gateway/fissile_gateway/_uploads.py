"""Requests whose body is still on its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from fissile_gateway._problems import ProblemError
from fissile_gateway._step import Steps, step

if TYPE_CHECKING:
    from fissile_gateway._exchange import Exchange

T = TypeVar("T")


class Uploads:
    """Requests that wait for their bodies, without a place among those in progress.

    With a place, a few hundred clients who send a byte now and then would keep out all others until the deadline. There is a bound of
    these, too; beyond it, the one that has waited longest is answered 408, so that fast clients get through beside any number of slow ones.

    Args:
        limit: How many there may be.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._waiting: dict[Exchange, None] = {}  # in the order in which they began to wait

    def __len__(self) -> int:
        return len(self._waiting)

    async def wait(self, reading: Callable[[], Steps[T]], exchange: Exchange) -> T:
        """Wait for a body; if it is not at hand, the request gives its places up meanwhile.

        Args:
            reading: Reads it.
            exchange: The request.

        Raises:
            ProblemError: When it had come, there was no place.
        """
        try:
            body = await step(reading(), lambda: self._step_aside(exchange))
        finally:
            has_waited = exchange in self._waiting
            self._waiting.pop(exchange, None)
        if has_waited and not exchange.is_gone:
            protection = exchange.gateway.protection
            problem = await protection.admit(exchange, protection.rule(exchange.path))
            if problem is not None:
                exchange.is_refused = True
                raise ProblemError(problem)
        return body

    def _step_aside(self, exchange: Exchange) -> None:
        exchange.release()
        exchange.leave_circuit()
        self._waiting[exchange] = None
        if len(self._waiting) > self._limit:
            longest = next(iter(self._waiting))
            del self._waiting[longest]
            longest.scope.cancel()
