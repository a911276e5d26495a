"""A TCP proxy between a process and its broker, whose connections can be cut, delayed, or left half-open."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

import anyio
import anyio.abc
from attrs import define, field

Damage = Literal["cut", "delayed", "half-open"]

_CHUNK_BYTES = 65_536
_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


@define(eq=False)
class Proxy:
    """Forwards what comes to its port.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        target: The port that it forwards to.
        delay_s: How long it keeps back what it forwards, in each direction.
        connections: How many it has had.
    """

    port: int
    target: int
    delay_s: float = 0.0
    connections: int = 0
    _refuses: bool = False
    _open: set[_Connection] = field(factory=lambda: set[_Connection]())

    def cut(self) -> None:
        """Close all connections and take no others, until `heal`."""
        self._refuses = True
        for connection in self._open:
            connection.scope.cancel()

    def lose(self) -> None:
        """Forward nothing more on the connections that there are, and close none of them; new ones work."""
        for connection in self._open:
            connection.is_lost = True

    def heal(self) -> None:
        """Take connections again, without delay."""
        self._refuses = False
        self.delay_s = 0.0

    async def handle(self, client: anyio.abc.SocketStream) -> None:
        """Serve one connection."""
        async with client:
            if self._refuses:
                return
            self.connections += 1
            connection = _Connection(self)
            self._open.add(connection)
            try:
                with connection.scope:
                    await connection.run(client)
            finally:
                self._open.discard(connection)


@define(eq=False)
class _Connection:
    proxy: Proxy
    scope: anyio.CancelScope = field(factory=anyio.CancelScope)
    is_lost: bool = False

    async def run(self, client: anyio.abc.SocketStream) -> None:
        try:
            broker = await anyio.connect_tcp("127.0.0.1", self.proxy.target)
        except OSError:
            return
        async with broker, anyio.create_task_group() as tasks:
            tasks.start_soon(self._pump, client, broker, tasks.cancel_scope)
            tasks.start_soon(self._pump, broker, client, tasks.cancel_scope)

    async def _pump(
        self, source: anyio.abc.SocketStream, target: anyio.abc.SocketStream, scope: anyio.CancelScope
    ) -> None:
        try:
            while True:
                data = await source.receive(_CHUNK_BYTES)
                if self.proxy.delay_s:
                    await anyio.sleep(self.proxy.delay_s)
                if not self.is_lost:
                    await target.send(data)
        except _GONE:
            if self.is_lost:
                await anyio.sleep_forever()  # the other side is not told either
            scope.cancel()


@asynccontextmanager
async def proxied(port: int, target: int) -> AsyncGenerator[Proxy]:
    """Run a proxy."""
    proxy = Proxy(port, target)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, proxy.handle)
        yield proxy
        tasks.cancel_scope.cancel()
