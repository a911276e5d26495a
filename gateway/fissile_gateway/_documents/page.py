"""The API page: the OpenAPI document for people, as one HTML file without script and without anything foreign."""

from __future__ import annotations

from html import escape
from typing import Any

from fissile._schemas import Json
from fissile_gateway._documents.examples import curl, example_of, name_of_ref, parameters_of
from fissile_gateway._documents.page_schemas import anchor, fields, inline, properties, prose, shown, type_name
from fissile_gateway._documents.page_style import PAGE_POLICY as PAGE_POLICY
from fissile_gateway._documents.page_style import STYLE
from fissile_gateway._routes import PREFIX

JSON = "application/json"
EVENTS = "text/event-stream"
METHODS = ("get", "put", "post", "delete", "patch")


def page(document: Json) -> str:
    """Return the page of an OpenAPI document."""
    title = escape(document["info"]["title"])
    groups = _groups(document)
    links: list[str] = []
    sections: list[str] = []
    for tag, operations in groups.items():
        described = next((each.get("description", "") for each in document["tags"] if each["name"] == tag), "")
        items = "".join(_link(method, path, operation) for method, path, operation in operations)
        links.append(f"<strong>{escape(tag)}</strong><ul>{items}</ul>")
        parts = "".join(_operation(method, path, operation, document) for method, path, operation in operations)
        sections.append(f'<section><h2 id="{anchor("tag", tag)}">{escape(tag)}</h2>{prose(described)}{parts}</section>')
    mounted = [(path, item["description"]) for path, item in document["paths"].items() if item.get("x-mounted")]
    if mounted:
        parts = "".join(f"<li><code>{escape(path)}</code>: {inline(text)}</li>" for path, text in mounted)
        sections.append(f"<section><h2>Other applications</h2><ul>{parts}</ul></section>")
    sections.append(_types(document))
    links.append('<ul><li><a href="#types">Types</a></li></ul>')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><title>{title}: API</title><style>{STYLE}</style></head><body>'
        '<a class="skip" href="#main">Skip to the routes</a>'
        f'<header><h1>{title}</h1><p class="soft">Version {escape(document["info"]["version"])}. The same for programs: '
        '<a href="openapi.json">OpenAPI</a>, <a href="asyncapi.json">AsyncAPI</a>.</p>'
        f"{prose(document['info']['description'])}"
        "<p>In the examples <code>$URL</code> is where this gateway is, such as <code>http://localhost:8000</code>.</p></header>"
        f'<div class="layout"><nav aria-label="Routes"><details open><summary>Routes</summary><div>{"".join(links)}</div></details></nav>'
        f'<main id="main">{"".join(sections)}</main></div></body></html>'
    )


def _groups(document: Json) -> dict[str, list[tuple[str, str, Json]]]:
    """Return the operations by their first tag, in the order of the document."""
    groups: dict[str, list[tuple[str, str, Json]]] = {each["name"]: [] for each in document["tags"]}
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                tag = (item[method].get("tags") or ["application"])[0]
                groups.setdefault(tag, []).append((method, path, item[method]))
    return {tag: operations for tag, operations in groups.items() if operations}


def _is_stream(operation: Json) -> bool:
    return EVENTS in operation["responses"].get("200", {}).get("content", {})


def _method(method: str, operation: Json) -> str:
    kind, shown_as = (
        ("topic", "SSE") if _is_stream(operation) else (method if method == "get" else "post", method.upper())
    )
    return f'<span class="method {kind}">{shown_as}</span>'


def _link(method: str, path: str, operation: Json) -> str:
    tag = (operation.get("tags") or ("",))[0]
    shown_as = path.removeprefix(f"{PREFIX}/{tag}/")
    return f'<li><a href="#{anchor(method, path)}">{_method(method, operation)} {escape(shown_as)}</a></li>'


