"""The OpenAPI operations of hand-written routes, as far as they can be known: path, method, docstring, and what `operation` was told."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fissile._docstrings import prose_of
from fissile._schemas import Json, Shapes
from fissile_gateway._documents.answers import PROBLEM_REF, declared_problem, refer
from fissile_gateway._documents.http_meaning import security_of
from fissile_gateway._operation import operation_of, scopes_noted
from fissile_gateway._problems import MEDIA_TYPE

if TYPE_CHECKING:
    from quart import Quart
    from werkzeug.routing import Rule

JSON = "application/json"
_IMPLIED = {"HEAD", "OPTIONS"}
_VARIABLE = re.compile(r"<(?:(?P<kind>\w+)(?:\((?P<arguments>[^)]*)\))?:)?(?P<name>[^<>:]+)>")
_CONVERTERS: dict[str, Json] = {
    "int": {"type": "integer", "minimum": 0},
    "float": {"type": "number", "minimum": 0},
    "uuid": {"type": "string", "format": "uuid"},
}
"""What the variables of a path are, by the names of werkzeug's converters."""


class OwnRoutes:
    """Describes the routes that are in a Quart application and in no contract.

    Args:
        inputs: Makes the schemas of what is sent.
        replies: Makes the schemas of what is answered.
    """

    def __init__(self, inputs: Shapes, replies: Shapes) -> None:
        self._inputs = inputs
        self._replies = replies
        self._ids: Counter[str] = Counter()

    def paths(self, quart: Quart, taken: Iterable[str]) -> dict[str, Json]:
        """Return the path items of an application, by path, in the order of the paths.

        Args:
            quart: The application.
            taken: The paths that contracts describe.
        """
        described = set(taken)
        found: dict[str, Json] = {}
        for rule in sorted(quart.url_map.iter_rules(), key=lambda rule: rule.rule):
            path = _VARIABLE.sub(lambda match: f"{{{match['name']}}}", rule.rule)
            if path in described:
                continue
            view = quart.view_functions.get(rule.endpoint)
            for method in sorted((rule.methods or set()) - _IMPLIED):
                found.setdefault(path, {})[method.lower()] = self._operation(rule, view)
        return found

    def _operation(self, rule: Rule, view: object) -> Json:
        told = operation_of(view)
        prose = prose_of(view)
        function = getattr(view, "__name__", rule.endpoint)
        operation: Json = {
            "tags": [_tag(rule.endpoint)],
            "summary": prose.summary or function.replace("_", " ").capitalize(),
        }
        if prose.description:
            operation["description"] = prose.description
        self._ids[rule.endpoint] += 1
        number = self._ids[rule.endpoint]
        operation["operationId"] = rule.endpoint if number == 1 else f"{rule.endpoint}.{number}"
        parameters = _path_parameters(rule.rule)
        if parameters:
            operation["parameters"] = parameters
        if told.body is not None:
            operation["requestBody"] = {"required": True, "content": {JSON: {"schema": self._inputs.of(told.body)}}}
        responses = self._responses(told.reply, told.status, told.media_type)
        errors: dict[int, list[Json]] = {}
        for error in told.raises:
            errors.setdefault(error.status, []).append(declared_problem(error, self._replies))
        scopes = scopes_noted(view)
        if scopes:
            operation["security"] = security_of(scopes)
        # A credential that is not accepted is refused on every route, and so is who asks too often; a body that is told of is JSON.
        general = (400, 401, *((403,) if scopes else ()), *((413, 415) if told.body is not None else ()), 429, 500, 503)
        for status, refs in sorted(errors.items()):
            schemas = [*refs, {"$ref": PROBLEM_REF}] if status in general else refs
            schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
            responses[str(status)] = {"description": "A declared error.", "content": {MEDIA_TYPE: {"schema": schema}}}
        for status, ref in refer(general).items():
            responses.setdefault(str(status), ref)
        operation["responses"] = responses
        return operation | dict(told.openapi)

    def _responses(self, reply: Any, status: int, media_type: str | None) -> Json:
        if reply is None and media_type is None:
            if status == HTTPStatus.NO_CONTENT:
                return {str(int(status)): {"description": "Nothing more is said."}}
            return {"default": {"description": "What the application answers."}}
        response: Json = {"description": "The answer."}
        if reply is not None:
            response["content"] = {media_type or JSON: {"schema": self._replies.of(reply)}}
        else:
            response["content"] = {media_type: {"schema": {"type": "string"}}}
        return {str(status): response}


def mounted(mounts: Mapping[str, object], taken: Iterable[str]) -> dict[str, Json]:
    """Return a path item for each application that is mounted; what it answers is not known here.

    Args:
        mounts: The applications by the path below which they answer.
        taken: The paths that have an item.
    """
    described = set(taken)
    return {
        path: {
            "summary": "Another application",
            "description": f"Another ASGI application answers to `{path}` and everything below it.",
            "x-mounted": True,
        }
        for path in sorted(mounts)
        if path not in described
    }


def _tag(endpoint: str) -> str:
    """Return the blueprint of an endpoint."""
    return endpoint.rpartition(".")[0] or "application"


def _path_parameters(rule: str) -> list[Json]:
    parameters: list[Json] = []
    for match in _VARIABLE.finditer(rule):
        schema = _CONVERTERS.get(match["kind"] or "", {"type": "string", "minLength": 1})
        if match["kind"] == "any":
            schema = {"type": "string", "enum": [item.strip().strip("'\"") for item in match["arguments"].split(",")]}
        parameters.append({"name": match["name"], "in": "path", "required": True, "schema": schema})
    return parameters
