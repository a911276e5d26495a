"""Where the documents are: `/openapi.json`, `/asyncapi.json` and `/api`. Each is made when it is asked for first, and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import msgspec
from attrs import define, field
from quart import Blueprint, Response, request

from fissile import Process
from fissile._asyncapi import asyncapi
from fissile._schemas import Json
from fissile_gateway._documents.openapi import openapi
from fissile_gateway._documents.page import PAGE_POLICY, page
from fissile_gateway._operation import operation
from fissile_gateway._settings import GatewaySettings

if TYPE_CHECKING:
    from quart import Quart

JSON = "application/json"
HTML = "text/html; charset=utf-8"

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
        return openapi(name, version, process.contracts, quart, mounts)

    as_openapi = _Document(lambda: msgspec.json.encode(described()))
    as_asyncapi = _Document(
        lambda: msgspec.json.encode(asyncapi(name, version, process.contracts, only_public=True))
    )
    as_page = _Document(lambda: page(described()).encode())

    @operation(media_type=JSON, openapi=_told("This document.", JSON))
    async def openapi_json() -> Response:
        """Get the OpenAPI document of the gateway."""
        return await _answer(as_openapi, JSON)

    @operation(media_type=JSON, openapi=_told("The document.", JSON))
    async def asyncapi_json() -> Response:
        """Get the AsyncAPI document: what stands in the logs, for programs that take part there."""
        return await _answer(as_asyncapi, JSON)

    @operation(media_type="text/html", openapi=_told("The page.", "text/html"))
    async def api_page() -> Response:
        """Read what the gateway can be asked, as a page."""
        return await _answer(as_page, HTML, {"content-security-policy": PAGE_POLICY})

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


async def _answer(document: _Document, content_type: str, headers: Mapping[str, str] | None = None) -> Response:
    response = Response(await document.bytes(), 200, {"cache-control": "no-cache", **(headers or {})})
    response.headers["content-type"] = content_type
    await response.add_etag()
    await response.make_conditional(request)
    return response
