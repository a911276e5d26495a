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
"""

import errno
import logging
import math
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from time import time
from typing import Any, cast
from wsgiref.handlers import format_date_time

import anyio
import attrs
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint
from hypercorn.config import Config
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import AppWrapper, ASGISendEvent, Event, WorkerContext, WWWScope
from hypercorn.typing import TaskGroup as HypercornTaskGroup

from fissile_gateway._http_guard import GuardedProtocol, Refusal, problem, problem_answer
from fissile_gateway._http_guard import ServerSettings as ServerSettings
from fissile_gateway._server_asyncio import READ_BYTES, asyncio_reader

ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI 3 application; the types of scope, receive and send differ between the frameworks."""

DRAINING = "fissile.draining"
"""Name in ``scope["extensions"]`` of an `anyio.Event` that is set when the server drains.

An endless answer waits for it next to its own source and ends, instead of being cut off after ``drain_s``.
"""

_CHUNK_BYTES = 64 * 1024
_MAILBOX_MESSAGES = 8  # of at most one read each, that is 512 KiB that an application has not asked for yet
_LINGER_S = 1.0
_CUT_S = 1.0  # between telling an application that its client is gone and cancelling it
_LIFESPAN_SHUTDOWN_S = 10.0
_ACCEPT_PAUSE_S = 0.1
_TURNED_AWAY_MAX = 64
_WEBSOCKET_PING_S = 20.0

_logger = logging.getLogger("fissile.gateway.server")

_Message = dict[str, Any]


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


class ClientGone(ConnectionError):
    """Raised in an application that sends to a client which is no longer there."""


@attrs.frozen(kw_only=True)
class ServerStatistics:
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


class Stream:
    """A connected socket, on any event loop.

    AnyIO's socket streams would do, at a price: on uvloop each of their writes waits for the loop's next round, a fifth
    of a small request. Nothing is buffered here, so that a deadline on writing is one on what the client took.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(0)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._reader = asyncio_reader(sock)

    def addresses(self) -> tuple[Any, Any]:
        """Return the client's and the server's address; none if the client is gone already."""
        try:
            return self._sock.getpeername()[:2], self._sock.getsockname()[:2]
        except OSError:
            return None, None

    async def receive(self) -> bytes:
        """Wait for bytes; none is the end, whether the client closed or reset the connection."""
        if self._reader is not None:
            return await self._reader.receive()
        while True:
            await anyio.wait_readable(self._sock)
            try:
                return self._sock.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    def send(self, data: bytes | memoryview) -> int:
        """Send what the operating system takes at once, and return how many bytes that were."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    async def wait_writable(self) -> None:
        """Wait until `send` takes something."""
        await anyio.wait_writable(self._sock)

    def send_eof(self) -> None:
        """Close the sending side."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket; whoever waits for it gets `anyio.ClosedResourceError`."""
        if self._sock.fileno() >= 0:
            if self._reader is not None:
                self._reader.close()
            anyio.notify_closing(self._sock)
            self._sock.close()


