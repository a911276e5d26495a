"""Example values of schemas, for the page: what a contract gives as an example or default, otherwise something of the right shape."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import quote

from fissile._schemas import PATTERNS, Json

# Any: JSON.

_DEPTH = 4
_LINE = 80
_FORMATS = {
    "date-time": "2026-01-31T12:00:00Z",
    "date": "2026-01-31",
    "uuid": "8e03978e-40d5-43e8-bc93-6894a57f9324",
    "uri-reference": "/problems/invalid-input",
}


def example_of(schema: Json, components: Mapping[str, Json], *, is_complete: bool, depth: int = 0) -> Any:
    """Return an example of what a schema describes.

    Args:
        schema: The schema.
        components: The schemas that it may refer to, by name.
        is_complete: Whether fields that may be left out are there.
        depth: How deep in a document it stands.
    """
    if "$ref" in schema:
        return example_of(components[name_of_ref(schema)], components, is_complete=is_complete, depth=depth)
    for key in ("example", "const", "default"):
        if schema.get(key) is not None:
            return schema[key]
    for key in ("examples", "enum"):
        if schema.get(key):
            return schema[key][0]
    options: list[Json] = schema.get("anyOf") or schema.get("oneOf") or []
    if options:
        chosen = next((option for option in options if option.get("type") != "null"), options[0])
        return example_of(chosen, components, is_complete=is_complete, depth=depth)
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return _object(schema, components, is_complete, depth)
    if kind == "array":
        return _array(schema, components, is_complete, depth)
    if kind in ("integer", "number"):
        return _number(schema)
    return _text(schema) if kind == "string" else {"boolean": True}.get(str(kind))


def _object(schema: Json, components: Mapping[str, Json], is_complete: bool, depth: int) -> Json:  # noqa: FBT001
    properties = cast("dict[str, Json]", schema.get("properties", {}))
    if depth >= _DEPTH:
        return {}
    required: list[str] = schema.get("required", [])
    made = {
        name: example_of(inner, components, is_complete=is_complete, depth=depth + 1)
        for name, inner in properties.items()
        if is_complete or name in required
    }
    extra = schema.get("additionalProperties")
    if not properties and isinstance(extra, dict):
        made["name"] = example_of(cast("Json", extra), components, is_complete=is_complete, depth=depth + 1)
    return made


def _array(schema: Json, components: Mapping[str, Json], is_complete: bool, depth: int) -> list[Any]:  # noqa: FBT001
    if depth >= _DEPTH:
        return []
    members: list[Json] = schema.get("prefixItems") or [schema.get("items", {})]
    return [example_of(member, components, is_complete=is_complete, depth=depth + 1) for member in members]


def _number(schema: Json) -> float:
    lowest: float = schema["minimum"] if "minimum" in schema else schema.get("exclusiveMinimum", 1)
    highest: float = schema.get("maximum", 2**53)
    value = min(max(1, lowest), highest)
    return float(value) if schema["type"] == "number" else value


def _text(schema: Json) -> str:
    pattern: str = schema.get("pattern", "")
    return PATTERNS[pattern][1] if pattern in PATTERNS else _FORMATS.get(schema.get("format", ""), "string")


def name_of_ref(schema: Json) -> str:
    """Return the name of the component that a schema refers to."""
    reference: str = schema["$ref"]
    return reference.rpartition("/")[2]


def curl(method: str, path: str, operation: Json, document: Json) -> str:
    """Return a command line that calls an operation; `$URL` stands for where the gateway is.

    Args:
        method: The HTTP method, in upper case.
        path: The path.
        operation: The operation.
        document: All of the document.
    """
    schemas: dict[str, Json] = document["components"]["schemas"]
    query: list[str] = []
    parts: list[str] = []
    for parameter in parameters_of(operation, document):
        if not parameter.get("required"):
            continue
        value = _parameter(parameter, schemas)
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", quote(value, safe=""))
        elif parameter["in"] == "query":
            query.append(f"{quote(parameter['name'])}={quote(value, safe='')}")
        else:
            parts.append(f"-H {_quoted(parameter['name'] + ': ' + value)}")
    if operation.get("security"):
        parts.insert(0, '-H "Authorization: Bearer $TOKEN"')
    body = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if body:
        given = example_of(body["schema"], schemas, is_complete=False)
        text = json.dumps(given, ensure_ascii=False)
        if len(text) > _LINE:
            text = json.dumps(given, ensure_ascii=False, indent=2)
        parts += ["-H 'Content-Type: application/json'", f"-d {_quoted(text)}"]
    flags = "-N " if "text/event-stream" in _answer(operation) else ""
    if method not in ("GET", "POST") or (method == "POST" and not body):
        flags += f"-X {method} "
    address = f'"$URL{path}{"?" if query else ""}{"&".join(query)}"'
    return " \\\n  ".join([f"curl {flags}{address}", *parts])


def _parameter(parameter: Json, schemas: Mapping[str, Json]) -> str:
    if "content" in parameter:
        schema = parameter["content"]["application/json"]["schema"]
        return json.dumps(example_of(schema, schemas, is_complete=False), ensure_ascii=False)
    value = parameter.get("example") or example_of(parameter["schema"], schemas, is_complete=True)
    if isinstance(value, list):
        value = cast("Sequence[Any]", value)[0]
    return value if isinstance(value, str) else json.dumps(value)


def parameters_of(operation: Json, document: Json) -> list[Json]:
    """Return the parameters of an operation, references followed."""
    known: dict[str, Json] = document["components"].get("parameters", {})
    found: list[Json] = operation.get("parameters", [])
    return [known[name_of_ref(parameter)] if "$ref" in parameter else parameter for parameter in found]


def _answer(operation: Json) -> Json:
    content: Json = operation["responses"].get("200", {}).get("content", {})
    return content


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
