"""A proxy before PostgreSQL that cuts a connection at its COMMIT: before the server has it, after it was done, or long before it arrives."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Literal

import anyio
import anyio.abc
from attrs import define, field
from sqlalchemy import Connection
from sqlalchemy.engine import make_url

Cut = Literal["before", "after", "held"]

_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


@define(eq=False)
class Cutter:
    """Forwards what comes to its port, and cuts a marked connection.

    Attributes:
        host: Where the server is.
        target: Its port.
        port: The port of the proxy.
        wanted: How the next connection that is marked is to be cut.
        cuts: How many were.
        release: Lets a COMMIT go that is held back, whose client has been cut off.
    """

    host: str
    target: int
    port: int = 0
    wanted: Cut | None = None
    cuts: int = 0
    release: anyio.Event = field(factory=anyio.Event)
    _marked: dict[int, Cut] = field(factory=dict[int, Cut])

    def mark(self, connection: Connection) -> None:
        """Choose a connection, from within a transaction, if one is wanted."""
        how, self.wanted = self.wanted, None
        if how is not None:
            driver = connection.connection.dbapi_connection
            assert driver is not None
            with socket.socket(fileno=socket.dup(driver.pgconn.socket)) as copy:
                self._marked[copy.getsockname()[1]] = how

    async def handle(self, client: anyio.abc.SocketStream) -> None:
        """Serve one connection."""
        port = client.extra(anyio.abc.SocketAttribute.remote_port)
        async with client:
            try:
                server = await anyio.connect_tcp(self.host, self.target)
            except OSError:
                return
            async with server:
                commit = await self._forward(client, server, port)
                how = self._marked.pop(port, None)
                if commit is None or how is None:
                    return
                self.cuts += 1
                if how == "before":
                    return
                if how == "held":
                    await client.aclose()
                    await self.release.wait()
                await server.send(commit)
                await server.receive()  # it is done, and nobody is told

    async def _forward(self, client: anyio.abc.SocketStream, server: anyio.abc.SocketStream, port: int) -> bytes | None:
        """Forward until one side ends, or until the COMMIT of a marked connection, which is returned."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._down, server, client, tasks.cancel_scope)
            with suppress(*_GONE):
                while True:
                    data = await client.receive()
                    if port in self._marked and b"COMMIT" in data:
                        tasks.cancel_scope.cancel()
                        return data
                    await server.send(data)
            tasks.cancel_scope.cancel()
        return None

    async def _down(
        self, server: anyio.abc.SocketStream, client: anyio.abc.SocketStream, scope: anyio.CancelScope
    ) -> None:
        with suppress(*_GONE):
            while True:
                await client.send(await server.receive())
        scope.cancel()


@asynccontextmanager
async def cutting(url: str) -> AsyncGenerator[tuple[Cutter, str]]:
    """Run a proxy before a server.

    Args:
        url: The server's URL.

    Yields:
        The proxy, and the URL through it.
    """
    parsed = make_url(url)
    cutter = Cutter(parsed.host or "127.0.0.1", parsed.port or 5432)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    cutter.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    through = parsed.set(host="127.0.0.1", port=cutter.port).render_as_string(hide_password=False)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, cutter.handle)
        yield cutter, through
        cutter.release.set()
        tasks.cancel_scope.cancel()
