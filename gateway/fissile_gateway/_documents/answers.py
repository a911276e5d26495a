"""The answers that are no success: which problems the gateway answers with, and the declared errors of a contract.

The table is what `_problems.py`, the server and the routes do; a request that a route cannot even be found for is in it too, so that the
components of a document name every problem there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from attrs import frozen

from fissile import Command, DeclaredError, Query, Topic
from fissile._docstrings import prose_of
from fissile._schemas import Json, Shapes
from fissile_gateway._problems import MEDIA_TYPE, RETRY_AFTER_S, kebab_case
from fissile_gateway._routes import Kind, Route

PROBLEM_REF = "#/components/schemas/Problem"

REQUESTS: tuple[Kind, ...] = ("command", "query")
ALL: tuple[Kind, ...] = (*REQUESTS, "topic")


@frozen
class Known:
    """A problem that the gateway answers with.

    Attributes:
        status: The HTTP status.
        name: The last part of its `type`.
        when: When that is.
        kinds: What kinds of routes answer with it; none for what is answered before a route is found.
    """

    status: int
    name: str
    when: str
    kinds: tuple[Kind, ...] = ()


KNOWN = (
    Known(400, "malformed-request", "the request cannot be read as HTTP, or could be read in two ways", ALL),
    Known(400, "invalid-input", "the input does not fit the contract; `errors` names each place", ALL),
    Known(400, "idempotency-key-missing", "the contract requires an `Idempotency-Key`; nothing happened", ("command",)),
    Known(
        400, "idempotency-key-malformed", "the `Idempotency-Key` is no string in quotes; nothing happened", ("command",)
    ),
    Known(400, "several-credentials", "there are two credentials; send one", ALL),
    Known(401, "unauthenticated", "there is no credential, and the contract requires scopes", ALL),
    Known(401, "invalid-credential", "the credential is not valid, or no longer", ALL),
    Known(403, "forbidden", "the credential does not carry the scopes that the contract requires", ALL),
    Known(404, "not-found", "there is no such path"),
    Known(
        404, "unknown-message", "the module's process has another version, which does not know the message", REQUESTS
    ),
    Known(405, "method-not-allowed", "the path does not take this method; `Allow` names those it takes"),
    Known(408, "request-timeout", "the request, or its body, did not come in time; nothing happened", ("command",)),
    Known(
        409, "idempotency-key-in-use", "a request with the same `Idempotency-Key` is still being handled", ("command",)
    ),
    Known(413, "body-too-large", "the body is larger than the gateway takes", ("command",)),
    Known(413, "message-too-large", "the message, or its reply, is larger than a message may be", REQUESTS),
    Known(414, "url-too-long", "the address is longer than the gateway takes", ("query", "topic")),
    Known(415, "unsupported-media-type", "the body is not sent as plain JSON", ("command",)),
    Known(417, "expectation-failed", "something other than `100-continue` is expected"),
    Known(422, "idempotency-key-reused", "the `Idempotency-Key` came before, with another content", ("command",)),
    Known(429, "too-many-requests", "this client, its address or its connection has asked too often", ALL),
    Known(431, "head-too-large", "the head of the request is larger, or has more fields, than the gateway takes", ALL),
    Known(500, "handler-failed", "the handler failed; the log tells why, under `message_id`", REQUESTS),
    Known(500, "internal-error", "the gateway failed; the log tells why, under `request_id`", ALL),
    Known(501, "not-implemented", "the method is CONNECT"),
    Known(501, "not-installed", "what writes metrics is not installed"),
    Known(403, "metrics-closed", "metrics are not open to others than this machine"),
    Known(503, "overloaded", "a bound is reached; it did not happen", ALL),
    Known(429, "too-many-operations", "this client has as many operations in progress as one may have", ("command",)),
    Known(429, "too-many-streams", "this client has as many event streams open as one may have", ("topic",)),
    Known(503, "unavailable", "the module, or the log, cannot be reached; it did not happen", ALL),
    Known(503, "keys-unavailable", "it cannot be found out now who asks; nothing happened", ALL),
    Known(504, "deadline-exceeded", "it was not done in time; it may have happened", REQUESTS),
    Known(505, "http-version-not-supported", "the version of HTTP is not served"),
)

_LATER = (429, 503)
"""Statuses whose answers say when to try again."""
_FORBIDDEN = 403


def component_responses() -> Json:
    """Return the responses that operations refer to, one per status."""
    statuses = sorted({known.status for known in KNOWN})
    return {
        _component(status): _response(status, [known for known in KNOWN if known.status == status], [])
        for status in statuses
    }


def problem_schema() -> Json:
    """Return the schema of a problem (RFC 9457), as every error of the gateway is."""
    text: Json = {"type": "string"}
    return {
        "title": "Problem",
        "description": "What is told to a client whose request was not done (RFC 9457).",
        "type": "object",
        "properties": {
            "type": {
                "type": "string",
                "format": "uri-reference",
                "description": "Which problem it is, such as `/problems/invalid-input`.",
            },
            "title": text,
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": {**text, "description": "What happened and what to do, as sentences."},
            "request_id": {**text, "description": "The id of the request, under which logs tell more."},
            "message_id": {**text, "description": "The id of the message whose handler failed."},
            "missing_scopes": {"type": "array", "items": text, "description": "The scopes that the caller lacks."},
            "errors": {
                "type": "array",
                "description": "What is wrong with the input.",
                "items": {
                    "type": "object",
                    "properties": {
                        "path": {**text, "description": "The place, as a JSON path such as `$.source`."},
                        "message": text,
                    },
                    "required": ["path", "message"],
                },
            },
        },
        "required": ["type", "title", "status", "detail"],
    }


def declared_problem(error: type[DeclaredError], shapes: Shapes) -> Json:
    """Return the reference to the schema of a declared error, which is made where it is not there yet.

    Args:
        error: The class of the error.
        shapes: Makes the schemas of its fields.
    """
    name = shapes.name_of(error)
    if name not in shapes.components:
        properties, required = shapes.fields_of(error)
        fields: Json = {"type": "object", "properties": properties} | ({"required": required} if required else {})
        shapes.components[name] = {
            "title": error.__name__,
            "description": prose_of(error).text or f"The declared error {error.__name__}.",
            "allOf": [{"$ref": PROBLEM_REF}],
            "type": "object",
            "properties": {
                "type": {"const": f"/problems/{kebab_case(error.__name__)}"},
                "status": {"const": error.status},
                "error": fields,
            },
            "required": ["error"],
        }
    return {"$ref": f"#/components/schemas/{name}"}


def problems_of(route: Route, shapes: Shapes) -> dict[int, Json]:
    """Return the responses of a route that are problems, by status.

    Args:
        route: The route.
        shapes: Makes the schemas of declared errors.
    """
    target = route.target
    declared: dict[int, list[type[DeclaredError]]] = {}
    if not isinstance(target, Topic):
        requests: type[Command[Any] | Query[Any]] = target
        for error in requests.declared_errors:
            declared.setdefault(error.status, []).append(error)
    known: dict[int, list[Known]] = {}
    for one in KNOWN:
        if route.kind in one.kinds and (target.required_scopes or one.status != _FORBIDDEN):
            known.setdefault(one.status, []).append(one)
    found: dict[int, Json] = {}
    for status in sorted({*known, *declared}):
        if status in declared:
            errors = [(error, declared_problem(error, shapes)) for error in declared[status]]
            found[status] = _response(status, known.get(status, []), errors)
        else:
            found[status] = {"$ref": f"#/components/responses/{_component(status)}"}
    return found


def refer(statuses: Iterable[int]) -> dict[int, Json]:
    """Return references to the responses of some statuses, for a route that no contract describes."""
    return {status: {"$ref": f"#/components/responses/{_component(status)}"} for status in statuses}


def _component(status: int) -> str:
    return f"Problem-{status}"  # the phrases of statuses differ between versions of Python


def _response(status: int, known: list[Known], errors: list[tuple[type[DeclaredError], Json]]) -> Json:
    lines = [f"`{kebab_case(error.__name__)}`: {prose_of(error).summary or 'a declared error.'}" for error, _ in errors]
    lines += [f"`{one.name}`: {one.when}." for one in known]
    refs = [ref for _, ref in errors]
    if known:
        refs.append({"$ref": PROBLEM_REF})
    schema: Json = refs[0] if len(refs) == 1 else {"anyOf": refs}
    described = "\n".join(f"- {line}" for line in lines) if len(lines) > 1 else lines[0]
    response: Json = {"description": described, "content": {MEDIA_TYPE: {"schema": schema}}}
    headers: Json = {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}}
    if known and status in _LATER:
        headers["Retry-After"] = {"$ref": "#/components/headers/Retry-After"}
    elif known and status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = {"schema": {"type": "string"}, "description": "The methods that the path takes."}
    elif known and status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = {"schema": {"type": "string"}, "description": "How to authenticate (RFC 9110)."}
    return response | {"headers": headers}


def component_headers() -> Json:
    """Return the headers that answers refer to."""
    return {
        "X-Request-ID": {
            "description": "The id of the request: what the client sent, or a new one. What is answered before a request is read has none.",
            "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
        },
        "Retry-After": {
            "description": f"After how many seconds to try again; {RETRY_AFTER_S} where no better moment is known.",
            "schema": {"type": "integer", "minimum": 0},
        },
    }