def _operation(method: str, path: str, operation: Json, document: Json) -> str:
    name = anchor(method, path)
    parts = [
        f'<h3>{_method(method, operation)} <a href="#{name}"><code>{escape(path)}</code></a></h3>',
        '<p class="must">Deprecated</p>' if operation.get("deprecated") else "",
        prose(operation.get("summary", "")),
        prose(operation.get("description", "")),
    ]
    requirements: list[dict[str, list[str]]] = operation.get("security", [])
    if requirements:
        scopes = next(iter(requirements[0].values()))
        named = ", ".join(f"<code>{escape(scope)}</code>" for scope in scopes)
        parts.append(f"<p>Requires {named}.</p>")
    parts += [_body(operation, document), _parameters(operation, document)]
    parts.append(f'<h4>Example</h4><pre tabindex="0">{escape(curl(method.upper(), path, operation, document))}</pre>')
    parts += [_replies(operation, document), _errors(operation, document)]
    return f'<article id="{name}">{"".join(parts)}</article>'


def _parameters(operation: Json, document: Json) -> str:
    rows: list[tuple[str, Json, bool | None]] = []
    for parameter in parameters_of(operation, document):
        schema = dict(parameter["content"][JSON]["schema"] if "content" in parameter else parameter["schema"])
        notes = (
            parameter.get("description", ""),
            "JSON text." if "content" in parameter else "",
            "May be repeated." if parameter.get("explode") else "",
            {"header": "A header.", "path": "Part of the path."}.get(parameter["in"], ""),
        )
        described = " ".join(note for note in notes if note)
        rows.append((parameter["name"], schema | {"description": described}, parameter.get("required", False)))
    return f"<h4>Parameters</h4>{fields(rows)}" if rows else ""


def _body(operation: Json, document: Json) -> str:
    schema = operation.get("requestBody", {}).get("content", {}).get(JSON, {}).get("schema")
    if schema is None:
        return ""
    component = document["components"]["schemas"][name_of_ref(schema)] if "$ref" in schema else schema
    return f"<h4>Body</h4>{properties(component, is_input=True)}"


def _replies(operation: Json, document: Json) -> str:
    parts: list[str] = []
    for status, told in operation["responses"].items():
        if status[0] not in "123d":
            continue
        response = _followed(told, document)
        rows = f"<p><code>{escape(status)}</code> {inline(response['description'])}</p>"
        for media_type, content in response.get("content", {}).items():
            schema = content["schema"]
            if media_type == EVENTS:
                rows += _events(schema)
            elif media_type == JSON and status == "200":
                example = example_of(schema, document["components"]["schemas"], is_complete=True)
                rows += f'<p>{type_name(schema)}</p><pre tabindex="0">{shown(example)}</pre>'
            elif media_type != JSON:
                rows += f'<p class="soft">{escape(media_type)}</p>'
        parts.append(rows)
    return f"<h4>Replies</h4>{''.join(parts)}"


def _events(schema: Json) -> str:
    rows: list[tuple[str, Json, bool | None]] = []
    for frame in schema.get("anyOf", ()):
        members: dict[str, Any] = frame["properties"]
        if "event" in members:
            rows.append((members["event"]["const"], members["data"]["contentSchema"], None))
    return fields(rows)


def _errors(operation: Json, document: Json) -> str:
    rows: list[str] = []
    for status, response in operation["responses"].items():
        if status[0] in "45":
            described = prose(_followed(response, document)["description"])
            rows.append(f"<tr><td><code>{escape(status)}</code></td><td>{described}</td></tr>")
    statuses = ", ".join(status for status in operation["responses"] if status[0] in "45")
    table = (
        f'<div class="wide" tabindex="0"><table><tr><th>Status</th><th>Problem</th></tr>{"".join(rows)}</table></div>'
    )
    return f"<details><summary>Errors: {escape(statuses)}</summary>{table}</details>" if rows else ""


def _types(document: Json) -> str:
    parts: list[str] = []
    for name, schema in document["components"]["schemas"].items():
        inner = dict(schema.get("properties", {}).get("error") or schema) if "allOf" in schema else schema
        described = prose(schema.get("description", ""))
        table = properties(inner, is_input=schema.get("additionalProperties") is False)
        parts.append(
            f'<article id="{anchor("type", name)}"><h3><code>{escape(name)}</code></h3>{described}{table}</article>'
        )
    return f'<section><h2 id="types">Types</h2>{"".join(parts)}</section>'


def _followed(response: Json, document: Json) -> Json:
    found: Json = document["components"]["responses"][name_of_ref(response)] if "$ref" in response else response
    return found
