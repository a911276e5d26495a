"""`fissile dev --split`: each process of a placement in a child."""

from __future__ import annotations

from typing import Any

import anyio

from fissile._garbage import collect_less
from fissile.cli._context import Context
from fissile.cli._exit import Exit
from fissile.cli._placements import default_placement, processes_of
from fissile.cli._signals import StopSignals
from fissile.cli._split_supervisor import SplitSupervisor


def supervise_split(context: Context, name: str | None, settings: dict[str, Any], *, reload: bool) -> Exit:
    """Run each process of a placement in a child, until the developer stops.

    Args:
        context: What all commands are given.
        name: The placement; the one called `split`, or the only one, unless told.
        settings: Settings from the command line; Any: of the setting's type.
        reload: Whether processes are started anew when their files change.

    Raises:
        StartupFailed: There is no application here, no such placement, or others could read the key of its processes.
        CommandFailed: The broker cannot be had.
    """
    application = context.application(settings, is_dev=True)
    name = name or default_placement(application)
    processes = processes_of(application, name)
    collect_less()
    with StopSignals() as signals:
        supervisor = SplitSupervisor(context, name, {**settings, "FISSILE_PLACEMENT": name}, signals, reload)
        return anyio.run(supervisor.run, application, processes)
