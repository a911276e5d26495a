"""aiokafka 0.14 as a library without types: how it is imported, how its errors are caught, how its clients begin and end.

All of this belongs in the loop (see `_kafka_bridge.py`). aiokafka waits without end where a broker is away; so everything that waits has a
bound here, in a task of its own: a bare `CancelledError` comes out of its `stop()` where it was not ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import cache
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fissile._errors import Fault, StartupFailed, Unavailable
from fissile.abc import Partition
from fissile.transports._kafka_bridge import forget
from fissile.transports._kafka_log import quieten
from fissile.transports._kafka_options import Options
from fissile.transports._kafka_reasons import listen, reason

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")

_AGAIN_S = 0.1
"""How long it takes until something is tried again, in seconds."""


class Client(Protocol):
    """A client of aiokafka, of ours."""

    async def stop(self, seconds: float) -> None:
        """Disconnect, within a bound. Raises nothing."""
        ...

    @property
    def network(self) -> Any:  # Any: the library has no types
        """What of aiokafka has its connections to brokers."""
        ...


def _has_no_secret(record: logging.LogRecord) -> bool:
    """Tell whether a record of aiokafka's log may be shown. At level DEBUG it logs each request, the one with the password too."""
    arguments = record.args if isinstance(record.args, tuple) else (record.args,)
    return not any(type(argument).__name__.startswith("SaslAuthenticate") for argument in arguments)


@cache
def library(name: str = "aiokafka") -> Any:  # Any: the library has no types
    """Import aiokafka, or a part of it.

    Raises:
        StartupFailed: It is not installed.
    """
    try:
        found = import_module(name)
        logging.getLogger("aiokafka.conn").addFilter(_has_no_secret)
        listen()
        quieten()  # after it: what is not told again is listened to all the same
        return found
    except ModuleNotFoundError as error:
        fault = Fault(
            f"kafka:// needs {error.name}, which is not installed.",
            "FISSILE_BUS",
            "Install it: pip install 'fissile[kafka]'.",
        )
        raise StartupFailed((fault,)) from None


def kafka_error(name: str = "KafkaError") -> type[Exception]:
    """Return an error class of aiokafka."""
    found: type[Exception] = getattr(library("aiokafka.errors"), name)
    return found


def security_context(options: Options) -> ssl.SSLContext | None:
    """Return the TLS context, which checks host names, or None where there is no TLS.

    Raises:
        StartupFailed: The files cannot be used.
    """
    security = options.security
    if not security.protocol.endswith("SSL"):
        return None
    try:
        context: ssl.SSLContext = library("aiokafka.helpers").create_ssl_context(
            cafile=security.ca or None,
            certfile=security.certificate or None,
            keyfile=security.key or None,
            password=security.key_password or None,
        )
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        fault = Fault(f"The TLS files cannot be used: {error}.", "FISSILE_KAFKA_TLS_CERTIFICATE", "Check all of them.")
        raise StartupFailed((fault,)) from None
    return context


async def within(seconds: float, what: str, coroutine: Coroutine[Any, Any, T]) -> T:  # Any: what nobody sends
    """Run a coroutine of aiokafka in a task of its own, with a bound.

    Raises:
        Unavailable: It took too long, was cancelled in there, or failed for a reason of the connection or the broker.
    """
    task = asyncio.get_running_loop().create_task(coroutine)
    try:
        await asyncio.wait((task,), timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,), timeout=1.0)
            forget(task)
    if not task.done() or task.cancelled():
        raise Unavailable(f"{what}: no answer from Kafka within {seconds:g} s.")
    error = task.exception()
    if isinstance(error, (kafka_error(), OSError, asyncio.TimeoutError)):
        raise Unavailable(f"{what}: {reason(error)}.") from None
    return task.result()


async def patiently(seconds: float, what: str, make: Callable[[], Coroutine[Any, Any, T]]) -> T:  # Any: as above
    """Do what may be done twice, and again while it fails for a reason that passes: all within a bound.

    A broker that is just coming back answers, and for a moment knows of no brokers, no leaders and no controller.

    Args:
        seconds: How long all tries may take, in seconds.
        what: What it means if they fail, for the error.
        make: Makes the coroutine of one try.

    Raises:
        Unavailable: It took too long, or failed for a reason that does not pass.
    """
    passing: BaseException | None = None

    async def tries() -> T:
        nonlocal passing
        while True:
            try:
                return await make()
            except Exception as error:
                # A client that could not be started tells so with its reason as the cause.
                passing = error.__cause__ if isinstance(error, Unavailable) else error
                if not _passes(passing):
                    passing = None
                    raise
            await asyncio.sleep(_AGAIN_S)

    try:
        return await within(seconds, what, tries())
    except Unavailable:
        if passing is None:
            raise
        raise Unavailable(f"{what}: {reason(passing)}; it was tried again for {seconds:g} s.") from None


