"""An existing Django project with modules in it: its views use the bus, and the gateway answers below /modules."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from django.conf import settings
from django.http import HttpRequest, JsonResponse
from django.urls import path

from fissile import App, Bus
from fissile_gateway import MountedGateway
from tests.gateway.mounted import library

if not settings.configured:
    settings.configure(SECRET_KEY="for this example only", ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__)

from django.core.asgi import get_asgi_application  # after the settings


async def book(request: HttpRequest, isbn: str) -> JsonResponse:
    return JsonResponse({"isbn": isbn, "title": await running.bus.ask(library.GetTitle(isbn))})


urlpatterns = [path("books/<isbn>", book)]


class Running:
    """What Django's views find: it has no lifespan of its own, and so no place for what lives as long as the process."""

    bus: Bus


running = Running()
modules = MountedGateway()
django = get_asgi_application()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """What the ASGI server serves."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["path"].startswith("/modules/"):
        await modules({**scope, "root_path": f"{scope.get('root_path', '')}/modules"}, receive, send)
    else:
        await django(scope, receive, send)


async def lifespan(receive: Any, send: Any) -> None:
    """Start the modules with the server, and end them with it."""
    await receive()
    async with AsyncExitStack() as stack:
        try:
            # Where the modules run in processes of their own: `fissile.client()` in the place of `App([...])`.
            app = await stack.enter_async_context(App([library.module]))
            await stack.enter_async_context(modules.over(app))
            running.bus = app.bus
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
