"""The bus of a handler that acts for somebody else than its message's caller: the same message, the same chain, another identity.

Whatever is counted or kept belongs to the handler's own bus: ids go on from there, what is published waits there, and it ends there.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar, cast

from fissile._bus import Bus, Queries, Scheduled
from fissile._messages import Command, Query

if TYPE_CHECKING:
    from fissile._identity import Identity
    from fissile.abc import Outgoing

B = TypeVar("B", bound=Queries)
R = TypeVar("R")


class ActingQueries(Queries):
    """The bus of a query's handler that acts for somebody else."""

    _own: Queries | None = None

    def ask(self, query: Query[R]) -> Coroutine[Any, Any, R]:
        route = self._routes.queries.get(type(query))
        if route is None:
            return Queries.ask(self, query)  # which says what is wrong
        own = self._follow()
        return route(self, query, own._next_child_id())

    def _follow(self) -> Queries:
        """Return the handler's own bus, having taken over from it whether the handler has ended."""
        own = self._own
        assert own is not None
        self._ended = own._ended
        return own

    def _next_child_id(self) -> str:
        return self._follow()._next_child_id()

    def _keep(self, record: Outgoing | Scheduled) -> bool:
        return self._follow()._keep(record)


class ActingBus(ActingQueries, Bus):
    """The bus of any other handler that acts for somebody else."""

    def execute(self, command: Command[R], *, id: str | None = None) -> Coroutine[Any, Any, R]:  # noqa: A002 -- as in Bus
        route = self._routes.commands.get(type(command))
        if route is None:
            return Bus.execute(self, command)  # which says what is wrong
        own = self._follow()
        return route(self, command, id or own._next_child_id())


def of_handler(bus: B, identity: Identity) -> B:
    """Return a bus of the same handler that acts for somebody else.

    Args:
        bus: A bus of the handler.
        identity: For whom.
    """
    cls = ActingBus if isinstance(bus, Bus) else ActingQueries
    acting = cls(
        bus._routes,
        bus._parent,
        bus._handler,
        bus._deadline,
        bus._depth,
        _id=bus._message_id(),
        _key=bus._key,
        _attempt=bus._attempt,
        _ended=bus._ended,
        _remote_chain=bus._remote_chain,
        _delivery=bus._delivery,
        _identity=identity,
        _trace=bus._trace,
        _own=bus._own if isinstance(bus, ActingQueries) else bus,
    )
    return cast("B", acting)
