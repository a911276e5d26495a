"""The one place that knows the HTTP server: any ASGI 3 application on asyncio, uvloop or Trio, in the caller's task.

Hypercorn has a protocol layer without I/O and one worker for each event loop. This adapter keeps the first (h11, HTTP
and WebSocket streams) and takes the place of the second. Both workers have faults that cannot be reached from outside:

* Trio: any unexpected error of one connection ends the process (pgjones/hypercorn#225); an application that leaves
  when it hears `http.disconnect`, as Quart-Trio's does, cuts off the code that would close or reuse the connection;
  writes are shielded, so that a client which never reads holds its connection and the shutdown for ever.
* asyncio: the connection of such a client outlives every timeout too.
* Both: a body that the application does not read fills a queue, on which the end of the connection then waits.

One worker on AnyIO has none of them, behaves the same on each event loop, and costs as much as the
asyncio worker, which starts a task for every idle time. The rejected alternatives were to assign subclasses to Hypercorn's
module globals, and two sets of subclasses that would have to repair the same things differently.

Here is the server as a whole. The files beside it, named `_http_*`, hold one connection, its socket, the protocol on it,
the rules for requests, and the application's side; nothing else imports them.
"""

import errno
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, cast

import anyio
import msgspec
from anyio.abc import TaskGroup, TaskStatus

from fissile_gateway._http_application import DRAINING as DRAINING
from fissile_gateway._http_application import ASGIApp as ASGIApp
from fissile_gateway._http_application import ClientGone as ClientGone
from fissile_gateway._http_application import Lifespan
from fissile_gateway._http_connection import Connection
from fissile_gateway._http_connection import Gatekeeper as Gatekeeper
from fissile_gateway._http_guard import ServerSettings as ServerSettings
from fissile_gateway._http_guard import problem_answer
from fissile_gateway._http_protocol import Context, QuietConfig
from fissile_gateway._http_socket import Stream, linger
from fissile_gateway._http_tls import TlsStream
from fissile_gateway._problems import Problem
from fissile_gateway._shares import Shares

_CUT_S = 1.0  # between telling an application that its client is gone and cancelling it
_ACCEPT_PAUSE_S = 0.1
_TURNED_AWAY_MAX = 64

_logger = logging.getLogger("fissile.gateway.server")


