"""A process that hosts nothing and calls everything: a script, a cron job, another web application."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fissile._app import App
from fissile._bus import Bus
from fissile._settings import variable_name

if TYPE_CHECKING:
    from pathlib import Path


@asynccontextmanager
async def connect(folder: str | Path | None = None, *, bus: str | None = None) -> AsyncGenerator[Bus]:
    """Use the modules of an application without hosting one: `async with fissile.connect() as bus`.

    Where the bus is shared the modules run in their own processes. Where nobody would answer, because the bus is in memory, or in a file that
    no running process uses, they run in this one.

    Args:
        folder: The folder of the application, or one below it; the working directory unless told.
        bus: The bus to use instead of the one that the settings name, such as `kafka://localhost:29092`.

    Raises:
        StartupFailed: There is no application, or it has faults.
        Unavailable: The bus cannot be reached.
    """
    async with client(folder, bus=bus) as app:
        yield app.bus


def client(folder: str | Path | None = None, *, bus: str | None = None) -> App:
    """Make the process that `connect` starts, for who needs more of it than its bus: `async with fissile.client() as app`.

    Args:
        folder: The folder of the application, or one below it; the working directory unless told.
        bus: The bus to use instead of the one that the settings name.

    Raises:
        StartupFailed: There is no application, or it has faults.
    """
    from pathlib import Path

    from fissile._application import Application  # what reads configuration is not needed to import fissile

    given = {} if bus is None else {variable_name("bus"): bus}
    application = Application.find(Path.cwd() if folder is None else Path(folder), command_line=given)
    return application.with_developers_key().client()
