"""The gateway inside of another web application, which starts the process that it stands over."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeVar

from fissile import App, Fault, StartupFailed
from fissile._settings import load
from fissile_gateway._exchange import Receive, Scope, Send
from fissile_gateway._gateway import Gateway
from fissile_gateway._module import create_app
from fissile_gateway._problems import MEDIA_TYPE, Problem
from fissile_gateway._protection_settings import ProtectionSettings
from fissile_gateway._routes import GATEWAY
from fissile_gateway._settings import GatewaySettings

S = TypeVar("S", GatewaySettings, ProtectionSettings)


class MountedGateway:
    """A gateway to be mounted in another ASGI application: it can be mounted at import, and answers while `over` has a process for it.

    `async with fissile.client() as app, modules.over(app):` belongs into the lifespan of the other application.

    Args:
        settings: The bounds; where to listen is not looked at. Where the process has its settings from, unless told.
        protection: What it defends itself with; what only a server can do, such as TLS, is not looked at. From the same place, unless told.
    """

    def __init__(
        self, settings: GatewaySettings | None = None, *, protection: ProtectionSettings | None = None
    ) -> None:
        self._settings = settings
        self._protection = protection
        self._gateway: Gateway | None = None

    @asynccontextmanager
    async def over(self, app: App) -> AsyncGenerator[Gateway]:
        """Answer for a running process until the block ends; then event streams end, and what is mounted in the gateway is shut down.

        Args:
            app: The process.

        Raises:
            CallRefused: The process is not running.
            StartupFailed: The application's own routes cannot be imported, or settings cannot be used; all of them are named.
            MountFailed: What is mounted in the gateway cannot start.
        """
        faults: list[Fault] = []
        settings = self._settings or _configured(GatewaySettings, app, faults)
        protection = self._protection or _configured(ProtectionSettings, app, faults)
        if faults:
            raise StartupFailed(tuple(faults))
        around = app.environment
        made = create_app(
            app.bus, app.description(), settings, protection=protection, ids=around.ids, clock=around.clock
        )
        async with made.running() as gateway:
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


def _configured(cls: type[S], app: App, faults: list[Fault]) -> S | None:
    """Return the settings that the gateway of a process would have, had it one."""
    if cls in app.overrides:
        given: S = app.overrides[cls]
        return given
    try:
        return load(cls, app.sources, GATEWAY)[0]
    except StartupFailed as failed:
        faults.extend(failed.faults)
        return None
