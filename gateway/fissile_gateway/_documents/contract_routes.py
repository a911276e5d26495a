"""The OpenAPI operations of routes that are derived from contracts."""

from __future__ import annotations

from typing import Any, cast, get_args

import attrs

from fissile import Command, Query, Topic
from fissile._docstrings import prose_of
from fissile._messages import fields_of, reply_type
from fissile._names import kebab_case
from fissile._schemas import Json, Shapes, default_of
from fissile_gateway._documents.answers import problems_of
from fissile_gateway._documents.http_meaning import (
    add_to_command,
    add_to_query,
    security_of,
)
from fissile_gateway._event_ids import EVENT_ID, LIMIT_CHARACTERS
from fissile_gateway._query import QueryDecoder
from fissile_gateway._routes import Route
from fissile_gateway._twin import Twins

JSON = "application/json"
EVENT_STREAM = "text/event-stream"

REQUEST_ID: Json = {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}}


class ContractRoutes:
    """Describes routes.

    Args:
        inputs: Makes the schemas of what is sent.
        replies: Makes the schemas of what is answered.
    """

    def __init__(self, inputs: Shapes, replies: Shapes) -> None:
        self._inputs = inputs
        self._replies = replies
        self._twins = Twins()

    def operation(self, route: Route) -> Json:
        """Return the operation object of a route."""
        described = self._of_topic(route, route.target) if isinstance(route.target, Topic) else self._of_message(route)
        security = security_of(route.target.required_scopes)
        if security:
            described["security"] = security
        responses: Json = {str(status): described["responses"][status] for status in sorted(described["responses"])}
        return described | {"responses": responses}

    def _of_message(self, route: Route) -> Json:
        message = cast("type[Command[Any] | Query[Any]]", route.target)
        prose = prose_of(message)
        operation: Json = {
            "tags": [route.module],
            "summary": prose.summary or message.__name__,
            "description": prose.description,
            "operationId": route.name,
            "parameters": [],
        }
        responses = problems_of(route, self._replies)
        reply = reply_type(message)
        if reply in (None, type(None)):
            success, answer = 204, {"description": "It is done.", "headers": dict(REQUEST_ID)}
        else:
            content = {JSON: {"schema": self._replies.of(reply)}}
            summary = _first_prose(reply) or "The reply."
            success, answer = 200, {"description": summary, "headers": dict(REQUEST_ID), "content": content}
        responses[success] = answer
        if issubclass(message, Query):
            operation["parameters"] = self._parameters(message)
            operation["responses"] = responses
            add_to_query(operation, message, answer)
        else:
            schema = self._inputs.of(message)
            operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schema}}}
            operation["responses"] = responses
            add_to_command(operation, message, answer)
        return {name: value for name, value in operation.items() if value or name == "responses"}

    def _parameters(self, query: type[Query[Any]]) -> list[Json]:
        """Describe the query string as `_query.py` reads it."""
        properties, required = self._inputs.fields_of(query)
        fields = QueryDecoder[Query[Any]](query, self._twins).fields
        parameters: list[Json] = []
        for attribute in fields_of(query):
            field = fields[attribute.name]
            schema = dict(properties[attribute.name])
            description = schema.pop("description", None)
            if default_of(attribute) is None:
                schema.pop("default", None)  # "left out" is all that it says
            parameter: Json = {"name": attribute.name, "in": "query"}
            if description:
                parameter["description"] = description
            if attribute.name in required:
                parameter["required"] = True
            if field.is_json:
                parameters.append(parameter | {"content": {JSON: {"schema": schema}}})
                continue
            if field.is_text:
                schema = _without_null(schema)
            if field.is_repeated:
                parameter |= {"style": "form", "explode": True}
                if attribute.name in required:
                    schema = {"minItems": 1} | schema
            parameters.append(parameter | {"schema": schema})
        return parameters

    def _of_topic(self, route: Route, topic: Topic[Any]) -> Json:
        events = {kebab_case(event.__name__): event for event in topic.events}
        lines = [f"- `{name}`: {prose_of(event).summary or event.__name__}" for name, event in events.items()]
        described = "\n\n".join((_STREAM, "\n".join(lines), _RESUME))
        # The schema is that of one event, as `itemSchema` is from OpenAPI 3.2 on.
        frames = [_frame(name, self._replies.of(event)) for name, event in events.items()]
        answer: Json = {
            "description": "The stream. The schema is that of each event.",
            "headers": dict(REQUEST_ID),
            "content": {EVENT_STREAM: {"schema": {"anyOf": [*frames, _LOST, _frame("reset", _RESET), _QUIET]}}},
        }
        return {
            "tags": [route.module],
            "summary": f"Follow {route.name}.",
            "description": described,
            "operationId": f"{route.module}.topics.{route.name.partition('.')[2] or route.name}",
            "parameters": [
                {
                    "name": "key",
                    "in": "query",
                    "description": "Only events of this key.",
                    "schema": {"type": "string"},
                },
                {
                    "name": "after",
                    "in": "query",
                    "description": "The same as `Last-Event-ID`, for a client that cannot send that; the field goes before. One that is no "
                    "`id` of an event is answered 400.",
                    "schema": {"type": "string", "pattern": f"^{EVENT_ID}$", "maxLength": LIMIT_CHARACTERS},
                },
                {
                    "name": "Last-Event-ID",
                    "in": "header",
                    "description": "The `id` of the last event that was seen; the stream goes on behind it.",
                    "schema": {"type": "string"},
                },
            ],
            "responses": problems_of(route, self._replies) | {200: answer},
        }


_STREAM = (
    "The answer has no end: server-sent events, one for each event of the topic from now on, in order per key. `event` is the event's name, "
    "`data` the event as JSON, `id` its position."
)
_RESUME = (
    "After a lost connection send the last `id` as `Last-Event-ID`, as browsers do by themselves. Where the log no longer has that position, "
    "an event `reset` says so, and the stream goes on from now: look the state up anew."
)
_TEXT: Json = {"type": "string"}
_RESET: Json = {"type": "object", "properties": {"reason": _TEXT}, "required": ["reason"]}
_QUIET: Json = {
    "description": "No event: it only moves the position, or shows that the stream is alive.",
    "type": "object",
    "properties": {"id": _TEXT, "retry": {"type": "integer"}},
    "not": {"required": ["data"]},
}


_LOST: Json = {
    "description": "The client was too slow: so many events behind `after` are not sent. Connect again with `after` to get them.",
    "type": "object",
    "properties": {
        "event": {"const": "lost"},
        "data": {
            "type": "string",
            "contentMediaType": JSON,
            "contentSchema": {
                "type": "object",
                "properties": {"count": {"type": "integer"}, "after": {"type": "string"}},
            },
        },
    },
    "required": ["event", "data"],
}


def _frame(name: str, data: Json) -> Json:
    return {
        "type": "object",
        "properties": {
            "event": {"const": name},
            "id": _TEXT,
            "data": {"type": "string", "contentMediaType": JSON, "contentSchema": data},
        },
        "required": ["event", "id", "data"],
    }


def _first_prose(annotation: Any) -> str:
    """Return what the first class in a type says of itself."""
    if isinstance(annotation, type) and attrs.has(annotation):
        return prose_of(annotation).summary
    return next((prose for inner in get_args(annotation) if (prose := _first_prose(inner))), "")


def _without_null(schema: Json) -> Json:
    options = schema.get("anyOf")
    if options is None:
        return schema
    kept = [option for option in options if option.get("type") != "null"]
    rest = {key: value for key, value in schema.items() if key != "anyOf"}
    return kept[0] | rest if len(kept) == 1 else rest | {"anyOf": kept}
