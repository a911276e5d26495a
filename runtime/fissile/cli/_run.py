"""`fissile run`: one process in production, without reload, its logs one JSON object a line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any, Literal

from fissile._application import Application
from fissile._logging import set_up_logging
from fissile.cli._context import Context
from fissile.cli._exit import Exit
from fissile.cli._log_end import log_end
from fissile.cli._serve import Ready, serve
from fissile.cli._signals import StopSignals

_logger = logging.getLogger("fissile.run")


def run(
    process: str | None = None,
    /,
    *,
    placement: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    backend: Literal["asyncio", "trio"] | None = None,
    context: Context,
) -> Exit:
    """Run one process for production: no reload, logs as JSON on stderr.

    SIGTERM or Ctrl-C drains within FISSILE_DRAIN_S and exits with 0; a second one stops at once and exits with 130. With several workers, SIGHUP
    replaces them one by one.

    Args:
        process: The process of the placement to run; not needed where the placement has one.
        placement: The placement to run.
        port: The port of the gateway.
        workers: How many processes serve that port; only where the gateway is alone in its process.
        backend: The event loop.
        context: What all commands are given.
    """
    with StopSignals() as signals:
        set_up_logging("json", verbose=context.verbose)
        given = {"FISSILE_PLACEMENT": placement, "FISSILE_PORT": port, "FISSILE_BACKEND": backend}
        given["FISSILE_WORKERS"] = workers
        try:
            application = context.application(given, is_served=True)
            if application.settings.workers > 1:
                return _run_workers(application, process, given, signals, context)

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
            return log_end(error, verbose=context.verbose)
        _logger.info("stopped" if code is Exit.OK else "stopped at once; what was in progress was cut off")
        return code


def _run_workers(
    application: Application, process: str | None, given: Mapping[str, Any], signals: StopSignals, context: Context
) -> Exit:
    # Any: of the setting's type.
    from fissile.cli._workers_supervisor import supervise_workers  # most processes have no workers

    code = supervise_workers(application, process, given, signals, started=context.started, verbose=context.verbose)
    _logger.info("stopped" if code is Exit.OK else "stopped at once, or not started")
    return code
