"""One connection of a client, from its first byte to its end."""

import math
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, cast

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from hypercorn.config import Config
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import AppWrapper, ASGISendEvent, Event, WorkerContext, WWWScope
from hypercorn.typing import TaskGroup as HypercornTaskGroup

from fissile_gateway._admission import Ticket
from fissile_gateway._gatekeeper import WAITED
from fissile_gateway._http2_body import BodyMailbox
from fissile_gateway._http_application import DRAINING, GONE, ASGIApp, ClientGone, Mailbox, Message, contained
from fissile_gateway._http_guard import Refusal, ServerSettings, problem
from fissile_gateway._http_protocol import Context, GuardedProtocol, QuietConfig
from fissile_gateway._http_socket import Duplex, Stream, linger
from fissile_gateway._http_tls import HTTP_2, TlsStream

if TYPE_CHECKING:
    from fissile_gateway._http2_protocol import Http2Protocol

_CHUNK_BYTES = 64 * 1024
_ALIVE_AGAIN_S = 1.0
_DENIAL = "websocket.http.response.body"


class Gatekeeper(Protocol):
    """What is asked before a request is read."""

    def client_of(self, peer: str) -> str:
        """Return for whom a connection from an address is counted; empty for nobody."""
        ...

    def refuse(self, data: bytes, peer: str) -> bytes | None:
        """Return the answer to a request that is refused; None lets it in."""
        ...

    def arrived(self, data: bytes = b"") -> Ticket | None:
        """Note a request that is let in; None where it is noted later, when its head is whole."""
        ...

    def started(self, ticket: Ticket) -> float | None:
        """Note that its application begins; return how long it waited, in seconds, if that was long."""
        ...

    def forget(self, ticket: Ticket) -> None:
        """Note that its application will never begin."""


class ConnectionHost(Protocol):
    """The server that a connection belongs to."""

    app: ASGIApp
    settings: ServerSettings
    config: QuietConfig
    context: Context
    state: dict[str, Any]
    draining: anyio.Event
    gatekeeper: Gatekeeper | None
    requests_total: int
    refused_total: int
    stalled_total: int

    def connection_ended(self, connection: "Connection") -> None:
        """Forget a connection."""


