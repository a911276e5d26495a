"""Routes with and without a description."""

from __future__ import annotations

from typing import Any

from quart import Blueprint, Response

from fissile_gateway import current_bus, operation, requires
from tests.gateway.everything import Count, Missing, Search

blueprint = Blueprint("pages", __name__)


@blueprint.get("/pages/<int:year>/<any(spring, autumn):season>")
async def undescribed(year: int, season: str) -> str:
    """Show a season.

    Of a year.
    """
    return f"{season} {year}"


@blueprint.get("/total")
@requires("totals:read")
@operation(reply=int)
async def total() -> Response:
    """Count."""
    return Response(str(await current_bus().ask(Count())), content_type="application/json")


@blueprint.post("/press")
@operation(media_type="text/plain", status=201, raises=(Missing,), openapi={"tags": ["everything"]})
async def press() -> Response:
    """Press a leaf."""
    await current_bus().ask(Search("oak"))
    return Response("pressed", 201, content_type="text/plain")


async def legacy(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"legacy"})


mounts = {"/legacy": legacy}
