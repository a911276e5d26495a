"""How a worker tells its metrics on its machine: through a Unix socket beside that of `fissile healthcheck`, to the supervisor that asks."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import anyio.abc
import msgspec

from fissile._errors import CallRefused
from fissile._health import folder_of_sockets, own_folder
from fissile._metrics import Metric
from fissile._metrics_text import can_write, registered

_TIME_S = 2.0
_ANSWER_BYTES = 8 * 1024 * 1024

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[Metric, ...]).decode


def _socket_of(pid: int) -> Path:
    return folder_of_sockets() / f"{pid}.metrics"


@asynccontextmanager
async def telling(collect: Callable[[], tuple[Metric, ...]]) -> AsyncGenerator[None]:
    """Tell this process's metrics to who asks, until the block ends. Where there can be no socket, nobody can ask.

    Args:
        collect: Reads the metrics.
    """
    path = _socket_of(os.getpid())
    try:
        own_folder()
        path.unlink(missing_ok=True)  # of a process that was killed and had the same id
        listener = await anyio.create_unix_listener(path, mode=0o600)
    except OSError:
        yield
        return

    async def answer(client: anyio.abc.SocketStream) -> None:
        with (
            anyio.move_on_after(_TIME_S),
            suppress(anyio.BrokenResourceError, CallRefused),
        ):  # refused: it is starting, or has stopped
            async with client:
                await client.send(_encode((*collect(), *(registered() if can_write() else ()))))

    failure: Exception | None = None
    try:
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, answer)
            try:
                yield
            except Exception as error:  # noqa: BLE001 -- kept as it is: the task group would put it into a group
                failure = error
            tasks.cancel_scope.cancel()
    finally:
        path.unlink(missing_ok=True)
    if failure is not None:
        raise failure


async def ask_metrics(pid: int) -> tuple[Metric, ...]:
    """Return the metrics of a process of this user on this machine; none where it does not tell them in time."""
    answer = b""
    try:
        with anyio.fail_after(_TIME_S):
            async with await anyio.connect_unix(_socket_of(pid)) as client:
                with suppress(anyio.EndOfStream):
                    while len(answer) <= _ANSWER_BYTES:
                        answer += await client.receive()
        return _decode(answer)
    except (OSError, TimeoutError, anyio.BrokenResourceError, msgspec.MsgspecError):
        return ()
