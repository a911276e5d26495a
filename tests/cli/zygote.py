"""Runs commands in processes that are forked from one which has imported the library already: most of a command's time is that import.

A command gets a process of its own all the same, with arguments, environment, folder and descriptors as if it had been started by a shell. What
goes on (`running`), and the script, are started as they are by users.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO

from attrs import asdict, frozen


@frozen
class Order:
    """A command that is to be run."""

    arguments: list[str]
    environment: dict[str, str]
    folder: str


# --- the process that is forked --------------------------------------------------------------------------------------


def serve() -> int:
    """Fork a process for each order; in that process, return the exit code of its command."""
    for name in (
        "fissile.cli._app",
        "cyclopts.exceptions",
        "sqlalchemy.dialects.postgresql",
        "sqlalchemy.dialects.sqlite",
    ):
        import_module(name)
    # Otherwise the collector would write into each object of a child, and so copy all memory.
    gc.collect()
    gc.freeze()
    orders = socket.socket(fileno=int(sys.argv[1]))
    while True:
        message, descriptors, _, _ = socket.recv_fds(orders, 1024 * 1024, 4)
        if not message:
            orders.close()
            return 0
        *standard, link = descriptors
        child = os.fork()
        if child == 0:
            orders.close()
            os.close(link)
            return _run(Order(**json.loads(message)), standard)
        for descriptor in standard:
            os.close(descriptor)
        with socket.socket(fileno=link) as asked:
            asked.sendall(f"{child}\n".encode())
            _, status = os.waitpid(child, 0)
            asked.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _run(order: Order, standard: Sequence[int]) -> int:
    """Run the command that is ordered as if the interpreter had just been started for it."""
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(order.environment)
    os.chdir(order.folder)
    sys.argv = ["fissile", *order.arguments]
    sys.path[0] = str(Path.cwd())
    from fissile.__main__ import main

    return main()


if __name__ == "__main__":
    sys.exit(serve())


# --- the tests -------------------------------------------------------------------------------------------------------


class Zygote:
    """The process that is forked; there is one for each run of the tests."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__)), str(theirs.fileno())],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.end)

    def end(self) -> None:
        """End it."""
        self._orders.close()
        self._process.wait()

    def run(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end.

        Raises:
            TimeoutExpired: It takes longer; it is killed.
        """
        order = Order(list(arguments), dict(environment), str(folder))
        ours, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, Path(os.devnull).open() as nothing, ours:
            with theirs:
                descriptors = [nothing.fileno(), out.fileno(), err.fileno(), theirs.fileno()]
                socket.send_fds(self._orders, [json.dumps(asdict(order)).encode()], descriptors)
            ours.settimeout(timeout_s)
            with ours.makefile() as told:
                process_id = int(told.readline())
                try:
                    code = int(told.readline())
                except TimeoutError:
                    os.kill(process_id, 9)
                    raise subprocess.TimeoutExpired(list(arguments), timeout_s) from None
            return subprocess.CompletedProcess(list(arguments), code, _text(out), _text(err))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()
