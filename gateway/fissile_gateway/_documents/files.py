"""The OpenAPI document without a running gateway, for `fissile export`."""

from __future__ import annotations

from time import monotonic

from quart import Quart

from fissile import Contract, Process
from fissile._schemas import Json
from fissile._settings import Sources, load
from fissile_gateway._app import add_other_routes
from fissile_gateway._documents.openapi import openapi
from fissile_gateway._operations import Operations
from fissile_gateway._operations_elsewhere import Siblings
from fissile_gateway._pages import find_pages
from fissile_gateway._routes import GATEWAY
from fissile_gateway._settings import GatewaySettings


def openapi_of(name: str, contracts: tuple[Contract, ...], sources: Sources) -> Json:
    """Return the document that the gateway of an application serves.

    Args:
        name: The application's name.
        contracts: Its contracts.
        sources: Where its settings come from.

    Raises:
        StartupFailed: The settings have faults, or the application's own routes cannot be imported.
    """
    settings, _ = load(GatewaySettings, sources, GATEWAY)
    pages = find_pages(settings.routes)
    process = Process(
        application=name,
        name="export",
        placement="",
        modules=(),
        contracts=contracts,
        max_message_bytes=0,
        is_dev=False,
        checks=tuple,
    )
    quart = Quart(__name__, static_folder=None)
    add_other_routes(quart, process, settings, pages, Siblings(Operations(settings, monotonic), folder=""))
    return openapi(name, settings.api_version, contracts, quart, pages.mounts)
