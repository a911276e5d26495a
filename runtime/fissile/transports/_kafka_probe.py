"""Whether Kafka answers: asked every second over a connection of its own, whatever else a process has open or does.

What a process sends waits behind what the broker has not answered yet on that connection; and a process that sends nothing, and is in no
group, would not notice for long that the broker is gone.

It belongs in the loop (see `_kafka_bridge.py`).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from fissile._errors import Unavailable
from fissile.transports._kafka_bridge import Bridge, forget
from fissile.transports._kafka_library import Clients, disconnect, kafka_error, library, within
from fissile.transports._kafka_options import Options, milliseconds

if TYPE_CHECKING:
    import ssl

_logger = logging.getLogger("fissile.kafka")

_EVERY_S = 1.0
_ONE_S = 1.0
"""How long one broker may take to answer, in seconds."""
_ANY_S = 2.0
"""How long it may take until one of them does, in seconds."""
_FAILURES = 2
"""How many questions in a row go without an answer before that is told. One may be a node that is gone, or a loop that was blocked."""


class _Client:
    """A connection to ask over."""

    def __init__(self, options: Options, context: ssl.SSLContext | None) -> None:
        arguments = {**options.client(), "request_timeout_ms": milliseconds(_ONE_S)}
        # Any: the library has no types
        self.raw: Any = library("aiokafka.client").AIOKafkaClient(**arguments, ssl_context=context)

    async def ask(self) -> None:
        """Ask what every broker can answer without looking at anything.

        Raises:
            KafkaError: It does not answer.
        """
        await self.raw.send(self.raw.get_random_node(), library("aiokafka.protocol.admin").ApiVersionRequest())

    @property
    def network(self) -> Any:  # Any: the library has no types
        """What of aiokafka has its connections to brokers."""
        return self.raw

    async def stop(self, seconds: float) -> None:  # noqa: ARG002 -- the bound is in there
        """Disconnect, within a bound. Raises nothing."""
        await disconnect(self.raw)


class Probe:
    """Asks whether Kafka answers.

    Args:
        options: How to connect.
        context: The TLS context.
        clients: Where its connection is known while it is open.
    """

    def __init__(self, options: Options, context: ssl.SSLContext | None, clients: Clients) -> None:
        self._options = options
        self._context = context
        self._clients = clients
        self._client: _Client | None = None
        self._task: asyncio.Task[None] | None = None
        self._failures = 0
        self._answered_at = monotonic()

    def trouble(self) -> str | None:
        """Return that Kafka does not answer, or None; from home."""
        if self._failures < _FAILURES:
            return None
        return f"Kafka has not answered for {monotonic() - self._answered_at:.0f} s."

    def start(self, bridge: Bridge) -> None:
        """Ask from now on."""
        self._task = bridge.create_task(self._run())

    async def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=1.0)
            forget(self._task)
        await self._drop()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self._ask()
            except (Unavailable, kafka_error(), OSError):
                self._failures += 1
                await self._drop()  # the next may find other nodes
            else:
                if self._failures:
                    closed = self._clients.close_silent(self._answered_at)
                    if closed:
                        _logger.warning("Kafka answers again; %d connections that have been silent were closed", closed)
                self._failures, self._answered_at = 0, monotonic()

    async def _ask(self) -> None:
        if self._client is None:
            self._client = _Client(self._options, self._context)
            await self._clients.start(self._client, _ANY_S, self._client.raw.bootstrap())
        await within(_ANY_S, "Kafka does not answer", self._client.ask())

    async def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(Unavailable, kafka_error(), OSError):
                await self._clients.stop(client, 1.0)
