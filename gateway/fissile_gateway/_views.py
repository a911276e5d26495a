"""The views behind derived routes: each is made once, with everything that does not depend on the request already at hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from quart import Response, request

from fissile import Bus, Query, Topic
from fissile._identity import ANONYMOUS, require
from fissile._messages import reply_type
from fissile_gateway._answers import JSON, Answer, View
from fissile_gateway._caching import cache_control, entity_tag, is_none_match
from fissile_gateway._commands import Commands
from fissile_gateway._event_ids import is_event_id
from fissile_gateway._exchange import Exchange
from fissile_gateway._present import presenter
from fissile_gateway._problems import ProblemError, invalid_input
from fissile_gateway._query import QueryDecoder, parse_pairs
from fissile_gateway._responses import exchange
from fissile_gateway._routes import Route
from fissile_gateway._stream import Streams, Wish, open_stream
from fissile_gateway._strict import InputError
from fissile_gateway._twin import Twins


def message_view(route: Route, bus: Bus | None, commands: Commands, twins: Twins) -> View:
    """Make the view of the route of a command or query.

    Args:
        route: The route.
        bus: Calls modules; None where that is the bus of each request, which acts for who asks.
        commands: Makes the views of commands.
        twins: What has been made for other routes.
    """
    assert not isinstance(route.target, Topic)
    view = commands.view(route.target, route.name) if route.kind == "command" else _query_view(route.target, bus, twins)
    required: tuple[str, ...] = route.target.required_scopes
    if not required:
        return view
    what = f"{route.name} was not done"

    async def guarded(this: Exchange) -> Answer:
        # Before the input is looked at; the module checks it too, whoever calls.
        require(this.identity or ANONYMOUS, required, what)
        return await view(this)

    return guarded


def _query_view(query: type[Query[Any]], bus: Bus | None, twins: Twins) -> View:
    decode = QueryDecoder[Query[Any]](query, twins).decode
    answers = reply_type(query) not in (None, type(None))
    present = presenter(reply_type(query))
    field = ("cache-control", cache_control(query))

    async def view(this: Exchange) -> Answer:
        reply = await (bus or this.bus).ask(decode(this.query))
        if not answers:
            return Answer(204, headers=(field,))
        body = present(reply)
        tag = entity_tag(body)
        if this.if_none_match is not None and is_none_match(this.if_none_match, tag):
            return Answer(304, headers=(field, ("etag", tag)))
        return Answer(200, body, JSON, (field, ("etag", tag)))

    return view


def topic_view(topic: Topic[Any], streams: Streams) -> Callable[[], Awaitable[Response]]:
    """Make the view of the route of a topic, for Quart.

    Args:
        topic: The topic.
        streams: What event streams share.
    """
    required = topic.required_scopes
    what = f"{topic.name} was not read"

    async def view() -> Response:
        if required:
            require(exchange().identity or ANONYMOUS, required, what)
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
