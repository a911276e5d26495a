"""One of several processes that serve one port: it runs the application as `fissile run` does, and tells its supervisor when it is ready.

It is no command: it gets its orders as JSON over the socket to `_workers_supervisor.py`, with sockets that are listening already.
"""

from __future__ import annotations

import logging
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import msgspec

from fissile._application import Application
from fissile._garbage import collect_rarely
from fissile._logging import set_up_logging
from fissile.cli._child import Report, end_with, link_to_supervisor, receive_orders, tell
from fissile.cli._exit import Exit
from fissile.cli._log_end import log_end
from fissile.cli._serve import Ready, serve
from fissile.cli._signals import StopSignals

_logger = logging.getLogger("fissile.run")


class Orders(msgspec.Struct):
    """What the supervisor wants.

    Attributes:
        number: Which worker this is, from 0 on.
        process: The process of the placement to run.
        settings: Settings from the command line, by the name of their environment variable.
        verbose: Whether details are wanted.
    """

    number: int
    process: str
    settings: dict[str, Any]  # Any: of the setting's type
    verbose: bool


def main() -> int:
    """Run the application; return the exit code."""
    collect_rarely()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it is for the supervisor, and may reach the whole group
    with link_to_supervisor() as supervisor, StopSignals() as signals:
        orders = receive_orders(supervisor, Orders)
        if orders is None:
            return Exit.INTERRUPTED
        Thread(target=end_with, args=(supervisor,), daemon=True).start()
        set_up_logging("json", verbose=orders.verbose, fields={"worker": orders.number})
        try:
            application = Application.find(Path.cwd(), command_line=orders.settings)
            code = serve(
                application,
                orders.process,
                signals=signals,
                on_ready=lambda ready: _say_ready(supervisor, ready),
                on_drain=lambda: _logger.info("draining"),
                tells_metrics=True,
            )
        except KeyboardInterrupt:
            return Exit.INTERRUPTED
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 -- told in the log, whatever it is
            signals.ignore()  # nothing is left that could drain
            code = log_end(error, verbose=orders.verbose)
            tell(supervisor, Report(error=f"{type(error).__name__}", code=code))
        return code


def _say_ready(supervisor: socket.socket, ready: Ready) -> None:
    with suppress(OSError):
        tell(supervisor, Report(ready=msgspec.structs.asdict(ready)))


if __name__ == "__main__":
    sys.exit(main())
