"""`fissile healthcheck`: whether the process of a container is alive and ready."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from fissile._health import ask
from fissile.cli._context import Context
from fissile.cli._exit import CommandFailed, Exit


def healthcheck(
    process: str | None = None,
    /,
    *,
    alive: Annotated[bool, Parameter(negative=())] = False,
    context: Context,
) -> Exit:
    """Tell whether the processes that this user runs on this machine, or in this container, are ready; exits with 1 if not.

    Args:
        process: Only this process of the placement.
        alive: Whether they answer is enough, as for somebody who starts anew what does not.
        context: What all commands are given.
    """
    found = [health for health in ask() if process in (None, health.process)]
    if context.as_json:
        context.output.json([{"process": health.process, "problems": health.problems} for health in found])
    else:
        for health in found:
            context.output.data(f"{health.process}: {'; '.join(health.problems) or 'ready'}")
    if not found:
        raise CommandFailed(
            "No process runs here." if process is None else f"No process {process!r} runs here.", code=Exit.FAILED
        )
    is_well = all(health.is_alive if alive else not health.problems for health in found)
    return Exit.OK if is_well else Exit.FAILED
