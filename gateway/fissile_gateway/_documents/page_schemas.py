"""Schemas as HTML: what a type is called, and tables of fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from html import escape
from typing import Any

from fissile._schemas import INTEGER_MAX, INTEGER_MIN, PATTERNS, Json
from fissile_gateway._documents.examples import name_of_ref

_CODE = re.compile(r"`([^`]+)`")


def prose(text: str) -> str:
    """Return a description as HTML: paragraphs, lists of lines that begin with a hyphen, and code in backticks."""
    blocks: list[str] = []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if lines and all(line.startswith(("- ", "* ")) for line in lines):
            blocks.append("<ul>" + "".join(f"<li>{inline(line[2:])}</li>" for line in lines) + "</ul>")
        elif block.strip():
            blocks.append(f"<p>{inline(block)}</p>")
    return "".join(blocks)


def inline(text: str) -> str:
    """Return a line of a description as HTML."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def type_name(schema: Json) -> str:
    """Return how the type of a schema is called, as HTML with links to the types of the document."""
    if "$ref" in schema:
        name = name_of_ref(schema)
        return f'<a href="#{anchor("type", name)}">{escape(name.rpartition(".")[2])}</a>'
    options: list[Json] = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf") or []
    if options:
        return " or ".join(dict.fromkeys(type_name(option) for option in options))
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value, ensure_ascii=False))}</code>" for value in schema["enum"])
    kind = schema.get("type", "anything")
    if kind == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(type_name(item) for item in schema['prefixItems'])}]"
        return f"list of {type_name(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map of {type_name(schema['additionalProperties'])}"
    pattern = schema.get("pattern")
    said = PATTERNS[pattern][0] if pattern in PATTERNS else schema.get("format", "")
    return escape(f"{kind}, {said}" if said and said != "int64" else str(kind))


def limits(schema: Json) -> str:
    """Return the constraints and the default of a schema, as HTML."""
    said: list[str] = []
    for key, word in _LIMITS.items():
        if key in schema and schema[key] not in (INTEGER_MIN, INTEGER_MAX):
            said.append(f"{word} {escape(str(schema[key]))}")
    if "pattern" in schema and schema["pattern"] not in PATTERNS:
        said.append(f"matches <code>{escape(schema['pattern'])}</code>")
    if schema.get("default") is not None:
        said.append(f"default <code>{escape(json.dumps(schema['default'], ensure_ascii=False))}</code>")
    for option in schema.get("anyOf", ()):
        if option.get("type") != "null" and (inner := limits(option)):
            said.append(inner)
    return ", ".join(said)


_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "multipleOf": "a multiple of",
    "minLength": "length at least",
    "maxLength": "length at most",
    "minItems": "items at least",
    "maxItems": "items at most",
}


def fields(rows: Iterable[tuple[str, Json, bool | None]]) -> str:
    """Return a table of fields.

    Args:
        rows: The name, the schema, and whether it has to be there; None where nothing is to be said of that.
    """
    written: list[str] = []
    for name, schema, is_required in rows:
        must = ' <span class="must">required</span>' if is_required else ""
        described = inline(schema.get("description", ""))
        bounds = limits(schema)
        bounds = f'<div class="limits">{bounds}</div>' if bounds else ""
        written.append(
            f"<tr><td><code>{escape(name)}</code>{must}</td><td>{type_name(schema)}</td><td>{described}{bounds}</td></tr>"
        )
    head = "<tr><th>Name</th><th>Type</th><th>Meaning</th></tr>"
    return f'<div class="wide" tabindex="0"><table>{head}{"".join(written)}</table></div>' if written else ""


def properties(schema: Json, *, is_input: bool) -> str:
    """Return the table of the fields of an object, or its type's name if it is none.

    Args:
        schema: The schema.
        is_input: Whether fields that are required are marked; in an answer all are there.
    """
    found: dict[str, Json] = schema.get("properties", {})
    if not found:
        return f"<p>{type_name(schema)}</p>" if schema.get("type") != "object" else "<p>No fields.</p>"
    required: list[str] = schema.get("required", [])
    return fields((name, inner, (name in required) if is_input else None) for name, inner in found.items())


def anchor(kind: str, name: str) -> str:
    """Return the id of a part of the page."""
    return f"{kind}-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-') or 'root'}"


def shown(value: Any) -> str:  # Any: JSON
    """Return a value as indented JSON, escaped."""
    return escape(json.dumps(value, indent=2, ensure_ascii=False))
