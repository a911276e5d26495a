"""HTTP/2 for one connection, over the library `h2`, with bounds for everything that a client can make grow.

Hypercorn's own HTTP/2 protocol is not used: a body that one application does not read would hold up all requests of its connection there, data
for a request that has ended is an error that ends the connection, and nothing bounds the frames that are answered. Its translation between
ASGI and events is (`HTTPStream`). WebSockets are not offered over HTTP/2; browsers open a connection with HTTP/1.1 for them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Protocol, cast

import anyio
import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hypercorn.config import Config
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import AppWrapper, ASGISendEvent, ConnectionState, TaskGroup, WorkerContext, WWWScope

from fissile_gateway._http2_body import BodyMailbox
from fissile_gateway._http_application import ClientGone
from fissile_gateway._http_frames import Flood, FrameMeter
from fissile_gateway._http_guard import Refusal, ServerSettings, check_fields, problem

CONNECTION_WINDOW_BYTES = 512 * 1024
"""How much of all bodies of a connection may be unread."""

_FRAME_BYTES = 16 * 1024
_PROGRESS_BYTES = 64 * 1024

Codes = h2.errors.ErrorCodes
Settings = h2.settings.SettingCodes


class Http2Host(Protocol):
    """The connection that a protocol runs on."""

    def request_began(self) -> None:
        """Note that a request's head is complete."""

    def request_ended(self) -> None:
        """Note that no request is in progress any more."""

    def stalled(self) -> None:
        """Note that the client does not take its answer, and take it for gone."""

    def end(self) -> None:
        """End the connection; whatever had to be written is written."""

    async def write(self, data: bytes) -> None:
        """Write to the client; it is not an error if the client is gone."""

    def start(
        self,
        app: AppWrapper,
        scope: WWWScope,
        mailbox: BodyMailbox,
        send: Callable[[Any], Awaitable[None]],
        stream: HTTPStream,
    ) -> None:
        """Start the application for one request."""


class _Exchange:
    """One request on the connection."""

    def __init__(self, stream: HTTPStream, mailbox: BodyMailbox) -> None:
        self.stream = stream
        self.mailbox = mailbox
        self.received_bytes = 0
        self.is_complete = False  # all of the body is there
        self.is_answered = False  # the answer has begun
        self.room = anyio.Event()