class HttpServer:
    """Serves one ASGI application over HTTP/1.1.

    Args:
        app: The application.
        settings: Where to listen, and the bounds.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings | None = None) -> None:
        self.app = app
        self.settings = settings or ServerSettings()
        self.draining = anyio.Event()
        self._ended = anyio.Event()
        self._released = anyio.Event()
        self.config = _QuietConfig(self.settings)
        self.context = _Context(self.draining)
        self.state: dict[str, Any] = {}
        self.connections: set[_Connection] = set()
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
        lifespan = _Lifespan(self.app, self.state)
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

    def connection_ended(self, connection: "_Connection") -> None:
        """Forget a connection."""
        self.connections.discard(connection)
        if not self.connections and self.draining.is_set():
            self._ended.set()

    async def _accept(self, listener: socket.socket, connections: TaskGroup) -> None:
        while True:
            await anyio.wait_readable(listener)
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                continue
            except OSError:
                # Out of descriptors or memory: the connections that are open give theirs back sooner or later.
                _logger.exception("no connection can be accepted; trying again")
                await anyio.sleep(_ACCEPT_PAUSE_S)
                continue
            self.connections_total += 1
            stream = Stream(sock)
            if len(self.connections) < self.settings.max_connections:
                connection = _Connection(self, stream)
                self.connections.add(connection)
                connections.start_soon(connection.run)
            elif self.turned_away < _TURNED_AWAY_MAX:
                self.turned_away += 1
                connections.start_soon(self._turn_away, stream)
            else:
                stream.close()

    async def _turn_away(self, stream: Stream) -> None:
        self.refused_total += 1
        try:
            stream.send(problem_answer(503, "The server has too many connections."))
            await _linger(stream)
        finally:
            self.turned_away -= 1
            stream.close()


class _Mailbox:
    """What the server tells one call of the application.

    Its end never waits: Hypercorn's queue does when it is full, so that a body which nobody reads keeps its connection.
    """

    __slots__ = ("_arrived", "_last", "_messages", "_room")

    def __init__(self) -> None:
        self._messages: deque[_Message] = deque()
        self._last: _Message | None = None
        self._arrived: anyio.Event | None = None
        self._room: anyio.Event | None = None

    async def put(self, message: _Message) -> None:
        """Add a message; waits while there are too many."""
        if self._last is not None:
            return
        if message["type"] in {"http.disconnect", "websocket.disconnect"}:
            self.close(message)
            return
        self._messages.append(message)
        if self._arrived is not None:
            self._arrived.set()
        while len(self._messages) > _MAILBOX_MESSAGES and self._last is None:
            self._room = anyio.Event()
            await self._room.wait()

    def close(self, last: _Message) -> None:
        """Add the message after which nothing comes."""
        if self._last is None:
            self._last = last
            for waiting in (self._arrived, self._room):
                if waiting is not None:
                    waiting.set()

    async def receive(self) -> _Message:
        """Take the next message; the last one again and again."""
        while not self._messages:
            if self._last is not None:
                return self._last
            if self._arrived is None:
                self._arrived = anyio.Event()
            await self._arrived.wait()
            self._arrived = None
        if self._room is not None:
            self._room.set()
        return self._messages.popleft()


class _Connection:
    """One connection: reads and writes within deadlines, feeds the protocol, runs the application.

    Hypercorn's streams know it as their task group (`spawn_app`, `spawn`).
    """

    def __init__(self, server: HttpServer, stream: Stream) -> None:
        self.busy = False
        self._server = server
        self._settings = server.settings
        self._stream = stream
        self._tasks: TaskGroup
        client, bound = stream.addresses()
        self._protocol = GuardedProtocol(
            self,
            self._settings,
            app=cast("AppWrapper", server.app),
            config=server.config,
            context=cast("WorkerContext", server.context),
            task_group=cast("HypercornTaskGroup", self),
            state=server.state,
            client=client,
            server=bound,
        )
        self._reading = anyio.CancelScope(deadline=anyio.current_time() + self._settings.head_timeout_s)
        self._writing = anyio.Lock(fast_acquire=True)
        self._pings: anyio.CancelScope | None = None
        self._head_began = False
        self._body_mark = -1  # in units of 64 KiB; -1 is no body
        self._body_deadline = math.inf
        self._unyielded_bytes = 0
        self._ended = False  # by us, or by an answer that closes
        self._gone = False  # whatever is written now has no reader

    async def run(self) -> None:
        """Serve until both sides are done with the connection; never raises for what one client did."""
        try:
            with _contained("a connection"):
                async with anyio.create_task_group() as self._tasks:
                    with _contained("reading from a connection"):
                        await self._read()
                    self._gone = True
                    await self._protocol.close()
                    self._stream.close()
                    if self._pings is not None:
                        self._pings.cancel()
                    # Leaving the task group waits for an application that goes on without its client.
        finally:
            self._server.connection_ended(self)
            self._stream.close()

    def end_if_idle(self) -> None:
        """End the connection unless a request is in progress or arriving."""
        if not self.busy and not self._protocol.head_pending:
            self.end()

    def lose(self) -> None:
        """Take the client for gone."""
        self._gone = True
        self.end()

    # What the protocol asks for

    def request_began(self) -> None:
        """Note that a request's head is complete."""
        self.busy = True
        self._server.requests_total += 1
        self._body_mark = -1
        self._reading.deadline = math.inf

    def request_ended(self) -> None:
        """Note that a request was answered and the next one may come."""
        self.busy = self._head_began = False
        self._body_mark = -1
        self._reading.deadline = anyio.current_time() + self._settings.keep_alive_s

    def end(self) -> None:
        """End the connection; whatever had to be written is written."""
        self._ended = True
        self._reading.cancel()

    async def write(self, data: bytes) -> None:
        """Write to the client, which has to take each 64 KiB in time; it is not an error if the client is gone."""
        if self._gone:
            return
        try:
            if not self._writing.locked():
                sent = self._stream.send(data)
                if sent == len(data):
                    self._unyielded_bytes += sent
                    if self._unyielded_bytes > _CHUNK_BYTES:  # no client is so fast that all others may wait
                        self._unyielded_bytes = 0
                        await checkpoint()
                    return
                data = data[sent:]
            async with self._writing:
                await self._write_slowly(memoryview(data))
        except (OSError, anyio.ClosedResourceError):
            self.lose()
        except BaseException:
            self.lose()  # An answer that was cut short is followed by nothing.
            raise

    async def _write_slowly(self, data: memoryview) -> None:
        while data and not self._gone:
            part, data = data[:_CHUNK_BYTES], data[_CHUNK_BYTES:]
            with anyio.move_on_after(self._settings.write_timeout_s) as deadline:
                while part:
                    await self._stream.wait_writable()
                    part = part[self._stream.send(part) :]
            if deadline.cancelled_caught:
                self._server.stalled_total += 1
                self.lose()

    async def pause(self, resumed: Event, room: int) -> bytes:
        """Wait until the protocol can go on, and read ahead meanwhile: the client's leaving must not go unnoticed."""
        ahead: list[bytes] = []

        async def read_ahead(room: int) -> None:
            while room > 0:
                data = await self._stream.receive()
                if not data:
                    self.lose()
                    return
                ahead.append(data)
                room -= len(data)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_ahead, room)
            await resumed.wait()
            tasks.cancel_scope.cancel()
        return b"".join(ahead)

    # What Hypercorn's streams ask for

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: WWWScope, send: Callable[[ASGISendEvent | None], Awaitable[None]]
    ) -> Callable[[_Message], Awaitable[None]]:
        """Start the application for one request or WebSocket."""
        del config
        scope["extensions"][DRAINING] = cast("Any", self._server.draining)
        mailbox = _Mailbox()
        self._tasks.start_soon(self._run_app, cast("ASGIApp", app), scope, mailbox, send, self._protocol.stream)
        return mailbox.put

    def spawn(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Start what ends with the connection: only WebSocket pings do."""

        async def run() -> None:
            with anyio.CancelScope() as self._pings:
                await function(*args)

        self._tasks.start_soon(run)

    async def _run_app(
        self,
        app: ASGIApp,
        scope: WWWScope,
        mailbox: _Mailbox,
        send: Callable[[Any], Awaitable[None]],
        stream: HTTPStream | WSStream | None,
    ) -> None:
        async def send_to_client(message: _Message) -> None:
            if not self._gone:
                await send(message)
            elif isinstance(stream, HTTPStream):
                raise ClientGone("the client is gone")
            else:
                await checkpoint()  # Quart would log the error of a WebSocket's handler; it hears of the end anyway.

        with _contained(f"the application, answering {scope['path']!r},"):
            await app(scope, mailbox.receive, send_to_client)
        mailbox.close({"type": "http.disconnect"})
        if isinstance(stream, HTTPStream) and stream.state is ASGIHTTPState.REQUEST and not stream.closed:
            body = problem(500, "The application failed.")
            headers = [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
            await send({"type": "http.response.start", "status": 500, "headers": headers})
            await send({"type": "http.response.body", "body": body})
        await send(None)

    # Reading

    async def _read(self) -> None:
        refusal: Refusal | None = None
        try:
            with self._reading:
                while data := await self._stream.receive():
                    if self._body_mark < 0:
                        await self._protocol.feed(data)
                    else:
                        # The time until the application takes it is not the client's.
                        self._reading.deadline = math.inf
                        began = anyio.current_time()
                        await self._protocol.feed(data)
                        self._body_deadline += anyio.current_time() - began
                    self._set_deadline()
                return
        except Refusal as error:
            refusal = error
        if self._gone:
            return
        if refusal is None and not self._ended and (self._protocol.head_pending or self._protocol.body_pending):
            refusal = Refusal(408, "The request did not arrive in time.")
        if refusal is not None:
            self._server.refused_total += 1
            await self._protocol.refuse(refusal)
        if refusal is not None or self._protocol.body_pending:
            await _linger(self._stream)

    def _set_deadline(self) -> None:
        if self._protocol.body_pending:
            mark = self._protocol.body_bytes // _CHUNK_BYTES
            if mark != self._body_mark:
                self._body_mark = mark
                self._body_deadline = anyio.current_time() + self._settings.read_timeout_s
            self._reading.deadline = self._body_deadline
        elif not self._head_began and self._protocol.head_pending:
            self._head_began = True
            self._reading.deadline = anyio.current_time() + self._settings.head_timeout_s


class _Lifespan:
    """The application's startup and shutdown (ASGI lifespan); an application may do without."""

    def __init__(self, app: ASGIApp, state: dict[str, Any]) -> None:
        self.failure: str | None = None
        self._app = app
        self._state = state
        self._mailbox = _Mailbox()
        self._started = anyio.Event()
        self._stopped = anyio.Event()

    async def run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            with _contained("the application's lifespan", logging.DEBUG):
                await self._app(scope, self._mailbox.receive, self._send)
        finally:
            self._started.set()
            self._stopped.set()

    async def startup(self) -> None:
        await self._mailbox.put({"type": "lifespan.startup"})
        await self._started.wait()

    async def shutdown(self) -> None:
        await self._mailbox.put({"type": "lifespan.shutdown"})
        with anyio.move_on_after(_LIFESPAN_SHUTDOWN_S) as deadline:
            await self._stopped.wait()
        if deadline.cancelled_caught:
            _logger.warning("the application's shutdown did not end within %s s", _LIFESPAN_SHUTDOWN_S)

    async def _send(self, message: _Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            self.failure = str(message.get("message", ""))
        elif message["type"] == "lifespan.shutdown.failed":
            _logger.error("the application's shutdown failed: %s", message.get("message", ""))
        if message["type"].startswith("lifespan.startup."):
            self._started.set()
        else:
            self._stopped.set()


class _QuietConfig(Config):
    """Hypercorn's configuration: no access log, errors to our logger, no server header, the date made once a second."""

    include_server_header = False
    accesslog = None
    errorlog = _logger

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__()
        self.h11_max_incomplete_size = settings.max_head_bytes
        self.websocket_max_message_size = settings.max_body_bytes
        self.websocket_ping_interval = _WEBSOCKET_PING_S
        self._second = 0
        self._headers: list[tuple[bytes, bytes]] = []

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        """Write the fields of every answer."""
        del protocol
        second = int(time())
        if second != self._second:
            self._second = second
            self._headers = [(b"date", format_date_time(second).encode())]
        return self._headers


class _Flag:
    """Hypercorn's event over AnyIO's."""

    def __init__(self, event: anyio.Event | None = None) -> None:
        self._event = event or anyio.Event()

    async def clear(self) -> None:
        self._event = anyio.Event()

    async def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()

    def is_set(self) -> bool:
        return self._event.is_set()


class _Context:
    """Hypercorn's worker context over AnyIO."""

    event_class = _Flag
    sleep = staticmethod(anyio.sleep)
    time = staticmethod(anyio.current_time)

    def __init__(self, draining: anyio.Event) -> None:
        self.terminated = _Flag(draining)

    async def mark_request(self) -> None:
        """Nothing ends after a number of requests here."""


@contextmanager
def _contained(what: str, level: int = logging.ERROR) -> Generator[None]:
    """Log errors instead of raising them; cancellation and the like still go out."""
    try:
        yield
    except Exception as error:
        if not _client_gone(error):
            _logger.log(level, "%s failed", what, exc_info=True)
    except BaseExceptionGroup as group:
        errors, others = group.split(Exception)
        if errors is not None and not _client_gone(errors):
            _logger.log(level, "%s failed", what, exc_info=errors)
        if others is not None:
            raise others from None


def _client_gone(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        members = cast("BaseExceptionGroup[BaseException]", error).exceptions
        return all(_client_gone(member) for member in members)
    # By name: Quart from 0.23 raises ClientDisconnectedError in its place, Starlette ClientDisconnect.
    return isinstance(error, ClientGone) or type(error).__name__.startswith("ClientDisconnect")


async def _linger(stream: Stream) -> None:
    """Read on for a while: closing with unread bytes sends a reset, which can overtake the answer."""
    with anyio.move_on_after(_LINGER_S):
        stream.send_eof()
        while await stream.receive():
            pass


def _close_all(listeners: list[socket.socket]) -> None:
    for listener in listeners:
        listener.close()
