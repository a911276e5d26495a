"""A small HTTP server on a port of its own (FISSILE_METRICS_PORT): `/metrics`, `/livez` and `/readyz` of a process, gateway or not.

It answers GET and HEAD, one request a connection, with bounds for everything: how many at a time, how large, how long. It is for the inside of a
network; what is told there is nothing for the outside.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus

import anyio
import anyio.abc
from attrs import frozen

from fissile._errors import Fault, StartupFailed
from fissile._metrics import Metric
from fissile._metrics_text import can_write, not_installed, registered, write
from fissile._process import Check

_logger = logging.getLogger("fissile.metrics")

_AT_ONCE = 16
_HEAD_BYTES = 8192
_TIME_S = 5.0
_TEXT = "text/plain; charset=utf-8"


@frozen
class Operations:
    """What is told on the port.

    Attributes:
        collect: Reads the metrics; those of the library's registry are added.
        checks: Tells what has to be well for the process to be ready.
        has_registered: Whether the metrics in the default registry of `prometheus-client` are told, too.
    """

    collect: Callable[[], Awaitable[tuple[Metric, ...]]]
    checks: Callable[[], tuple[Check, ...]]
    has_registered: bool = True


@frozen
class _Answer:
    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT


async def open_port(host: str, port: int) -> anyio.abc.Listener[anyio.abc.SocketStream]:
    """Listen.

    Raises:
        StartupFailed: It cannot be listened there, or what writes metrics is not installed.
    """
    if not can_write():
        raise StartupFailed((not_installed("FISSILE_METRICS_PORT"),))
    try:
        return await anyio.create_tcp_listener(local_host=host, local_port=port, backlog=_AT_ONCE)
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({error.strerror or error})"
        what = f"Metrics cannot be served: the port {port} of {host} {why}."
        raise StartupFailed(
            (
                Fault(
                    what,
                    "FISSILE_METRICS_PORT",
                    "Choose another, or 0 for none (FISSILE_METRICS_HOST for the address).",
                ),
            )
        ) from None


@asynccontextmanager
async def serving(listener: anyio.abc.Listener[anyio.abc.SocketStream], operations: Operations) -> AsyncGenerator[None]:
    """Answer on a listener until the block ends."""
    failure: Exception | None = None
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(_serve, listener, operations)
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- kept as it is: the task group would put it into a group
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _serve(listener: anyio.abc.Listener[anyio.abc.SocketStream], operations: Operations) -> None:
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def answer(client: anyio.abc.SocketStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            async with client:
                with anyio.move_on_after(_TIME_S):
                    async with limiter:
                        await _answer(client, operations)

    while True:
        try:
            await listener.serve(answer)
        except OSError as error:  # such as no more file descriptors: the process has worse troubles, and goes on
            _logger.warning("metrics cannot be asked for: %s", error)
            await anyio.sleep(_TIME_S)


async def _answer(client: anyio.abc.SocketStream, operations: Operations) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        if len(head) > _HEAD_BYTES:
            await _send(client, _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), is_head=False)
            return
        head += await client.receive(_HEAD_BYTES)
    line, _, fields = head.partition(b"\r\n")
    parts = line.split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
        await _send(client, _plain(HTTPStatus.BAD_REQUEST), is_head=False)
        return
    method, path = parts[0], parts[1].partition(b"?")[0]
    if method not in (b"GET", b"HEAD"):
        await _send(client, _plain(HTTPStatus.METHOD_NOT_ALLOWED), is_head=False)
        return
    try:
        answer = await _make(path, _accept(fields), operations)
    except Exception:
        _logger.exception("metrics cannot be told")
        answer = _plain(HTTPStatus.INTERNAL_SERVER_ERROR)
    await _send(client, answer, is_head=method == b"HEAD")


async def _make(path: bytes, accept: str, operations: Operations) -> _Answer:
    if path == b"/metrics":
        metrics = await operations.collect()
        if operations.has_registered:
            metrics = (*metrics, *registered())
        return _Answer(HTTPStatus.OK, *write(metrics, accept))
    if path == b"/livez":
        return _Answer(HTTPStatus.OK, b"ok\n")
    if path == b"/readyz":
        problems = [f"{check.name}: {check.problem}\n" for check in operations.checks() if check.problem is not None]
        if problems:
            return _Answer(HTTPStatus.SERVICE_UNAVAILABLE, "".join(problems).encode())
        return _Answer(HTTPStatus.OK, b"ok\n")
    return _plain(HTTPStatus.NOT_FOUND)


def _accept(fields: bytes) -> str:
    for line in fields.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"accept":
            return value.strip().decode("latin-1")
    return ""


def _plain(status: HTTPStatus) -> _Answer:
    return _Answer(status, f"{status.value} {status.phrase}\n".encode())


async def _send(client: anyio.abc.SocketStream, answer: _Answer, *, is_head: bool) -> None:
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"content-type: {answer.content_type}\r\n"
        f"content-length: {len(answer.body)}\r\n"
        "cache-control: no-store\r\n"
        "x-content-type-options: nosniff\r\n"
        "connection: close\r\n\r\n"
    )
    await client.send(head.encode() + (b"" if is_head else answer.body))
