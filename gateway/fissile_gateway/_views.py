"""The views behind derived routes: each is made once, with everything that does not depend on the request already at hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from quart import Response, request

from fissile import Bus, Command, Query, Topic
from fissile._identity import ANONYMOUS, require
from fissile._messages import reply_type
from fissile_gateway._exchange import EXCHANGE, Exchange, Scope
from fissile_gateway._present import presenter
from fissile_gateway._problems import Problem, ProblemError, invalid_input, overloaded
from fissile_gateway._query import QueryDecoder, parse_pairs
from fissile_gateway._routes import Route
from fissile_gateway._settings import GatewaySettings
from fissile_gateway._stream import EventStream
from fissile_gateway._strict import InputError, StrictDecoder
from fissile_gateway._twin import Twins

View = Callable[[], Awaitable[Response]]

JSON = "application/json"
_JSON = JSON.encode()


def make_view(route: Route, bus: Bus | None, settings: GatewaySettings, twins: Twins) -> View:
    """Make the view of a route.

    Args:
        route: The route.
        bus: Calls modules; None where that is the bus of each request, which acts for who asks.
        settings: The bounds.
        twins: What has been made for other routes.
    """
    if isinstance(route.target, Topic):
        return _guarded(route, _topic_view(route.target, settings))
    if route.kind == "command":
        return _guarded(route, _command_view(route.target, bus, twins))
    return _guarded(route, _query_view(route.target, bus, twins))


def _guarded(route: Route, view: View) -> View:
    """Refuse who lacks a scope before the input is looked at; the module checks it too, whoever calls."""
    required: tuple[str, ...] = route.target.required_scopes
    if not required:
        return view
    what = f"{route.name} was not {'read' if route.kind == 'topic' else 'done'}"

    async def guarded() -> Response:
        require(exchange().identity or ANONYMOUS, required, what)
        return await view()

    return guarded


def exchange() -> Exchange:
    """Return the exchange of the request in hand."""
    this: Exchange = cast("Scope", request.scope)[EXCHANGE]
    return this


def _command_view(command: type[Command[Any]], bus: Bus | None, twins: Twins) -> View:
    decode = StrictDecoder[Command[Any]](command, twins).decode
    answers = reply_type(command) not in (None, type(None))
    present = presenter(reply_type(command))

    async def view() -> Response:
        this = exchange()
        if this.media_type != _JSON or this.encoding is not None:
            check_media_type(this.media_type or b"", this.encoding or b"")
        body = this.body
        message = decode(await request.body if body is None else body)
        reply = await (bus or this.bus).execute(message)
        if not answers:
            return _nothing()
        return Response(present(reply), 200, content_type=JSON)

    return view


def _query_view(query: type[Query[Any]], bus: Bus | None, twins: Twins) -> View:
    decode = QueryDecoder[Query[Any]](query, twins).decode
    answers = reply_type(query) not in (None, type(None))
    present = presenter(reply_type(query))

    async def view() -> Response:
        reply = await (bus or exchange().bus).ask(decode(request.query_string))
        if not answers:
            return _nothing()
        return Response(present(reply), 200, _ASKED_AGAIN, content_type=JSON)

    return view


def _topic_view(topic: Topic[Any], settings: GatewaySettings) -> View:
    async def view() -> Response:
        key = _key(request.query_string)
        this = exchange()
        if this.gateway.streams >= settings.streams_at_once:
            raise ProblemError(overloaded(f"{this.gateway.streams} event streams are open."))
        if request.method == "HEAD":
            return Response(b"", 200, _STREAM)
        stream = EventStream(this.bus, topic, key, settings.heartbeat_s)
        await stream.open(this, request.headers.get("Last-Event-ID") or None)
        return Response(stream, 200, _STREAM)

    return view


def _nothing() -> Response:
    response = Response(b"", 204)
    del response.headers["content-type"]  # of nothing; and a length must not be told (RFC 9110, 8.6)
    del response.headers["content-length"]
    return response


_ASKED_AGAIN = {"cache-control": "no-cache"}
_STREAM = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store", "x-accel-buffering": "no"}


def check_media_type(media_type: bytes, encoding: bytes) -> None:
    """Refuse a body that is not plain JSON.

    Raises:
        ProblemError: 415.
    """
    if encoding.strip().lower() not in (b"", b"identity"):
        shown = encoding.decode("latin-1")
        detail = f"The body is encoded as {shown!r}; send it without Content-Encoding."
        raise ProblemError(Problem(415, "unsupported-media-type", detail))
    kind, _, parameters = media_type.partition(b";")
    parameter = parameters.strip().lower().replace(b'"', b"")
    if kind.strip().lower() == _JSON and parameter in (b"", b"charset=utf-8"):
        return
    shown = media_type.decode("latin-1")
    said = f"The body is {shown!r}" if media_type else "The request has no Content-Type"
    detail = f"{said}; send JSON with Content-Type: {JSON}."
    raise ProblemError(Problem(415, "unsupported-media-type", detail, headers=(("accept-post", JSON),)))


def _key(query_string: bytes) -> str | None:
    pairs = parse_pairs(query_string)
    unknown = [
        InputError(f"$.{name}", "there is no such parameter; there is key") for name, _ in pairs if name != "key"
    ]
    if len(pairs) > 1 and not unknown:
        unknown = [InputError("$.key", f"the parameter is given {len(pairs)} times")]
    if unknown:
        raise ProblemError(invalid_input(tuple(unknown)))
    return pairs[0][1] if pairs else None
