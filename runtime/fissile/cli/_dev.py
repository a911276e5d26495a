"""`fissile dev`: everything in one process for a developer, started anew on change."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from fissile.cli._banner import banner
from fissile.cli._context import Context
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._serve import Ready, serve_for_developer
from fissile.cli._signals import StopSignals


def dev(
    placement: str | None = None,
    /,
    *,
    split: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    reload: bool = True,
    port: int | None = None,
    backend: Literal["asyncio", "trio"] | None = None,
    context: Context,
) -> Exit:
    """Run everything in one process for a developer, and start it anew when a file changes.

    With --split, each process of a placement is a process here too, and only those that a change concerns start anew. Where the bus is in
    memory, they get a broker of their own (extra `broker`), which ends with them.

    Ctrl-C drains and ends; a second one stops at once. A file that cannot be imported is told, and the next save starts it again.

    Args:
        placement: With --split, the placement to run: the one called `split`, or the only one, unless told.
        split: Whether to run one process per entry of the placement.
        reload: Whether to start anew when a file changes.
        port: The port of the gateway; 0 for any that is free.
        backend: The event loop.
        context: What all commands are given.
    """
    if split:
        return _dev_split(context, placement, {"FISSILE_PORT": port, "FISSILE_BACKEND": backend}, reload=reload)
    if placement is not None:
        raise CommandFailed(
            f"What is {placement!r}? Without --split, everything runs in one process.",
            f"Write fissile dev --split {placement}.",
            code=Exit.USAGE,
        )
    settings: dict[str, Any] = {"FISSILE_PLACEMENT": "monolith", "FISSILE_PORT": port, "FISSILE_BACKEND": backend}
    given = {name: value for name, value in settings.items() if value is not None}
    if reload and sys.platform != "win32":
        from fissile.cli._supervise import supervise

        return supervise(context, given)
    with StopSignals() as signals:

        def on_ready(ready: Ready) -> None:
            banner(context.output, ready, perf_counter() - context.started, ())

        return serve_for_developer(
            Path.cwd(), given, signals, on_ready, verbose=context.verbose, color=context.output.color_err
        )


def _dev_split(context: Context, placement: str | None, settings: dict[str, Any], *, reload: bool) -> Exit:
    if sys.platform == "win32":
        raise CommandFailed(
            "dev --split does not run on Windows.", "Use it in WSL, or fissile dev.", code=Exit.UNAVAILABLE
        )
    from fissile.cli._split import supervise_split

    given = {name: value for name, value in settings.items() if value is not None}
    return supervise_split(context, placement, given, reload=reload)