def _passes(error: BaseException | None) -> bool:
    """Tell whether the same may soon succeed."""
    return isinstance(error, (OSError, asyncio.TimeoutError)) or bool(getattr(error, "retriable", False))


async def up(
    network: Any, starting: Coroutine[Any, Any, None], seconds: float
) -> None:  # Any: the library has no types
    """Start a client of aiokafka, and wait until it knows a broker: it thinks itself started before, and can send nothing then.

    Raises:
        KafkaError: It cannot connect, or was told of no broker for so long.
    """
    end = monotonic() + seconds
    await starting
    while not network.cluster.brokers():
        if monotonic() + _AGAIN_S > end:
            raise kafka_error("NoBrokersAvailable")("a broker answers, and says that there are none")
        await asyncio.sleep(_AGAIN_S)
        await network.force_metadata_update()


def partition_of(name: str, number: int) -> Partition:
    """Return a partition as aiokafka wants it, which is a tuple all the same."""
    found: Partition = library().TopicPartition(name, number)
    return found


async def disconnect(client: Any) -> None:  # Any: the library has no types
    """Close all connections of a client, within a bound."""
    with suppress(Exception):  # there is nothing left to try
        await within(1.0, "The connections do not close", client.close())


class Clients:
    """All clients of a transport: those that are in use, and those on their way out. Whatever ends the transport, they are stopped."""

    def __init__(self) -> None:
        self._open: set[Client] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    async def start(
        self, client: Client, seconds: float, starting: Coroutine[Any, Any, None]
    ) -> None:  # Any: what nobody sends
        """Start a client; if that fails it is stopped.

        A start that is cut off would leave a connection open that aiokafka knows nothing of. So it goes on in the background if the caller
        is cancelled or has waited long enough, and the client is stopped after it.

        Raises:
            Unavailable: No broker answers; its cause tells whether that may pass.
        """
        self._open.add(client)
        task = asyncio.get_running_loop().create_task(up(client.network, starting, seconds))
        is_up = False
        try:
            await asyncio.wait((task,), timeout=seconds)
            if not task.done():
                raise Unavailable(f"Kafka cannot be reached: no answer within {seconds:g} s.") from TimeoutError()
            error = None if task.cancelled() else task.exception()
            if task.cancelled() or isinstance(error, (kafka_error(), OSError, asyncio.TimeoutError)):
                raise Unavailable(f"Kafka cannot be reached: {reason(error)}.") from error
            task.result()
            is_up = True
        finally:
            if not is_up:
                self.in_background(self._stop_after(task, client))

    async def _stop_after(self, task: asyncio.Task[None], client: Client) -> None:
        try:
            await asyncio.wait((task,))
        finally:
            task.cancel()
            await asyncio.wait((task,), timeout=1.0)
            forget(task)
            await self.stop(client, 1.0)

    async def stop(self, client: Client, seconds: float) -> None:
        """Stop a client, within a bound."""
        try:
            await client.stop(seconds)
        finally:
            self._open.discard(client)

    def close_silent(self, since: float) -> int:
        """Close the connections on which no broker has answered since a moment; their clients open others when they need them.

        A network that loses everything tells nobody: each request on such a connection waits for its own end, one after the other.

        Args:
            since: The moment, on the clock of `time.monotonic`.

        Returns:
            How many there were.
        """
        reason = library("aiokafka.conn").CloseReason.CONNECTION_BROKEN
        silent = [
            connection
            for client in tuple(self._open)
            for connection in tuple(client.network._conns.values())
            if connection.connected() and connection._last_action < since
        ]
        for connection in silent:
            connection.close(reason=reason)
        return len(silent)

    def in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:  # Any: as above
        """Run something that nobody waits for before the end."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def close(self, seconds: float = 1.0) -> None:
        """Stop all clients, within a bound."""
        if self._leaving:
            await asyncio.wait(tuple(self._leaving), timeout=seconds)
        tasks = tuple(self._leaving)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=3.0)
        for task in tasks:
            forget(task)
        for client in tuple(self._open):
            await self.stop(client, seconds)
