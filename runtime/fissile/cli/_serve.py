"""Run one process of an application until a signal comes: what `run`, `dev --no-reload` and the child of `dev` share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import msgspec

from fissile._app import App
from fissile._application import Application
from fissile._garbage import collect_less
from fissile._health import answering
from fissile._logging import adopt_structlog, set_up_logging
from fissile._settings import Settings
from fissile.cli._exit import Exit
from fissile.cli._output import without_password
from fissile.cli._signals import StopSignals


class Ready(msgspec.Struct, frozen=True):
    """What is told when a process is ready.

    Attributes:
        application: The application's name.
        process: The process's name.
        backend: The event loop.
        bus: Where messages live.
        modules: The modules that it hosts.
        processes: How many processes the placement has.
        announcements: What its modules want a person to know, such as the gateway's address.
        folders: Where the files of its modules are.
    """

    application: str
    process: str
    backend: str
    bus: str
    modules: tuple[str, ...]
    processes: int
    announcements: tuple[str, ...]
    folders: tuple[str, ...] = ()


def serve(
    application: Application,
    process: str | None,
    *,
    signals: StopSignals,
    on_ready: Callable[[Ready], None],
    on_drain: Callable[[], None] = lambda: None,
    tells_metrics: bool = False,
) -> Exit:
    """Run one process until it is told to stop.

    Args:
        application: The application.
        process: The process's name; may be left out where there is one.
        signals: Tells when to stop.
        on_ready: Called when it is ready.
        on_drain: Called when it is told to stop.
        tells_metrics: Whether its metrics can be asked for on this machine, by the supervisor of workers.

    Raises:
        StartupFailed: The application has faults.
        BaseException: Whatever ended the process.
    """
    app = application.app(process)
    adopt_structlog()
    hosted, known = (module.name for module in app.modules), (contract.name for contract in app.contracts)
    processes = len(application.placement(tuple(dict.fromkeys((*hosted, *known)))))  # hosted ones may be among both
    backend, bus = backend_name(application.settings), without_password(application.settings.bus)

    def ready(announcements: tuple[str, ...]) -> None:
        names = tuple(module.name for module in app.modules)
        folders = tuple(dict.fromkeys(str(Path(module.contract.place[0]).parent) for module in app.modules))
        on_ready(Ready(app.name, app.process, backend, bus, names, processes, announcements, folders))

    run_async(_run, application.settings, app, signals, ready, on_drain, tells_metrics)
    return Exit.INTERRUPTED if signals.is_forced else Exit.OK


async def _run(
    app: App,
    signals: StopSignals,
    ready: Callable[[tuple[str, ...]], None],
    on_drain: Callable[[], None],
    tells_metrics: bool,  # noqa: FBT001 -- anyio.run passes no keywords
) -> None:
    stop, force = anyio.Event(), anyio.Event()

    def tell(count: int) -> None:
        if count > 1:
            force.set()
        else:
            on_drain()
        stop.set()

    with signals.listening(tell):
        async with AsyncExitStack() as stack:
            started = await stack.enter_async_context(answering(app))
            if tells_metrics:
                from fissile._metrics_local import telling  # most processes have no workers

                await stack.enter_async_context(telling(app.metrics))

            def up(announcements: tuple[str, ...]) -> None:
                started()
                ready(announcements)
                collect_less()

            await app.run(on_ready=up, stop=stop, force=force)


def run_async(function: Callable[..., Any], settings: Settings, *arguments: Any) -> Any:
    """Run a coroutine function on the event loop that the settings name; asyncio's is uvloop where that is installed."""
    # Any: as in anyio.run, of which this is a thin wrapper.
    options = {"use_uvloop": True} if backend_name(settings).endswith("uvloop") else {}
    return anyio.run(function, *arguments, backend=settings.backend, backend_options=options)


def backend_name(settings: Settings) -> str:
    """Return what people call the event loop."""
    return "asyncio+uvloop" if settings.backend == "asyncio" and find_spec("uvloop") is not None else settings.backend


def serve_for_developer(
    folder: Path,
    settings: Mapping[str, Any],
    signals: StopSignals,
    on_ready: Callable[[Ready], None],
    *,
    verbose: bool,
    color: bool,
    process: str | None = None,
) -> Exit:
    """Run one process for a developer; arguments and errors as for `serve`.

    Args:
        folder: Where the application is, or below.
        settings: Settings from the command line, by the name of their environment variable.
        signals: Tells when to stop.
        on_ready: Called when it is ready.
        verbose: Whether details are wanted.
        color: Whether stderr gets colours.
        process: The process's name; may be left out where there is one.
    """
    set_up_logging("console", verbose=verbose, color=color)
    if not verbose:
        logging.getLogger("aiokafka").setLevel(logging.WARNING)  # it tells each step of each group
    starting = logging.getLogger("fissile.app")
    starting.setLevel(logging.ERROR)  # that the bus is in memory is in the banner

    def ready(told: Ready) -> None:
        starting.setLevel(logging.NOTSET)
        on_ready(told)

    application = Application.find(folder, command_line=settings, is_dev=True)
    return serve(application, process, signals=signals, on_ready=ready)
