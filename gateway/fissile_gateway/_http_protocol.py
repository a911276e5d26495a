"""Hypercorn's HTTP/1.1 protocol with our rules in it, and its configuration and context.

The protocol class knows no sockets and no event loop.
"""

import logging
from collections.abc import Sequence
from time import time
from typing import Any, Protocol
from wsgiref.handlers import format_date_time

import anyio
import h11
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, Data, EndBody, EndData, Response
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import AppWrapper, ConnectionState, H11SendableEvent, TaskGroup, WorkerContext
from hypercorn.typing import Event as WaitableEvent

from fissile._cancellation import loop_clock
from fissile_gateway._http_guard import (
    Refusal,
    ServerSettings,
    check_framing,
    check_head,
    check_request,
    check_trailer,
    problem_answer,
)

_READ_AHEAD_BYTES = 64 * 1024
_READ_ON_BYTES = 64 * 1024
"""How much of a body that nobody has read is read for the sake of the next request, in bytes. Clients send heads and bodies apart."""
_WEBSOCKET_PING_S = 20.0

_logger = logging.getLogger("fissile.gateway.server")


class ProtocolHost(Protocol):
    """The connection that a protocol runs on."""

    def request_began(self) -> None:
        """Note that a request's head is complete."""

    def request_ended(self) -> None:
        """Note that a request was answered and the next one may come."""

    def end(self) -> None:
        """End the connection; whatever had to be written is written."""

    async def pause(self, resumed: WaitableEvent, room: int) -> bytes:
        """Wait for the event and return what the client sent meanwhile, at most so many bytes."""
        ...

    async def write(self, data: bytes) -> None:
        """Write to the client; it is not an error if the client is gone."""


