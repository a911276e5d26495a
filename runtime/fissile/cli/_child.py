"""The process that `fissile dev` starts anew: it runs the application, and tells its supervisor over a socket how that went.

It is no command: it gets its orders as JSON over that socket, because everybody on the machine can read the arguments of a process, and settings
may be secrets. It does not import the command line, because a developer waits for its start.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import msgspec

from fissile._garbage import collect_rarely
from fissile._logging import format_error
from fissile.cli._errors import describe, exit_code
from fissile.cli._exit import Exit
from fissile.cli._serve import Ready, serve_for_developer
from fissile.cli._signals import StopSignals

T = TypeVar("T")


class Orders(msgspec.Struct):
    """What the supervisor wants.

    Attributes:
        settings: Settings from the command line, by the name of their environment variable.
        verbose: Whether details are wanted.
        color: Whether stderr gets colours.
        process: The process of the placement to run; may be left out where there is one.
    """

    settings: dict[str, Any]  # Any: of the setting's type
    verbose: bool
    color: bool
    process: str | None = None


class Report(msgspec.Struct, omit_defaults=True):
    """What the supervisor is told, as a line of JSON.

    Attributes:
        ready: The process is ready: the fields of `Ready`.
        error: It cannot start, or has ended: what happened.
        details: The lines that follow.
        code: The exit code.
        files: The application's own files that it has imported.
    """

    ready: dict[str, Any] | None = None  # Any: a string, a number or strings
    error: str | None = None
    details: tuple[str, ...] = ()
    code: int = 0
    files: tuple[str, ...] = ()


def main() -> int:
    """Run the application; return the exit code."""
    collect_rarely()
    with link_to_supervisor() as supervisor, StopSignals() as signals:
        orders = receive_orders(supervisor, Orders)
        if orders is None:
            return Exit.INTERRUPTED
        Thread(target=end_with, args=(supervisor,), daemon=True).start()

        def on_ready(ready: Ready) -> None:
            tell(supervisor, Report(ready=msgspec.structs.asdict(ready), files=tuple(_imported_files())))

        try:
            return serve_for_developer(
                Path.cwd(),
                orders.settings,
                signals,
                on_ready,
                verbose=orders.verbose,
                color=orders.color,
                process=orders.process,
            )
        except KeyboardInterrupt:
            return Exit.INTERRUPTED
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 -- told to the supervisor, whatever it is
            signals.ignore()  # nothing is left that could drain, and the report must get through
            what, details = describe(error)
            if orders.verbose:
                details = (*details, *format_error(error, tree=True).splitlines())
            code = exit_code(error)
            tell(supervisor, Report(error=what, details=details, code=code))
            return code


def _imported_files() -> Iterator[str]:
    """Yield the files of modules that were imported and are in no environment of Python's."""
    installed = (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values())
    for module in tuple(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file is not None and not file.startswith(installed):
            yield file


def link_to_supervisor() -> socket.socket:
    """Return the socket to the supervisor, whose descriptor is the only argument."""
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)  # noqa: FBT003 -- it takes no keyword
    return socket.socket(fileno=descriptor)


def receive_orders(supervisor: socket.socket, kind: type[T]) -> T | None:
    """Return the line that the supervisor sends first; None if it has gone, or has changed its mind."""
    line = b""
    with suppress(OSError, KeyboardInterrupt):
        while data := supervisor.recv(65536):
            line += data
            if line.endswith(b"\n"):  # nothing comes after it
                return msgspec.json.decode(line, type=kind)
    return None


def tell(supervisor: socket.socket, report: Report) -> None:
    with suppress(OSError):  # it has gone, and so shall we
        supervisor.sendall(msgspec.json.encode(report) + b"\n")


def end_with(supervisor: socket.socket) -> None:
    """End when the supervisor does, however it did: a child that stays behind would keep the port."""
    with suppress(OSError):
        while supervisor.recv(64):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
