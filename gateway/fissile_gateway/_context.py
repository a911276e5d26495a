"""What a hand-written route asks the gateway for. Inside of a request only."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from fissile import Bus, Identity, Process
from fissile._identity import ANONYMOUS, require
from fissile_gateway._operation import note_scopes
from fissile_gateway._routes import Route

if TYPE_CHECKING:
    from fissile_gateway._exchange import Exchange
    from fissile_gateway._strict import StrictDecoder
    from fissile_gateway._twin import Twins

P = ParamSpec("P")
T = TypeVar("T")

EXTENSION = "fissile"
"""Where the Quart application has its `Context`."""


class Context:
    """What the gateway's routes share.

    Attributes:
        bus: The bus of the gateway.
        process: The process it runs in.
        routes: The routes derived from contracts.
        twins: Make decoders strict.
        decoders: Those of the bodies of hand-written routes, by their classes.
    """

    def __init__(self, bus: Bus, process: Process, routes: tuple[Route, ...], twins: Twins) -> None:
        self.bus = bus
        self.process = process
        self.routes = routes
        self.twins = twins
        self.decoders: dict[type[Any], StrictDecoder[Any]] = {}


def current_bus() -> Bus:
    """Return the bus that a route of the application calls modules with; it acts for who asks.

    Outside of a request, in what a route has left behind, it acts for the gateway itself.
    """
    exchange = _exchange()
    return _context().bus if exchange is None else exchange.bus


def current_identity() -> Identity | None:
    """Return who asks; None where nobody looks at that, since nothing is configured and no contract requires a scope."""
    exchange = _exchange()
    return None if exchange is None else exchange.identity


def requires(*scopes: str) -> Callable[[Callable[P, Any]], Callable[P, Coroutine[Any, Any, Any]]]:
    """Let a hand-written route answer only who has all of these scopes; others get 401, or 403. It stands below the line with the path.

    Args:
        scopes: The scopes.
    """

    # Any: what a view may return, which Quart makes an answer of.
    def decorate(view: Callable[P, Any]) -> Callable[P, Coroutine[Any, Any, Any]]:
        @wraps(view)
        async def guarded(*args: P.args, **kwargs: P.kwargs) -> Any:
            from quart import current_app

            require(current_identity() or ANONYMOUS, scopes, "The route was not called")
            return await current_app.ensure_async(view)(*args, **kwargs)

        note_scopes(guarded, scopes)
        return guarded

    return decorate


def current_process() -> Process:
    """Return the process that the gateway runs in."""
    return _context().process


def current_routes() -> tuple[Route, ...]:
    """Return the routes that were derived from contracts."""
    return _context().routes


def decoder_of(kind: type[T]) -> StrictDecoder[T]:
    """Return what decodes the body of a hand-written route; made once."""
    context = _context()
    if kind not in context.decoders:
        from fissile_gateway._strict import StrictDecoder

        context.decoders[kind] = StrictDecoder[T](kind, context.twins)
    return context.decoders[kind]


def _exchange() -> Exchange | None:
    from quart import has_request_context, has_websocket_context, request, websocket

    from fissile_gateway._exchange import EXCHANGE

    if has_request_context():
        return cast("dict[str, Any]", request.scope).get(EXCHANGE)
    if has_websocket_context():
        return cast("dict[str, Any]", websocket.scope).get(EXCHANGE)
    return None


def _context() -> Context:
    from quart import current_app

    return cast("Context", current_app.extensions[EXTENSION])
