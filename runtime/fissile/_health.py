"""How a process tells on its machine whether it is ready: through a Unix socket, whose other end is `fissile healthcheck`.

The socket lies in a folder of the user's own, named after the process id. It costs nothing until somebody asks, and an answer shows that the
event loop turns.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.abc
import msgspec

from fissile._app import App
from fissile._errors import CallRefused
from fissile._process import Check

_logger = logging.getLogger("fissile.health")

ANSWERS_WITHIN_S = 2.0
_ANSWER_BYTES = 1024 * 1024


class Health(msgspec.Struct, frozen=True):
    """What a process says of itself.

    Attributes:
        process: Its name.
        problems: What keeps it from being ready; nothing if it is.
        is_alive: Whether it has answered.
    """

    process: str
    problems: tuple[str, ...]
    is_alive: bool = True


def folder_of_sockets() -> Path:
    """Return the folder with the sockets of this user's processes; it need not exist."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"fissile-{os.getuid()}"


# --- the process -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def answering(app: App) -> AsyncGenerator[Callable[[], None]]:
    """Answer who asks for the health of a process, until the block ends. Where there can be no socket, nothing is answered.

    Args:
        app: The process.

    Yields:
        To be called when it has started. Until then the answer is that it is starting.
    """
    is_started = False

    def started() -> None:
        nonlocal is_started
        is_started = True

    def checks() -> tuple[Check, ...]:
        try:
            return app.checks() if is_started else (Check("process", "it is starting"),)
        except CallRefused:
            return (Check("process", "it has stopped"),)

    async def answer(client: anyio.abc.SocketStream) -> None:
        with anyio.move_on_after(ANSWERS_WITHIN_S), suppress(anyio.BrokenResourceError):
            async with client:
                problems = [f"{check.name}: {check.problem}" for check in checks() if check.problem is not None]
                await client.send(json.dumps({"process": app.process, "problems": problems}).encode())

    async def serve(listener: anyio.abc.Listener[anyio.abc.SocketStream]) -> None:
        while True:
            try:
                await listener.serve(answer)
            except OSError as error:  # such as no more file descriptors: the process has worse troubles, and goes on
                _logger.warning("nobody can ask for the health of this process: %s", error)
                await anyio.sleep(ANSWERS_WITHIN_S)

    try:
        path = own_folder() / f"{os.getpid()}.sock"
        listener = await anyio.create_unix_listener(path, mode=0o600)
    except (OSError, AttributeError) as error:  # AttributeError: a system without Unix sockets or users
        _logger.info("`fissile healthcheck` will not find this process: %s", error)
        yield started
        return
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, listener)
            try:
                yield started
            except Exception as error:  # noqa: BLE001 -- kept as it is: the task group would put it into a group
                failure = error
            tasks.cancel_scope.cancel()
    finally:
        path.unlink(missing_ok=True)
        with anyio.CancelScope(shield=True):
            await listener.aclose()
    if failure is not None:
        raise failure


def own_folder() -> Path:
    """Make the folder of sockets; one that others could write to is not used."""
    folder = folder_of_sockets()
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise OSError(f"{folder} is no folder of this user's own")
    return folder


# --- who asks --------------------------------------------------------------------------------------------------------


def ask() -> tuple[Health, ...]:
    """Return the health of all processes of this user on this machine; of one in a container, there is one."""
    found = [_ask(path) for path in sorted(folder_of_sockets().glob("*.sock"))]
    return tuple(health for health in found if health is not None)


def _ask(path: Path) -> Health | None:
    """Ask one process; None if it is gone."""
    answer = b""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(ANSWERS_WITHIN_S)
        try:
            client.connect(str(path))
            while len(answer) <= _ANSWER_BYTES and (data := client.recv(65536)):
                answer += data
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)  # it was killed
            return None
        except OSError:
            return Health(path.stem, ("process: it does not answer",), is_alive=False)
    try:
        told = json.loads(answer)
        return Health(str(told["process"]), tuple(map(str, told["problems"])))
    except (ValueError, KeyError, TypeError):
        return Health(path.stem, ("process: it broke off its answer",), is_alive=False)