class PortTaken(OSError):
    """Raised when another process listens on the port."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(
            errno.EADDRINUSE,
            f"Port {port} of {host} is taken. Stop what listens there or choose another port: FISSILE_PORT=9000",
        )
        self.host = host
        self.port = port

    def __str__(self) -> str:
        return str(self.args[1])


class StartupFailed(RuntimeError):
    """Raised when the application reports that its startup failed."""


class ServerStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """What the server has done so far.

    Attributes:
        connections: Connections open now.
        requests: Requests in progress now.
        connections_total: Connections accepted.
        requests_total: Requests whose head was accepted.
        refused_total: Requests and connections that the server itself answered with an error.
        stalled_total: Connections dropped because the client did not take its answer in time.
    """

    connections: int
    requests: int
    connections_total: int
    requests_total: int
    refused_total: int
    stalled_total: int


class HttpServer:
    """Serves one ASGI application over HTTP/1.1 and, over TLS, HTTP/2.

    Args:
        app: The application.
        settings: Where to listen, and the bounds.
        gatekeeper: Is asked before a request is read; all are let in unless told.
    """

    def __init__(
        self, app: ASGIApp, settings: ServerSettings | None = None, gatekeeper: Gatekeeper | None = None
    ) -> None:
        self.gatekeeper = gatekeeper
        self.app = app
        self.settings = settings or ServerSettings()
        self.draining = anyio.Event()
        self._ended = anyio.Event()
        self._released = anyio.Event()
        self.config = QuietConfig(self.settings)
        self.context = Context(self.draining)
        self.state: dict[str, Any] = {}
        most, of_one = self.settings.max_connections, self.settings.max_connections_per_address
        setting = "FISSILE_CONNECTIONS_PER_ADDRESS"
        self.connections: Shares[Connection] = Shares(most, of_one, setting, "connections", "connections are open")
        self.turned_away = 0
        self.connections_total = 0
        self.requests_total = 0
        self.refused_total = 0
        self.stalled_total = 0

    def drain(self) -> None:
        """Stop accepting, let requests in progress finish, then let `serve` return. May be called at any time."""
        self.draining.set()

    def statistics(self) -> ServerStatistics:
        """Count connections and requests."""
        return ServerStatistics(
            connections=len(self.connections),
            requests=sum(connection.busy for connection in self.connections),
            connections_total=self.connections_total,
            requests_total=self.requests_total,
            refused_total=self.refused_total,
            stalled_total=self.stalled_total,
        )

    async def serve(self, *, started: Callable[[tuple[str, int]], object] | None = None) -> None:
        """Serve until `drain` was called and its work is done, or until cancelled.

        Cancelling closes every connection at once, gives the application a second to take note, and does not run its
        shutdown.

        Args:
            started: Called with the host and port really bound, once connections are accepted.

        Raises:
            PortTaken: Another process listens on the port. Nothing was started.
            StartupFailed: The application's startup failed.
        """
        listeners = await self._listen()
        lifespan = Lifespan(self.app, self.state)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lifespan.run)
                await lifespan.startup()
                if lifespan.failure is None:
                    await self._serve(listeners, started)
                    await lifespan.shutdown()
                tasks.cancel_scope.cancel()
        finally:
            _close_all(listeners)
        if lifespan.failure is not None:
            raise StartupFailed(lifespan.failure)

    async def _listen(self) -> list[socket.socket]:
        if self.settings.listen_fds:
            return _inherited(self.settings.listen_fds)
        host, port = self.settings.host, self.settings.port
        listeners: list[socket.socket] = []
        try:
            for family, *_, address in sorted(await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)):
                listener = socket.socket(family, socket.SOCK_STREAM)
                listeners.append(listener)
                listener.settimeout(0)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind((address[0], port, *address[2:]))
                listener.listen(self.settings.backlog)
                port = listener.getsockname()[1]  # all addresses of a name share the port
        except OSError as error:
            _close_all(listeners)
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(host, port) from error
            raise
        return listeners

    async def _serve(self, listeners: list[socket.socket], started: Callable[[tuple[str, int]], object] | None) -> None:
        async with anyio.create_task_group() as tasks:
            connections: TaskGroup = await tasks.start(self._hold_connections)
            try:
                async with anyio.create_task_group() as accepting:
                    for listener in listeners:
                        accepting.start_soon(self._accept, listener, connections)
                    if started is not None:
                        started(listeners[0].getsockname()[:2])
                    await self.draining.wait()
                    accepting.cancel_scope.cancel()
                _close_all(listeners)
                for connection in self.connections:
                    connection.end_if_idle()
                if self.connections:
                    with anyio.move_on_after(self.settings.drain_s) as bound:
                        await self._ended.wait()
                    if bound.cancelled_caught:
                        _logger.warning("requests still in progress are cut off after %s s", self.settings.drain_s)
            finally:
                for connection in self.connections:
                    connection.lose()
                connections.cancel_scope.deadline = anyio.current_time() + _CUT_S
                self._released.set()

    async def _hold_connections(self, *, task_status: TaskStatus[TaskGroup]) -> None:
        # Cancelling an application is the last resort, also when the caller is cancelled: Quart on asyncio would leave
        # its handler behind as a task of its own, but ends it when it hears that the client is gone.
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as connections:
                task_status.started(connections)
                await self._released.wait()

    def connection_ended(self, connection: Connection) -> None:
        """Forget a connection."""
        self.connections.leave(connection)
        if not self.connections and self.draining.is_set():
            self._ended.set()

    async def _accept(self, listener: socket.socket, connections: TaskGroup) -> None:
        while True:
            await anyio.wait_readable(listener)
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError:
                # Out of descriptors or memory: the connections that are open give theirs back sooner or later.
                _logger.exception("no connection can be accepted; trying again")
                await anyio.sleep(_ACCEPT_PAUSE_S)
                continue
            self.connections_total += 1
            stream = Stream(sock)
            peer = _peer(address)
            client = peer if self.gatekeeper is None else self.gatekeeper.client_of(peer)
            refusal = self.connections.refusal(client)
            if refusal is None:
                tls = self.settings.tls
                connection = Connection(self, stream if tls is None else TlsStream(stream, tls))
                self.connections.take(connection, client)
                connections.start_soon(connection.run)
            elif self.turned_away < _TURNED_AWAY_MAX:
                self.turned_away += 1
                connections.start_soon(self._turn_away, stream, refusal)
            else:
                stream.close()

    async def _turn_away(self, stream: Stream, refusal: Problem) -> None:
        self.refused_total += 1
        try:
            if self.settings.tls is None:  # a handshake costs more than the answer is worth
                stream.send(problem_answer(refusal.status, refusal.detail))
            await linger(stream)
        finally:
            self.turned_away -= 1
            stream.close()


def _inherited(descriptors: tuple[int, ...]) -> list[socket.socket]:
    """Take over sockets that somebody else has opened; several processes may accept from one."""
    listeners: list[socket.socket] = []
    try:
        for descriptor in descriptors:
            # A copy: a gateway that is started again finds the original as it was.
            listener = socket.socket(fileno=os.dup(descriptor))
            listeners.append(listener)
            listener.settimeout(0)
            if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise OSError(errno.EINVAL, f"the socket {descriptor} of FISSILE_LISTEN_FDS is not listening")
    except OSError:
        _close_all(listeners)
        raise
    return listeners


def _peer(address: object) -> str:
    """Return the other end of a connection; empty where it has no address, as over a Unix socket."""
    return str(cast("tuple[object, ...]", address)[0]) if isinstance(address, tuple) else ""


def _close_all(listeners: list[socket.socket]) -> None:
    for listener in listeners:
        listener.close()
