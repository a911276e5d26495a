"""The views behind derived routes: each is made once, with everything that does not depend on the request already at hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from quart import Response, request

from fissile import Bus, Command, Query, Topic
from fissile._messages import reply_type
from fissile_gateway._event_ids import is_event_id
from fissile_gateway._exchange import EXCHANGE, Exchange, Scope
from fissile_gateway._present import presenter
from fissile_gateway._problems import Problem, ProblemError, invalid_input, overloaded
from fissile_gateway._query import QueryDecoder, parse_pairs
from fissile_gateway._routes import Route
from fissile_gateway._stream import EventStream, Streams
from fissile_gateway._strict import InputError, StrictDecoder
from fissile_gateway._twin import Twins

View = Callable[[], Awaitable[Response]]

JSON = "application/json"
_JSON = JSON.encode()


def make_view(route: Route, bus: Bus, streams: Streams, twins: Twins) -> View:
    """Make the view of a route."""
    if isinstance(route.target, Topic):
        return _topic_view(route.target, streams)
    if route.kind == "command":
        return _command_view(route.target, bus, twins)
    return _query_view(route.target, bus, twins)


def exchange() -> Exchange:
    """Return the exchange of the request in hand."""
    this: Exchange = cast("Scope", request.scope)[EXCHANGE]
    return this


def _command_view(command: type[Command[Any]], bus: Bus, twins: Twins) -> View:
    decode = StrictDecoder[Command[Any]](command, twins).decode
    execute = bus.execute
    answers = reply_type(command) not in (None, type(None))
    present = presenter(reply_type(command))

    async def view() -> Response:
        this = exchange()
        if this.media_type != _JSON or this.encoding is not None:
            check_media_type(this.media_type or b"", this.encoding or b"")
        body = this.body
        reply = await execute(decode(await request.body if body is None else body))
        if not answers:
            return _nothing()
        return Response(present(reply), 200, content_type=JSON)

    return view


def _query_view(query: type[Query[Any]], bus: Bus, twins: Twins) -> View:
    decode = QueryDecoder[Query[Any]](query, twins).decode
    ask = bus.ask
    answers = reply_type(query) not in (None, type(None))
    present = presenter(reply_type(query))

    async def view() -> Response:
        reply = await ask(decode(request.query_string))
        if not answers:
            return _nothing()
        return Response(present(reply), 200, _ASKED_AGAIN, content_type=JSON)

    return view


def _topic_view(topic: Topic[Any], streams: Streams) -> View:
    limit = streams.settings.streams_at_once

    async def view() -> Response:
        given = _stream_parameters(request.query_string)
        this = exchange()
        if this.gateway.streams >= limit:
            raise ProblemError(overloaded(f"{this.gateway.streams} event streams are open."))
        if request.method == "HEAD":
            return Response(b"", 200, _STREAM)
        stream = EventStream(streams, topic, given.get("key"))
        # A browser that connects again sends the field, beside the parameter that its page once gave.
        await stream.open(this, request.headers.get("Last-Event-ID") or given.get("after"))
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


def _stream_parameters(query_string: bytes) -> dict[str, str]:
    pairs = parse_pairs(query_string)
    given = dict(pairs)
    wrong = [
        InputError(f"$.{name}", "there is no such parameter; there are key and after")
        for name in given
        if name not in ("key", "after")
    ]
    for name in given:
        count = sum(other == name for other, _ in pairs)
        if count > 1:
            wrong.append(InputError(f"$.{name}", f"the parameter is given {count} times"))
    if "after" in given and not is_event_id(given["after"]):
        wrong.append(InputError("$.after", "it is not the id of an event"))
    if wrong:
        raise ProblemError(invalid_input(tuple(wrong)))
    return given
