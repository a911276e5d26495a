"""Where the documents are: `/openapi.json`, `/asyncapi.json` and `/api`. Each is made when it is asked for first, and kept.

What makes them is imported then too, so that the start of a process does not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import msgspec
from attrs import define, field
from quart import Blueprint, Response, request

from fissile import Process
from fissile_gateway._operation import operation
from fissile_gateway._settings import GatewaySettings

if TYPE_CHECKING:
    from quart import Quart

JSON = "application/json"
HTML = "text/html; charset=utf-8"

Json = dict[str, Any]  # Any: JSON

_CACHED: Json = {
    "parameters": [{"name": "If-None-Match", "in": "header", "schema": {"type": "string"}}],
}
_UNCHANGED: Json = {"304": {"description": "It is the one that the client has."}}


@define(eq=False)
class _Document:
    """One document, made once.

    Attributes:
        make: Makes it; called in a thread.
    """

    make: Callable[[], bytes]
    _bytes: bytes | None = None
    _lock: anyio.Lock = field(factory=anyio.Lock)

    async def bytes(self) -> bytes:
        async with self._lock:
            if self._bytes is None:
                self._bytes = await anyio.to_thread.run_sync(self.make)
        return self._bytes


def documents(quart: Quart, process: Process, settings: GatewaySettings, mounts: Mapping[str, object]) -> Blueprint:
    """Make the routes of the documents.

    Args:
        quart: The application that has all routes.
        process: Tells the contracts.
        settings: Tell the version of the interface.
        mounts: Other ASGI applications, by the path below which they answer.
    """
    blueprint = Blueprint("documents", __name__)
    name, version = process.application, settings.api_version

    def described() -> Json:
        from fissile_gateway._documents.openapi import openapi

        return openapi(name, version, process.contracts, quart, mounts)

    def described_logs() -> bytes:
        from fissile._asyncapi import asyncapi

        return msgspec.json.encode(asyncapi(name, version, process.contracts, only_public=True))

    def written() -> bytes:
        from fissile_gateway._documents.page import page

        return page(described()).encode()

    as_openapi = _Document(lambda: msgspec.json.encode(described()))
    as_asyncapi = _Document(described_logs)
    as_page = _Document(written)

    @operation(media_type=JSON, openapi=_told("This document.", JSON))
    async def openapi_json() -> Response:
        """Get the OpenAPI document of the gateway."""
        document = await as_openapi.bytes()
        if request.root_path:  # the gateway is mounted in another application
            servers = msgspec.json.encode([{"url": request.root_path}])
            document = b'{"servers":%s,%s' % (servers, document[1:])
        return await _answer(document, JSON)

    @operation(media_type=JSON, openapi=_told("The document.", JSON))
    async def asyncapi_json() -> Response:
        """Get the AsyncAPI document: what stands in the logs, for programs that take part there."""
        return await _answer(await as_asyncapi.bytes(), JSON)

    @operation(media_type="text/html", openapi=_told("The page.", "text/html"))
    async def api_page() -> Response:
        """Read what the gateway can be asked, as a page."""
        document = await as_page.bytes()
        from fissile_gateway._documents.page_style import PAGE_POLICY  # imported with the page

        return await _answer(document, HTML, {"content-security-policy": PAGE_POLICY})

    blueprint.add_url_rule("/openapi.json", "openapi", openapi_json)
    blueprint.add_url_rule("/asyncapi.json", "asyncapi", asyncapi_json)
    blueprint.add_url_rule("/api", "page", api_page)
    return blueprint


def _told(what: str, media_type: str) -> Json:
    schema: Json = {"type": "object"} if media_type == JSON else {"type": "string"}
    answer: Json = {
        "description": what,
        "headers": {"ETag": {"schema": {"type": "string"}}, "Cache-Control": {"schema": {"type": "string"}}},
        "content": {media_type: {"schema": schema}},
    }
    return _CACHED | {"responses": {"200": answer, **_UNCHANGED}}


async def _answer(document: bytes, content_type: str, headers: Mapping[str, str] | None = None) -> Response:
    response = Response(document, 200, {"cache-control": "no-cache", **(headers or {})})
    response.headers["content-type"] = content_type
    await response.add_etag()
    await response.make_conditional(request)
    return response