class _Starter:
    """Hypercorn's task group, as one of its streams sees it."""

    def __init__(self, start: Callable[[AppWrapper, WWWScope, Callable[[Any], Awaitable[None]]], BodyMailbox]) -> None:
        self._start = start

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: WWWScope, send: Callable[[ASGISendEvent | None], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        del config
        return self._start(app, scope, send).put


class _Connection(h2.connection.H2Connection):
    DEFAULT_MAX_HEADER_LIST_SIZE = 16 * 1024


class Http2Protocol:
    """HTTP/2 on one connection.

    Args:
        host: The connection.
        settings: The bounds.
        app: The application.
        config: Hypercorn's configuration.
        context: Hypercorn's context; tells whether the server drains.
        state: What the application's lifespan has left for requests.
        client: The client's address.
        server: The server's.
    """

    stream: HTTPStream | None = None
    """Of HTTP/1.1 only."""

    def __init__(
        self,
        host: Http2Host,
        settings: ServerSettings,
        *,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        state: dict[str, Any],
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
    ) -> None:
        self.body_bytes = 0
        self._host = host
        self._settings = settings
        self._app = app
        self._config = config
        self._context = context
        self._state = state
        self._client = client
        self._server = server
        self._meter = FrameMeter(settings.max_head_bytes, anyio.current_time)
        self._exchanges: dict[int, _Exchange] = {}
        self._running = 0  # applications, those of requests that were reset too
        self._requests = 0
        self._is_over = False
        self._h2 = _Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        self._h2.local_settings = h2.settings.Settings(
            client=False,
            initial_values={
                Settings.MAX_CONCURRENT_STREAMS: settings.http2_streams,
                Settings.MAX_HEADER_LIST_SIZE: settings.max_head_bytes,
                Settings.ENABLE_PUSH: 0,
            },
        )
        self._h2.decoder.max_header_list_size = settings.max_head_bytes

    # --- what the connection asks for --------------------------------------------------------------------------------

    @property
    def head_pending(self) -> bool:
        """Whether a part of a frame, or of a request's head, has arrived."""
        return self._meter.is_inside

    @property
    def body_pending(self) -> bool:
        """Whether a part of a request's body is still to come, and there is room for it."""
        waiting = [one for one in self._exchanges.values() if not one.is_complete]
        return bool(waiting) and any(not one.mailbox.is_full for one in waiting) and not self._is_window_full()

    def _is_window_full(self) -> bool:
        unread = sum(one.mailbox.unread for one in self._exchanges.values())
        return unread > CONNECTION_WINDOW_BYTES - 2 * _FRAME_BYTES

    async def begin(self) -> None:
        """Say what the server grants."""
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES - 65535)
        await self._flush()

    async def feed(self, data: bytes) -> None:
        """Take bytes from the client.

        Raises:
            Refusal: The client broke the protocol, or sent too much; `refuse` ends the connection.
        """
        try:
            self._meter.feed(data)
            events = self._h2.receive_data(data)
        except Flood as flood:
            raise Refusal(429, f"{flood}.") from None
        except h2.exceptions.ProtocolError as error:
            raise Refusal(400, f"{type(error).__name__}: {error}.") from None
        given_up = {event.stream_id for event in events if isinstance(event, h2.events.StreamReset)}
        for event in events:
            # A request that came with its end is not begun: for `h2` it has ended already, whatever would be answered.
            if not (isinstance(event, h2.events.RequestReceived) and event.stream_id in given_up):
                await self._on(event)
        await self._flush()

    async def refuse(self, refusal: Refusal) -> None:
        """End the connection with a GOAWAY frame that says why, and let go of the applications."""
        if not self._is_over:
            self._is_over = True
            code = Codes.ENHANCE_YOUR_CALM if refusal.status in (408, 429) else Codes.PROTOCOL_ERROR
            self._terminate(code, refusal.detail)
            await self._flush()
        await self.close()

    async def drain(self) -> None:
        """Ask the client to begin no more requests.

        Not by GOAWAY, which would say so, because clients on `h2`, as this server, take it for the end of the answers in progress too.
        """
        with suppress(h2.exceptions.ProtocolError):
            self._h2.update_settings({Settings.MAX_CONCURRENT_STREAMS: 0})
        await self._flush()

    async def farewell(self) -> None:
        """Say that the connection ends, if nothing else has."""
        if not self._is_over:
            self._is_over = True
            self._terminate(Codes.NO_ERROR, "")
            await self._flush()

    async def close(self) -> None:
        """Tell the applications that their client is gone."""
        self._is_over = True
        for number in tuple(self._exchanges):
            await self._drop(number)

    # --- what the client sends ---------------------------------------------------------------------------------------

    async def _on(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            await self._request(event)
        elif isinstance(event, h2.events.DataReceived):
            await self._take(event)
        elif isinstance(event, h2.events.StreamEnded):
            exchange = self._exchanges.get(event.stream_id)
            if exchange is not None:
                exchange.is_complete = True
                exchange.mailbox.complete()
        elif isinstance(event, h2.events.StreamReset):
            await self._drop(event.stream_id)
        elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            for exchange in self._exchanges.values():
                exchange.room.set()
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._is_over = True
            if not self._exchanges:
                self._host.end()

    async def _request(self, event: h2.events.RequestReceived) -> None:
        number, fields = event.stream_id, event.headers or []
        if self._is_over or self._context.terminated.is_set() or self._running >= self._settings.http2_streams:
            # Applications of requests that were reset count too: h2 counts only what the client has not reset.
            self._reset(number, Codes.REFUSED_STREAM)
            return
        pseudo = {bytes(name): bytes(value) for name, value in fields if name.startswith(b":")}
        headers = [(bytes(name), bytes(value)) for name, value in fields if not name.startswith(b":")]
        if b":authority" in pseudo:
            headers = [(b"host", pseudo[b":authority"]), *(field for field in headers if field[0] != b"host")]
        target, method = pseudo.get(b":path", b""), pseudo.get(b":method", b"")
        try:
            if len(fields) > self._settings.max_head_fields + len(pseudo):
                raise Refusal(431, f"The request has more than {self._settings.max_head_fields} fields.")
            length = check_fields(method, target, headers, self._settings)
            if length is not None and length > self._settings.max_body_bytes:
                raise Refusal(413, f"The request body is larger than {self._settings.max_body_bytes} bytes.")
            if not target.startswith(b"/") and method != b"OPTIONS":
                raise Refusal(400, "The path does not begin with a slash.")
            raw_method = method.decode("ascii")
            target.decode("ascii")
        except Refusal as refusal:
            self._answer(number, refusal)
            return
        except UnicodeDecodeError:
            self._answer(number, Refusal(400, "The path or the method is not ASCII."))
            return
        stream = HTTPStream(
            self._app,
            self._config,
            self._context,
            cast("TaskGroup", _Starter(self._start)),
            ssl=True,
            client=self._client,
            server=self._server,
            send=self._on_answer,
            stream_id=number,
        )
        if any(name == b"expect" for name, _ in headers):
            try:
                self._h2.send_headers(number, [(b":status", b"100")])
            except h2.exceptions.ProtocolError:
                return  # the client has left, in what was read with the request
        self._exchanges[number] = _Exchange(stream, BodyMailbox(lambda size: self._taken(number, size)))
        self._running += 1
        self._requests += 1
        self._host.request_began()
        request = Request(number, headers, "2", raw_method, target, ConnectionState(self._state))
        await stream.handle(request)

    def _start(self, app: AppWrapper, scope: WWWScope, send: Callable[[Any], Awaitable[None]]) -> BodyMailbox:
        """Start the application for the newest request."""
        exchange = next(reversed(self._exchanges.values()))

        async def send_or_end(message: Any) -> None:
            if message is not None and exchange.stream.closed:
                raise ClientGone("the client has reset the request")
            try:
                await send(message)
            finally:
                if message is None:  # Hypercorn's sign that the application has returned
                    self._running -= 1

        # Push and early hints are offered by Hypercorn's stream, and not by this connection.
        extensions = cast("dict[str, Any]", scope["extensions"])
        extensions.pop("http.response.push", None)
        extensions.pop("http.response.early_hint", None)
        self._host.start(app, scope, exchange.mailbox, send_or_end, exchange.stream)
        return exchange.mailbox

    async def _take(self, event: h2.events.DataReceived) -> None:
        number, size, data = event.stream_id, event.flow_controlled_length or 0, event.data or b""
        exchange = self._exchanges.get(number)
        if exchange is None:
            self._acknowledge(number, size)  # its answer is sent; what still comes is let by
            return
        self.body_bytes += len(data)
        exchange.received_bytes += len(data)
        if exchange.received_bytes > self._settings.max_body_bytes:
            self._acknowledge(number, size)
            if exchange.is_answered:
                self._reset(number, Codes.CANCEL)
            else:
                self._answer(number, Refusal(413, f"The body is larger than {self._settings.max_body_bytes} bytes."))
            await self._drop(number)
            return
        self._acknowledge(number, size - len(data))
        exchange.mailbox.add(data)

    async def _taken(self, number: int, size: int) -> None:
        """Make room for more of a body, of which the application has taken a piece."""
        self._acknowledge(number, size)
        await self._flush()

    # --- what the application sends ----------------------------------------------------------------------------------

    async def _on_answer(self, event: StreamEvent) -> None:
        number = event.stream_id
        exchange = self._exchanges.get(number)
        if exchange is None:
            return
        try:
            if isinstance(event, Response):
                exchange.is_answered = True
                fields = [(b":status", b"%d" % event.status_code), *_without_connection(event.headers)]
                self._h2.send_headers(number, [*fields, *self._config.response_headers("h2")])
                if not any(name == b"content-length" for name, _ in event.headers):
                    await self._flush()  # of an answer with a length, the body comes at once
            elif isinstance(event, Body):
                await self._send_body(exchange, number, memoryview(event.data))
            elif isinstance(event, EndBody):
                self._h2.end_stream(number)
                self._meter.answered()
                if not exchange.is_complete:
                    # The answer is whole without the rest of the body (RFC 9113, 8.1).
                    self._reset(number, Codes.NO_ERROR)
                await self._flush()
            elif isinstance(event, StreamClosed):
                await self._drop(number)
        except h2.exceptions.ProtocolError:
            return  # the client reset the request, or left, in the meantime

    async def _send_body(self, exchange: _Exchange, number: int, data: memoryview) -> None:
        """Send a piece of a body as the client makes room for it; it has to take each 64 KiB in time."""
        while data:
            part, data = data[:_PROGRESS_BYTES], data[_PROGRESS_BYTES:]
            with anyio.move_on_after(self._settings.write_timeout_s) as deadline:
                while part and not exchange.stream.closed:
                    size = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size, len(part))
                    if size <= 0:
                        exchange.room = anyio.Event()
                        await exchange.room.wait()
                        continue
                    self._h2.send_data(number, bytes(part[:size]))
                    part = part[size:]
                    self._meter.served()
                    await self._flush()
            if deadline.cancelled_caught:
                self._host.stalled()
            if exchange.stream.closed or deadline.cancelled_caught:
                return

    # --- the end of a request ----------------------------------------------------------------------------------------

    def _answer(self, number: int, refusal: Refusal) -> None:
        """Answer a request that is refused, without any application."""
        body = problem(refusal.status, refusal.detail)
        fields = [
            (b":status", b"%d" % refusal.status),
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(body)),
        ]
        try:
            self._h2.send_headers(number, [*fields, *self._config.response_headers("h2")])
            if self._h2.local_flow_control_window(number) >= len(body):
                self._h2.send_data(number, body, end_stream=True)
        except h2.exceptions.ProtocolError:
            return
        self._reset(number, Codes.NO_ERROR)

    async def _drop(self, number: int) -> None:
        exchange = self._exchanges.pop(number, None)
        if exchange is None:
            return
        unread = exchange.mailbox.close()
        if unread:
            self._acknowledge(number, unread)
        exchange.room.set()
        await exchange.stream.handle(StreamClosed(number))
        if not self._exchanges:
            # After many requests, too, but only when none is in progress: clients on `h2` would take GOAWAY for the end of their answers.
            is_spent = self._requests >= self._settings.keep_alive_requests
            if self._context.terminated.is_set() or self._is_over or is_spent:
                self._terminate(Codes.NO_ERROR, "")
                await self._flush()
                self._host.end()
            else:
                self._host.request_ended()

    def _reset(self, number: int, code: Codes) -> None:
        with suppress(h2.exceptions.ProtocolError):  # it may have ended already
            self._h2.reset_stream(number, code)

    def _acknowledge(self, number: int, size: int) -> None:
        with suppress(h2.exceptions.ProtocolError, KeyError):
            if size:
                self._h2.acknowledge_received_data(size, number)

    def _terminate(self, code: Codes, why: str) -> None:
        with suppress(h2.exceptions.ProtocolError):
            self._h2.close_connection(code, why.encode()[:200] or None)

    async def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            await self._host.write(data)


def _without_connection(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Leave out fields that mean one connection of HTTP/1.1 (RFC 9113, 8.2.2)."""
    return [
        field for field in headers if field[0] not in (b"connection", b"keep-alive", b"transfer-encoding", b"upgrade")
    ]
