"""`fissile run`: one process in production, without reload, its logs one JSON object a line."""

from __future__ import annotations

import logging
import sys
from time import perf_counter
from typing import Annotated, Literal

from cyclopts import Parameter

from fissile._logging import leaves, set_up_logging
from fissile.cli._context import Context
from fissile.cli._errors import describe, exit_code
from fissile.cli._exit import Exit
from fissile.cli._serve import Ready, serve
from fissile.cli._signals import StopSignals

_logger = logging.getLogger("fissile.run")


def run(
    process: str | None = None,
    /,
    *,
    placement: str | None = None,
    port: int | None = None,
    backend: Literal["asyncio", "trio"] | None = None,
    context: Annotated[Context, Parameter(parse=False)],
) -> Exit:
    """Run one process for production: no reload, logs as JSON on stderr.

    SIGTERM or Ctrl-C drains within FISSILE_DRAIN_S and exits with 0; a second one stops at once and exits with 130.

    Args:
        process: The process of the placement to run; not needed where the placement has one.
        placement: The placement to run.
        port: The port of the gateway.
        backend: The event loop.
        context: What all commands are given.
    """
    with StopSignals() as signals:
        set_up_logging("json", verbose=context.verbose)
        given = {"FISSILE_PLACEMENT": placement, "FISSILE_PORT": port, "FISSILE_BACKEND": backend}
        try:
            application = context.application(given)

            def on_ready(ready: Ready) -> None:
                fields = {
                    "application": ready.application,
                    "fissile_process": ready.process,
                    "modules": ready.modules,
                    "backend": ready.backend,
                    "bus": ready.bus,
                    "at": ready.announcements,
                    "ready_s": round(perf_counter() - context.started, 3),
                }
                _logger.info("ready", extra=fields)

            def on_drain() -> None:
                _logger.info("draining, for %g s at most; a second signal stops at once", application.settings.drain_s)

            code = serve(application, process, signals=signals, on_ready=on_ready, on_drain=on_drain)
        except (Exception, BaseExceptionGroup) as error:
            if sys.stderr.isatty():
                raise  # a person reads: one clear text
            return _log_end(error, verbose=context.verbose)
        _logger.info("stopped" if code is Exit.OK else "stopped at once; what was in progress was cut off")
        return code


def _log_end(error: BaseException, *, verbose: bool) -> Exit:
    """Log what ended the process, each fault on a line of its own, and return the exit code."""
    faults = [fault for leaf in leaves(error) for fault in getattr(leaf, "faults", ())]
    for fault in faults:
        _logger.critical(fault.what, extra={"where": fault.where, "cure": fault.cure})
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        _logger.critical("The application cannot start: %s.", count, exc_info=error if verbose else None)
    else:
        what, details = describe(error)
        _logger.critical(what, extra={"details": details}, exc_info=error if verbose else None)
    return exit_code(error)
