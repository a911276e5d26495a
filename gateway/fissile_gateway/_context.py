"""What a hand-written route asks the gateway for. Inside of a request only."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from fissile import Bus, Event, Identity, Process, Topic
from fissile._identity import ANONYMOUS, require
from fissile.abc import Start
from fissile_gateway._operation import note_scopes
from fissile_gateway._routes import Route

if TYPE_CHECKING:
    from quart import Response

    from fissile_gateway._exchange import Exchange
    from fissile_gateway._stream import Streams
    from fissile_gateway._strict import StrictDecoder
    from fissile_gateway._twin import Twins

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=Event)

EXTENSION = "fissile"
"""Where the Quart application has its `Context`."""


class Context:
    """What the gateway's routes share.

    Attributes:
        bus: The bus of the gateway.
        process: The process it runs in.
        routes: The routes derived from contracts.
        twins: Make decoders strict.
        streams: What event streams share.
        decoders: Those of the bodies of hand-written routes, by their classes.
    """

    def __init__(self, bus: Bus, process: Process, routes: tuple[Route, ...], twins: Twins, streams: Streams) -> None:
        self.bus = bus
        self.process = process
        self.routes = routes
        self.twins = twins
        self.streams = streams
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


async def stream(
    topic: Topic[E],
    *,
    key: str | None = None,
    start: Start = "latest",
    until: Callable[[E], bool] | None = None,
    follow: bool = True,
) -> Response:
    """Answer with the events of a topic as server-sent events.

    A route says `return await stream(topic, key=order_id)`. It has looked before at whether its client may see them; what the topic
    `requires` is looked at here. The topic need not be public. Clients resume, and are told what they have lost, as with the streams that
    follow from contracts.

    When a stream ends by itself its last words are `event: end`, and a browser that connects again all the same gets 204, after which it
    does not try again.

    Args:
        topic: The topic, of any module of the application.
        key: Only events of this key.
        start: What a client gets that has had nothing yet: `earliest` for everything that the topic still keeps, then what comes; `latest`
            for what comes.
        until: Tells whether an event is the last one; the stream ends after it.
        follow: Whether the stream waits for more when everything kept has been given; if not, it ends there.

    Raises:
        Forbidden: The topic requires a scope that is missing.
        ProblemError: Too many streams are open, or the parameter `after` of the request is no id of an event.
        Unavailable: The log cannot be reached.
        ValueError: An event of the topic is called as what streams themselves tell: `Lost`, `Reset`, `End`, `Error`, `Open`.
    """
    from quart import request

    from fissile._check.contracts import STREAM_NAMES
    from fissile._names import kebab_case
    from fissile_gateway._event_ids import is_event_id
    from fissile_gateway._problems import ProblemError, invalid_input
    from fissile_gateway._stream import Wish, open_stream
    from fissile_gateway._strict import InputError

    exchange, context = _exchange(), _context()
    if exchange is None:
        raise RuntimeError("stream() answers a request; here there is none.")
    if not follow and start != "earliest":
        raise ValueError('A stream that ends with what is kept begins there: write start="earliest" with follow=False.')
    if not any(topic in contract.topics for contract in context.process.contracts):
        raise LookupError(f"{topic!r} is of no module of this application. List its module in [tool.fissile] modules.")
    taken = [event.__name__ for event in topic.events if kebab_case(event.__name__) in STREAM_NAMES]
    if taken:  # of public topics it is looked at when the process starts
        raise ValueError(
            f"{topic.name} cannot be streamed: its event {taken[0]} has a name by which streams tell something else. Rename it."
        )
    require(exchange.identity or ANONYMOUS, topic.required_scopes, f"{topic.name} was not read")
    given = request.args.get("after")
    if given is not None and not is_event_id(given):
        raise ProblemError(invalid_input((InputError("$.after", "it is not the id of an event"),)))
    # A browser that connects again sends the field, beside the parameter that its page once gave.
    after = request.headers.get("Last-Event-ID") or given
    return await open_stream(context.streams, exchange, topic, Wish(key, start, until, follow), request.method, after)


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
