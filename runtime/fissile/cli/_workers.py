"""Several processes that serve the gateway's port (FISSILE_WORKERS): what may have them, and the sockets that they share.

The supervisor opens the socket, and each worker accepts from it. So a connection that comes while a worker ends or starts waits for another one
and is never refused, which it would be with a socket per worker (SO_REUSEPORT): what is queued there is lost with it.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree

from attrs import frozen

from fissile._application import Application
from fissile._errors import Fault, StartupFailed
from fissile._health import own_folder
from fissile._placement import GATEWAY
from fissile._settings import variable_name

_BACKLOG = 1024


@frozen
class Address:
    """Where the gateway is to listen, and what is hosted.

    Attributes:
        process: The process's name in its placement.
        host: The name or address.
        port: The port; 0 takes a free one.
    """

    process: str
    host: str
    port: int


def address_of(application: Application, process: str | None) -> Address:
    """Return where several workers are to listen.

    Args:
        application: The application.
        process: The process's name; may be left out where there is one.

    Raises:
        StartupFailed: The application has faults, or the process may not have several workers.
    """
    count = application.settings.workers
    app = application.app(process)
    others = [module.name for module in app.modules if module.name != GATEWAY]
    faults: list[Fault] = []
    if all(module.name != GATEWAY for module in app.modules):
        what = f"FISSILE_WORKERS is {count}, and the process {app.process!r} does not host the gateway."
        faults.append(
            Fault(
                what,
                variable_name("workers"),
                "Start it several times instead: modules share their work by consumer groups.",
            )
        )
    elif others:
        hosted = ", ".join(others)
        what = f"FISSILE_WORKERS is {count}, and the process {app.process!r} hosts {hosted} beside the gateway: each worker would, too."
        cure = 'Give the gateway a process of its own ([tool.fissile.placements.…] gateway = ["gateway"]), or use one worker.'
        faults.append(Fault(what, variable_name("workers"), cure))
    if not application.log_is_shared:
        what = f"FISSILE_WORKERS is {count}, and the bus {application.settings.bus} is in the memory of one process."
        faults.append(Fault(what, "FISSILE_BUS", "Use a bus that processes share, or one worker."))
    faults.extend(app.check())
    if faults:
        raise StartupFailed(tuple(faults))
    values = {origin.variable: origin.value for origin in app.settings_in_use()}
    return Address(app.process, str(values[variable_name("host")]), int(values[variable_name("port")]))


@contextmanager
def listening(address: Address) -> Generator[list[socket.socket]]:
    """Open the sockets that workers share; closed at the end of the block, or earlier.

    Raises:
        StartupFailed: It cannot be listened there.
    """
    listeners: list[socket.socket] = []
    port = address.port
    try:
        found = socket.getaddrinfo(address.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, *_, place in sorted(found, key=lambda each: each[0]):
            listener = socket.socket(family, socket.SOCK_STREAM)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((place[0], port, *place[2:]))
            listener.listen(_BACKLOG)
            listener.setblocking(False)  # noqa: FBT003 -- it takes no keyword
            port = listener.getsockname()[1]  # all addresses of a name share the port
        yield listeners
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is taken" if taken else f"cannot be listened on ({error.strerror or error})"
        fault = Fault(
            f"The gateway cannot start: the port {address.port} of {address.host} {why}.",
            variable_name("port"),
            "Stop what listens there, or choose another: FISSILE_PORT (FISSILE_HOST for the address).",
        )
        raise StartupFailed((fault,)) from None
    finally:
        for listener in listeners:
            listener.close()


@contextmanager
def made(folder: Path) -> Generator[None]:
    """Make the folder of the workers' sockets for a block. Where that cannot be, workers say in the log what they do without."""
    with suppress(OSError):
        own_folder()
        rmtree(folder, ignore_errors=True)  # of a supervisor that was killed and had the same id
        folder.mkdir(mode=0o700)
    try:
        yield
    finally:
        rmtree(folder, ignore_errors=True)
