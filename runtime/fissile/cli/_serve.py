"""Run one process of an application until a signal comes: what `run`, `dev --no-reload` and the child of `dev` share."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import anyio
from attrs import frozen

from fissile._app import App
from fissile._application import Application
from fissile._logging import adopt_structlog
from fissile._settings import Settings
from fissile.cli._exit import Exit
from fissile.cli._signals import StopSignals


@frozen
class Ready:
    """What is told when a process is ready.

    Attributes:
        application: The application's name.
        process: The process's name.
        backend: The event loop.
        bus: Where messages live.
        modules: The modules that it hosts.
        processes: How many processes the placement has.
        announcements: What its modules want a person to know, such as the gateway's address.
    """

    application: str
    process: str
    backend: str
    bus: str
    modules: tuple[str, ...]
    processes: int
    announcements: tuple[str, ...]


def serve(
    application: Application, process: str | None, *, signals: StopSignals, on_ready: Callable[[Ready], None]
) -> Exit:
    """Run one process until it is told to stop.

    Args:
        application: The application.
        process: The process's name; may be left out where there is one.
        signals: Tells when to stop.
        on_ready: Called when it is ready.

    Raises:
        StartupFailed: The application has faults.
        BaseException: Whatever ended the process.
    """
    app = application.app(process)
    adopt_structlog()
    processes = len(application.placement(tuple(module.name for module in app.modules) + tuple(each.name for each in app.contracts)))
    backend = backend_name(application.settings)

    def ready(announcements: tuple[str, ...]) -> None:
        names = tuple(module.name for module in app.modules)
        on_ready(Ready(app.name, app.process, backend, application.settings.bus, names, processes, announcements))

    run_async(_run, application.settings, app, signals, ready)
    return Exit.INTERRUPTED if signals.is_forced else Exit.OK


async def _run(app: App, signals: StopSignals, ready: Callable[[tuple[str, ...]], None]) -> None:
    stop, force = anyio.Event(), anyio.Event()

    def tell(count: int) -> None:
        stop.set()
        if count > 1:
            force.set()

    with signals.listening(tell):
        await app.run(on_ready=ready, stop=stop, force=force)


def run_async(function: Callable[..., Any], settings: Settings, *arguments: Any) -> Any:
    """Run a coroutine function on the event loop that the settings name; asyncio's is uvloop where that is installed."""
    # Any: as in anyio.run, of which this is a thin wrapper.
    options = {"use_uvloop": True} if backend_name(settings).endswith("uvloop") else {}
    return anyio.run(function, *arguments, backend=settings.backend, backend_options=options)


def backend_name(settings: Settings) -> str:
    """Return what people call the event loop."""
    return "asyncio+uvloop" if settings.backend == "asyncio" and find_spec("uvloop") is not None else settings.backend
