"""The views behind derived routes: each is made once, with everything that does not depend on the request already at hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from quart import Response, request

from fissile import Bus, Query, Topic
from fissile._identity import ANONYMOUS, require
from fissile._messages import reply_type
from fissile_gateway._caching import cache_control, entity_tag, is_none_match
from fissile_gateway._commands import Commands
from fissile_gateway._event_ids import is_event_id
from fissile_gateway._present import presenter
from fissile_gateway._problems import ProblemError, invalid_input
from fissile_gateway._query import QueryDecoder, parse_pairs
from fissile_gateway._responses import JSON, exchange, nothing
from fissile_gateway._routes import Route
from fissile_gateway._stream import Streams, Wish, open_stream
from fissile_gateway._strict import InputError
from fissile_gateway._twin import Twins

View = Callable[[], Awaitable[Response]]


def make_view(route: Route, bus: Bus | None, commands: Commands, streams: Streams, twins: Twins) -> View:
    """Make the view of a route.

    Args:
        route: The route.
        bus: Calls modules; None where that is the bus of each request, which acts for who asks.
        commands: Makes the views of commands.
        streams: What event streams share.
        twins: What has been made for other routes.
    """
    if isinstance(route.target, Topic):
        return _guarded(route, _topic_view(route.target, streams))
    if route.kind == "command":
        return _guarded(route, commands.view(route.target, route.name))
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


def _query_view(query: type[Query[Any]], bus: Bus | None, twins: Twins) -> View:
    decode = QueryDecoder[Query[Any]](query, twins).decode
    answers = reply_type(query) not in (None, type(None))
    present = presenter(reply_type(query))
    fields = {"cache-control": cache_control(query)}

    async def view() -> Response:
        this = exchange()
        reply = await (bus or this.bus).ask(decode(request.query_string))
        if not answers:
            return _with(nothing(), fields)
        body = present(reply)
        tag = entity_tag(body)
        if this.if_none_match is not None and is_none_match(this.if_none_match, tag):
            return _with(nothing(304), {**fields, "etag": tag})
        return Response(body, 200, {**fields, "etag": tag}, content_type=JSON)

    return view


def _with(response: Response, fields: dict[str, str]) -> Response:
    for name, value in fields.items():
        response.headers[name] = value
    return response


def _topic_view(topic: Topic[Any], streams: Streams) -> View:
    async def view() -> Response:
        given = _stream_parameters(request.query_string)
        # A browser that connects again sends the field, beside the parameter that its page once gave.
        after = request.headers.get("Last-Event-ID") or given.get("after")
        return await open_stream(streams, exchange(), topic, Wish(given.get("key")), request.method, after)

    return view


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
