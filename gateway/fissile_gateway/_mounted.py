"""The gateway inside of another web application, which starts the process that it stands over."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fissile import App
from fissile_gateway._exchange import Receive, Scope, Send
from fissile_gateway._gateway import Gateway
from fissile_gateway._module import create_app
from fissile_gateway._problems import MEDIA_TYPE, Problem
from fissile_gateway._settings import GatewaySettings


class MountedGateway:
    """A gateway to be mounted in another ASGI application: it can be mounted at import, and answers while `over` has a process for it.

    `async with fissile.client() as app, modules.over(app):` belongs into the lifespan of the other application.

    Args:
        settings: The bounds; where to listen is not looked at.
    """

    def __init__(self, settings: GatewaySettings | None = None) -> None:
        self._settings = settings
        self._gateway: Gateway | None = None

    @asynccontextmanager
    async def over(self, app: App) -> AsyncGenerator[Gateway]:
        """Answer for a running process until the block ends; then event streams end, and what is mounted in the gateway is shut down.

        Args:
            app: The process.

        Raises:
            CallRefused: The process is not running.
            StartupFailed: The application's own routes cannot be imported.
            MountFailed: What is mounted in the gateway cannot start.
        """
        async with create_app(app.bus, app.description(), self._settings).running() as gateway:
            self._gateway = gateway
            try:
                yield gateway
            finally:
                self._gateway = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the gateway; 503 where there is no process."""
        if self._gateway is not None:
            await self._gateway(scope, receive, send)
        elif scope["type"] == "http":
            problem = Problem(503, "not-running", "The modules are not running.", headers=(("retry-after", "1"),))
            headers = [(b"content-type", MEDIA_TYPE.encode()), (b"retry-after", b"1")]
            await send({"type": "http.response.start", "status": problem.status, "headers": headers})
            await send({"type": "http.response.body", "body": problem.document("")})
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1013})