class GuardedProtocol(H11Protocol):
    """Hypercorn's HTTP/1.1 protocol with the rules of `_http_guard`, and with fewer and larger writes.

    It relies on these names of Hypercorn 0.18 beyond its public interface: ``_handle_events``, ``_check_protocol``,
    ``_create_stream``, ``_send_h11_event`` and ``_maybe_recycle``, and on the buffer of its `WSStream`.
    """

    def __init__(
        self,
        host: ProtocolHost,
        settings: ServerSettings,
        *,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        task_group: TaskGroup,
        state: dict[str, Any],
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        ssl: bool = False,
    ) -> None:
        super().__init__(
            app,
            config,
            context,
            task_group,
            ConnectionState(state),
            ssl=ssl,
            client=client,
            server=server,
            send=self._on_event,
        )
        self._host = host
        self._settings = settings
        self._held = b""
        self._refused = False
        self._closes = False
        self._fields: Sequence[tuple[bytes, bytes]] = ()  # of the request
        self._reads_on = False
        self._requests = 0
        self._received_bytes = 0  # of a body, with its chunks' sizes
        self.body_bytes = 0

    @property
    def head_pending(self) -> bool:
        """Whether a part of a request head has arrived."""
        return self.connection.their_state is h11.IDLE and bool(self.connection.trailing_data[0])

    @property
    def body_pending(self) -> bool:
        """Whether a part of a request's body is still to come."""
        return self.connection.their_state is h11.SEND_BODY

    async def feed(self, data: bytes) -> None:
        """Take bytes from the client.

        Args:
            data: At least one byte.

        Raises:
            Refusal: The client sent what the server does not accept; `refuse` answers it.
        """
        if self.body_pending:
            self._received_bytes += len(data)
        self.connection.receive_data(data)
        await self._handle_events()
        if self.body_pending:
            check_framing(self._received_bytes, self.body_bytes, self._settings)

    async def farewell(self) -> None:
        """Do nothing: HTTP/1.1 has no word for it."""

    async def refuse(self, refusal: Refusal) -> None:
        """Answer a refused request, unless an answer has begun, and let go of the application."""
        connection = self.connection
        if isinstance(connection, H11WSConnection):
            connection = connection.h11_connection
        answerable = connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}
        self._refused = True
        if answerable:
            await self._host.write(problem_answer(refusal.status, refusal.detail))
        await self._close_stream()

    async def _handle_events(self) -> None:
        pieces: list[bytes] = []  # one message to the application for all chunks of one read
        while True:
            if self.connection.they_are_waiting_for_100_continue:
                await self._send_h11_event(h11.InformationalResponse(status_code=100, headers=[]))
            event = self._next_event()
            if isinstance(event, h11.Data):
                self._count_body(len(event.data))
                pieces.append(bytes(event.data))
                continue
            if pieces and self.stream is not None:
                await self.stream.handle(Body(stream_id=STREAM_ID, data=b"".join(pieces)))
                pieces.clear()
            if isinstance(event, h11.Request):
                self._begin(event)
                await self._create_stream(event)
            elif event is h11.PAUSED:
                await self.can_read.clear()
                room = _READ_AHEAD_BYTES - len(self.connection.trailing_data[0])
                ahead = await self._host.pause(self.can_read, room)
                if ahead:
                    self.connection.receive_data(ahead)
            elif isinstance(event, h11.EndOfMessage) and self._reads_on:
                self._reads_on = False
                await super()._maybe_recycle()
            elif event is h11.NEED_DATA or self.stream is None or isinstance(event, h11.ConnectionClosed):
                return
            elif isinstance(event, h11.EndOfMessage):
                await self.stream.handle(EndBody(stream_id=STREAM_ID))
            elif isinstance(event, Data):
                await self._handle_frames(event)

    def _next_event(self) -> h11.Event | Data | type[h11.NEED_DATA] | type[h11.PAUSED]:
        if self.connection.their_state is h11.IDLE:
            check_head(self.connection.trailing_data[0], self._settings)
        try:
            event = self.connection.next_event()
        except h11.RemoteProtocolError as error:
            raise Refusal(error.error_status_hint, f"{error}.") from error
        if isinstance(event, h11.EndOfMessage) and event.headers:
            check_trailer(event.headers, self._settings)
        return event

    def _begin(self, request: h11.Request) -> None:
        # Stands in for H11Protocol._check_protocol, which would switch to HTTP/2. `Upgrade: h2c` is not looked at: a
        # server may ignore it and answer in HTTP/1.1 (RFC 9110 section 7.8). With settings of a wrong length the
        # switch even ended the process on the Trio worker.
        check_request(request, self._settings)
        self.body_bytes = self._received_bytes = 0
        self._fields = request.headers
        self._requests += 1
        # Who asks for an echo of what proxies have added gets a 405; nothing more is taken from there.
        self._closes = request.method == b"TRACE" or self._requests >= self._settings.keep_alive_requests
        self._host.request_began()

    async def _create_stream(self, request: h11.Request) -> None:
        # Hypercorn would accept compression, and what 64 KiB inflate to, 64 MiB, is there before anybody can count it.
        fields = [field for field in request.headers if field[0] != b"sec-websocket-extensions"]
        if len(fields) < len(request.headers):
            request = h11.Request(
                method=request.method, target=request.target, headers=fields, http_version=request.http_version
            )
        await super()._create_stream(request)

    def _count_body(self, size: int) -> None:
        self.body_bytes += size
        if self.body_bytes > self._settings.max_body_bytes:
            raise Refusal(413, f"The request body is larger than {self._settings.max_body_bytes} bytes.")

    async def _handle_frames(self, event: Data) -> None:
        if isinstance(self.stream, WSStream) and not self.stream.handshake.accepted:
            # Hypercorn answers twice here, and the error from that ends the Trio worker's process
            # (pgjones/hypercorn#225).
            raise Refusal(400, "WebSocket frames came before the handshake was answered.")
        if self.stream is None:
            return
        await self.stream.handle(event)
        if isinstance(self.stream, WSStream) and self.stream.buffer.length > self.stream.buffer.max_length:
            # Hypercorn has told the client (1009), and would wait for its answer as long as it likes, with the message at hand.
            self.stream.buffer.clear()
            self._host.request_ended()

    async def stream_send(self, event: StreamEvent) -> None:
        """Send what the application says."""
        if self._refused:
            return  # The answer was ours; the application is still finding out.
        if isinstance(event, Body):
            await self._send_h11_event(h11.Data(data=event.data))
        elif isinstance(event, EndBody):
            await self._send_h11_event(h11.EndOfMessage())
        elif isinstance(event, Response) and event.status_code >= 200 and self._is_last():
            headers = [*(field for field in event.headers if field[0] != b"connection"), (b"connection", b"close")]
            await super().stream_send(Response(stream_id=STREAM_ID, headers=headers, status_code=event.status_code))
        elif isinstance(event, EndData):
            self._host.request_ended()  # A WebSocket's client has some time to answer our close.
        else:
            await super().stream_send(event)

    def _is_last(self) -> bool:
        """Tell whether the connection ends after the answer: when the server drains, after its last request, after a refused WebSocket, and
        where more of the request's body is missing than is worth to be read.
        """
        return (
            self._closes
            or self.context.terminated.is_set()
            or isinstance(self.connection, H11WSConnection)
            or (self.body_pending and not self._may_read_on())
        )

    def _may_read_on(self) -> bool:
        """Tell whether little is missing of the body; of one in chunks that is not known."""
        length = next((int(value) for name, value in self._fields if name == b"content-length"), None)
        return length is not None and length - self.body_bytes <= _READ_ON_BYTES

    async def _maybe_recycle(self) -> None:
        """Go on to the next request, or end the connection; a small body that nobody has read is read first."""
        is_kept = self.connection.our_state is h11.DONE and not self.context.terminated.is_set()
        if is_kept and self.body_pending and self._may_read_on():
            await self._close_stream()
            self._reads_on = True
        else:
            await super()._maybe_recycle()

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state is h11.ERROR:
                return
            raise
        if isinstance(event, h11.Response) and _has_length(event):
            # The body is already there, or comes soon: one write for both. A stream's head goes at once, so that its
            # client knows that it is connected.
            self._held = data
            return
        data, self._held = self._held + data, b""
        if data:
            await self._host.write(data)

    async def _on_event(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._host.write(event.data)
        elif isinstance(event, Updated):
            if event.idle:
                self._host.request_ended()
        elif isinstance(event, Closed):
            self._host.end()

    async def close(self) -> None:
        """Tell the application that its client is gone."""
        await self._close_stream()


def _has_length(response: h11.Response) -> bool:
    return response.status_code in {204, 304} or any(name == b"content-length" for name, _ in response.headers)


class QuietConfig(Config):
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


class Flag:
    """Hypercorn's event over AnyIO's, which takes a kilobyte and is made when somebody waits for it: of most connections nobody does."""

    __slots__ = ("_event", "_is_set")

    def __init__(self, event: anyio.Event | None = None) -> None:
        self._event = event
        self._is_set = False

    async def clear(self) -> None:
        self._event, self._is_set = None, False

    async def set(self) -> None:
        self._is_set = True
        if self._event is not None:
            self._event.set()

    async def wait(self) -> None:
        if self._event is None:
            self._event = anyio.Event()
            if self._is_set:
                self._event.set()
        await self._event.wait()

    def is_set(self) -> bool:
        return self._is_set or (self._event is not None and self._event.is_set())


class Context:
    """Hypercorn's worker context over AnyIO."""

    event_class = Flag
    sleep = staticmethod(anyio.sleep)

    def __init__(self, draining: anyio.Event) -> None:
        self.time = loop_clock()
        self.terminated = Flag(draining)

    async def mark_request(self) -> None:
        """Do nothing: a connection ends after a number of requests, and no worker does."""
