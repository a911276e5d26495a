"""The front page: what this application can be asked, on one page without scripts or foreign files."""

from __future__ import annotations

from html import escape

from quart import Blueprint, Response

from fissile_gateway import current_process, current_routes, operation

blueprint = Blueprint("home", __name__)

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:3rem auto;padding:0 1rem;color:#1c2024;background:#fcfcfd}"
    "h1{font-weight:600}h2{font-size:1.1rem;margin:2rem 0 .5rem}table{border-collapse:collapse;width:100%}"
    "td{padding:.3rem .8rem .3rem 0;vertical-align:top;border-top:1px solid #e4e6ea}code{font-size:.9em}"
    "td:first-child{width:4rem;color:#5b6470}p{color:#5b6470}"
    "@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#15171a}td{border-color:#2b2f36}"
    "p,td:first-child{color:#9aa3af}}"
)


@blueprint.get("/")
@operation(media_type="text/html")
async def home() -> Response:
    """Show the routes of the application."""
    process = current_process()
    sections: dict[str, list[str]] = {}
    for route in current_routes():
        note = "an event stream" if route.kind == "topic" else route.summary
        row = f"<tr><td>{route.method}</td><td><code>{escape(route.path)}</code></td><td>{escape(note)}</td></tr>"
        sections.setdefault(route.module, []).append(row)
    tables = "".join(f"<h2>{escape(module)}</h2><table>{''.join(rows)}</table>" for module, rows in sections.items())
    name = escape(process.application)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{name}</h1><p>What this application can be asked. A command is a POST with a JSON body, a query is a GET "
        f"with parameters.</p>{tables}"
        '<p>All of it: <a href="/api">/api</a>, <a href="/openapi.json">/openapi.json</a>, '
        '<a href="/asyncapi.json">/asyncapi.json</a>. Probes: <a href="/livez">/livez</a>, <a href="/readyz?verbose=1">/readyz</a>.</p></html>'
    )
    return Response(
        page, 200, {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
    )
