"""The gateway inside of another web application: a process that is started by that application, with the gateway over it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fissile import App
from fissile_gateway._exchange import Gateway
from fissile_gateway._module import create_app
from fissile_gateway._settings import GatewaySettings


@asynccontextmanager
async def mounted(app: App, settings: GatewaySettings | None = None) -> AsyncGenerator[Gateway]:
    """Make the gateway of a running process, for another ASGI application to pass requests to.

    `async with fissile.client() as app, mounted(app) as gateway:` belongs into the lifespan of the other application. At the end of the block event
    streams end, and what is mounted in the gateway is shut down.

    Args:
        app: The process; it is running.
        settings: The bounds; where to listen is not looked at.

    Raises:
        CallRefused: The process is not running.
        StartupFailed: The application's own routes cannot be imported.
        MountFailed: What is mounted in the gateway cannot start.
    """
    async with create_app(app.bus, app.description(), settings).running() as gateway:
        yield gateway
