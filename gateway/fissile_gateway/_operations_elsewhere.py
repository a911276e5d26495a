"""Operations that another worker of the same port has begun (`fissile run gateway --workers`).

Whichever worker takes a connection has to tell of them all. So each listens at a Unix socket, named after its process, in a folder that their
supervisor has made, and asks all others for what it does not know itself. The folder is this user's alone; what is asked carries who asks.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.abc
import msgspec
from anyio.abc import TaskStatus

from fissile_gateway._http_application import contained
from fissile_gateway._operations import Operations, Told

_ASKED_BYTES = 64 * 1024
_PAUSE_S = 1.0
_ANSWER_S = 2.0
"""How long another worker may take to answer, in seconds: one that is frozen must not hold up who asks for something that nobody knows."""
_GONE = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)

_logger = logging.getLogger("fissile.gateway")


class _Asked(msgspec.Struct, frozen=True):
    """What a worker asks another.

    Attributes:
        id: The operation.
        principal: Who wants to know.
        cancel: Whether it is to be cancelled.
    """

    id: str
    principal: str
    cancel: bool


class Siblings:
    """The other workers.

    Args:
        operations: Those of this worker.
        folder: Where the workers' sockets are; empty where there are no others.
    """

    def __init__(self, operations: Operations, folder: str) -> None:
        self._operations = operations
        self._folder = Path(folder) if folder else None
        self._name = str(os.getpid())

    async def tell(self, operation_id: str, principal: str, *, cancel: bool) -> Told | None:
        """Return what has become of an operation, whichever worker has it; None if none has.

        Args:
            operation_id: The operation.
            principal: Who wants to know.
            cancel: Whether it is to be cancelled.
        """
        told = await self._operations.tell(operation_id, principal, cancel=cancel)
        if told is None and self._folder is not None:
            told = await self._ask(self._folder, _Asked(operation_id, principal, cancel))
        return told

    async def _ask(self, folder: Path, asked: _Asked) -> Told | None:
        found: list[Told] = []

        async def ask(path: Path) -> None:
            answer = b""
            with suppress(*_GONE):  # it has ended
                async with await anyio.connect_unix(path) as worker:
                    await worker.send(msgspec.msgpack.encode(asked))
                    await worker.send_eof()
                    with suppress(anyio.EndOfStream):
                        while True:
                            answer += await worker.receive()
            with suppress(msgspec.MsgspecError):  # it knows nothing, and says nothing, or has ended meanwhile
                found.append(msgspec.msgpack.decode(answer, type=Told))
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.cancel_scope.deadline = anyio.current_time() + _ANSWER_S
            for path in _sockets(folder):
                if path.name != self._name:
                    tasks.start_soon(ask, path)
        return found[0] if found else None

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Answer the others until cancelled. Where that cannot be, this worker begins no operations, and answers commands when they are done."""
        if self._folder is None:
            task_status.started()
            return
        path = self._folder / self._name
        try:
            path.unlink(missing_ok=True)
            listener = await anyio.create_unix_listener(path, mode=0o600)
        except OSError as error:
            self._operations.are_offered = False
            _logger.warning(
                "the other workers cannot ask this one for its operations, so `Prefer: respond-async` is passed over: %s",
                error,
            )
            task_status.started()
            return
        try:
            async with listener:
                task_status.started()
                while True:
                    try:
                        await listener.serve(self._answer)
                    except OSError as error:  # such as no more file descriptors
                        _logger.warning("the other workers cannot ask this one for its operations: %s", error)
                        await anyio.sleep(_PAUSE_S)
        finally:
            path.unlink(missing_ok=True)

    async def _answer(self, client: anyio.abc.SocketStream) -> None:
        with contained("an answer to another worker"), suppress(*_GONE):
            async with client:
                data = b""
                with suppress(anyio.EndOfStream):
                    while len(data) < _ASKED_BYTES:
                        data += await client.receive()
                asked = msgspec.msgpack.decode(data, type=_Asked)
                told = await self._operations.tell(asked.id, asked.principal, cancel=asked.cancel)
                if told is not None:
                    await client.send(msgspec.msgpack.encode(told))


def _sockets(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []  # the supervisor has ended