class Connection:
    """One connection: reads and writes within deadlines, feeds the protocol, runs the application.

    Hypercorn's streams know it as their task group (`spawn_app`, `spawn`).
    """

    def __init__(self, server: ConnectionHost, stream: Duplex) -> None:
        self.busy = False
        self._server = server
        self._settings = server.settings
        self._stream = stream
        self._tasks: TaskGroup
        self._protocol: GuardedProtocol | Http2Protocol
        self._gatekeeper = server.gatekeeper
        self._may_refuse = server.gatekeeper is not None
        self._peer = ""
        self._tickets: list[Ticket] = []  # of requests that were let in, and whose application has not begun
        self._next_ticket: Ticket | None = None  # of them, that of the request whose head is about to be read
        self._kept_at = monotonic()
        self._now = server.context.time
        self._reading = anyio.CancelScope(deadline=self._now() + self._settings.head_timeout_s)
        self._writing: anyio.Lock | None = None  # made for the first client that does not take at once what is written
        self._pings: anyio.CancelScope | None = None
        self._head_began = False
        self._body_mark = -1  # in units of 64 KiB; -1 is no body
        self._body_deadline = math.inf
        self._unyielded_bytes = 0
        self._ended = False  # by us, or by an answer that closes
        self._gone = False  # whatever is written now has no reader
        self._handshake: anyio.CancelScope | None = None
        self._is_open = False  # the protocol is known

    async def run(self) -> None:
        """Serve until both sides are done with the connection; never raises for what one client did."""
        try:
            with contained("a connection"):
                async with anyio.create_task_group() as self._tasks:
                    if await self._open():
                        with contained("reading from a connection"):
                            await self._read()
                        self._gone = True
                        await self._protocol.close()
                    self._stream.close()
                    if self._pings is not None:
                        self._pings.cancel()
                    # Leaving the task group waits for an application that goes on without its client.
        finally:
            if self._gatekeeper is not None:
                for ticket in self._tickets:
                    self._gatekeeper.forget(ticket)
            self._server.connection_ended(self)
            self._stream.close()

    async def _open(self) -> bool:
        """Find out what is spoken; return False where that fails."""
        spoken: str | None = None
        if isinstance(self._stream, TlsStream):
            is_secure = False
            with anyio.CancelScope(deadline=self._now() + self._settings.tls_handshake_s) as self._handshake:
                is_secure = await self._stream.handshake()
            if not is_secure or self._ended:
                return False
            spoken = self._stream.protocol
            self._reading.deadline = self._now() + self._settings.head_timeout_s
        client, bound = self._stream.addresses()
        self._peer = client[0] if client else ""
        server, app = self._server, cast("AppWrapper", self._server.app)
        context = cast("WorkerContext", server.context)
        if spoken == HTTP_2:
            from fissile_gateway._http2_protocol import Http2Protocol  # h2 is not needed without TLS

            self._may_refuse = False  # its frames are no request line
            self._protocol = Http2Protocol(
                self,
                self._settings,
                app=app,
                config=server.config,
                context=context,
                state=server.state,
                client=client,
                server=bound,
            )
            self._is_open = True
            await self._protocol.begin()
        else:
            self._protocol = GuardedProtocol(
                self,
                self._settings,
                app=app,
                config=server.config,
                context=context,
                task_group=cast("HypercornTaskGroup", self),
                state=server.state,
                client=client,
                server=bound,
                ssl=isinstance(self._stream, TlsStream),
            )
            if self._may_refuse and isinstance(self._stream, Stream):
                self._may_refuse = not self._stream.divert(self._refuse_unread)
            self._is_open = True
        return True

    def end_if_idle(self) -> None:
        """End the connection unless a request is in progress or arriving."""
        if not self._is_open:
            self.end()
        elif self.busy:
            # Where the client is gone, its application may still run, and there is nobody to be told.
            if not self._gone and not isinstance(self._protocol, GuardedProtocol):
                self._tasks.start_soon(self._protocol.drain)
        elif not self._protocol.head_pending:
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
        self._reading.deadline = self._now() + self._settings.keep_alive_s
        self._kept_at = monotonic()

    def stalled(self) -> None:
        """Note that the client does not take its answer, and take it for gone."""
        self._server.stalled_total += 1
        # Up to megabytes would wait in the operating system for as long as the client takes a byte now and then.
        self._stream.forget_unsent()
        self.lose()

    def end(self) -> None:
        """End the connection; whatever had to be written is written."""
        self._ended = True
        self._reading.cancel()
        if self._handshake is not None:
            self._handshake.cancel()

    async def write(self, data: bytes) -> None:
        """Write to the client, which has to take each 64 KiB in time; it is not an error if the client is gone."""
        if self._gone:
            return
        try:
            if self._writing is None or not self._writing.locked():
                sent = self._stream.send(data)
                if sent == len(data):
                    self._unyielded_bytes += sent
                    if self._unyielded_bytes > _CHUNK_BYTES:  # no client is so fast that all others may wait
                        self._unyielded_bytes = 0
                        await checkpoint()
                    return
                data = data[sent:]
            if self._writing is None:
                self._writing = anyio.Lock(fast_acquire=True)
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
                self.stalled()

    @property
    def _is_writing(self) -> bool:
        return self._writing is not None and self._writing.locked()

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
    ) -> Callable[[Message], Awaitable[None]]:
        """Start the application for one request or WebSocket."""
        del config
        mailbox = Mailbox()
        self.start(app, scope, mailbox, send, self._protocol.stream)
        return mailbox.put

    def start(
        self,
        app: AppWrapper,
        scope: WWWScope,
        mailbox: Mailbox | BodyMailbox,
        send: Callable[[Any], Awaitable[None]],
        stream: HTTPStream | WSStream | None,
    ) -> None:
        """Start the application for one request or WebSocket."""
        scope["extensions"][DRAINING] = cast("Any", self._server.draining)
        scope["extensions"][GONE] = cast("Any", mailbox.when_closed)
        ticket, self._next_ticket = self._next_ticket, None
        if ticket is None and self._gatekeeper is not None:
            ticket = self._gatekeeper.arrived()
            if ticket is not None:
                self._tickets.append(ticket)
        self._tasks.start_soon(self._run_app, cast("ASGIApp", app), scope, mailbox, send, stream, ticket)

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
        mailbox: Mailbox | BodyMailbox,
        send: Callable[[Any], Awaitable[None]],
        stream: HTTPStream | WSStream | None,
        ticket: Ticket | None,
    ) -> None:
        if ticket is not None and self._gatekeeper is not None:
            self._tickets.remove(ticket)
            waited_s = self._gatekeeper.started(ticket)
            if waited_s is not None:
                cast("dict[str, Any]", scope)[WAITED] = waited_s

        async def send_to_client(message: Message) -> None:
            if not self._gone:
                await send(message)
                if message["type"] == _DENIAL and not message.get("more_body", False) and isinstance(mailbox, Mailbox):
                    mailbox.close({"type": "websocket.disconnect", "code": 1006})  # Quart waits for it from 0.23 on
            elif isinstance(stream, HTTPStream):
                raise ClientGone("the client is gone")
            else:
                await checkpoint()  # Quart would log the error of a WebSocket's handler; it hears of the end anyway.

        with contained(f"the application, answering {scope['path']!r},"):
            await app(scope, mailbox.receive, send_to_client)
        if isinstance(mailbox, Mailbox):
            mailbox.close({"type": "http.disconnect"})
        else:
            mailbox.close()
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
                    if self._may_refuse and self._refuse_unread(data):
                        continue
                    if self._body_mark < 0:
                        await self._protocol.feed(data)
                    else:
                        # The time until the application takes it is not the client's.
                        self._reading.deadline = math.inf
                        began = self._now()
                        await self._protocol.feed(data)
                        self._body_deadline += self._now() - began
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
        else:
            await self._protocol.farewell()
        if refusal is not None or self._protocol.body_pending:
            await linger(self._stream)

    def _refuse_unread(self, data: bytes) -> bool:
        """Answer a request without reading it, where it is not let in; return False where it is."""
        gatekeeper = self._gatekeeper
        if gatekeeper is None or self.busy or self._ended or self._protocol.head_pending or self._is_writing:
            return False
        answer = gatekeeper.refuse(data, self._peer)
        if answer is None:
            if self._next_ticket is None and (ticket := gatekeeper.arrived(data)) is not None:
                self._next_ticket = ticket
                self._tickets.append(ticket)
            return False
        self._server.refused_total += 1
        if self._stream.send(answer) < len(answer):  # who does not even read refusals is no client
            self.lose()
        now = monotonic()
        if now - self._kept_at > _ALIVE_AGAIN_S:
            self._reading.deadline += now - self._kept_at  # relative: here runs no task that could ask the event loop
            self._kept_at = now
        return True

    def _set_deadline(self) -> None:
        if self._protocol.body_pending:
            mark = self._protocol.body_bytes // _CHUNK_BYTES
            if mark != self._body_mark:
                self._body_mark = mark
                self._body_deadline = self._now() + self._settings.read_timeout_s
            self._reading.deadline = self._body_deadline
        elif self._protocol.head_pending:
            if not self._head_began:
                self._head_began = True
                self._reading.deadline = self._now() + self._settings.head_timeout_s
        elif self._head_began and isinstance(self._stream, TlsStream):
            # Of HTTP/2, where a frame need not be the head of a request.
            self._head_began = False
            idle = self._now() + self._settings.keep_alive_s
            self._reading.deadline = math.inf if self.busy else min(idle, self._reading.deadline)
