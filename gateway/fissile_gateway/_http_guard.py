"""What the HTTP server lets in, and Hypercorn's HTTP/1.1 protocol with those rules in it.

Hypercorn translates between h11 and ASGI; nothing in it judges a request beyond what h11 rejects. The rules here close
what is left open: where two servers in a row may read one message in two ways (RFC 9112 sections 2.2, 5.2 and 6.1, the
ground of request smuggling), where a size has no bound, and where cleartext HTTP/1.1 turns into something else.

The rules are plain functions over bytes and h11 events. The protocol class knows no sockets and no event loop.
"""

import json
from http import HTTPStatus
from typing import Any, Protocol

import attrs
import h11
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, Data, EndBody, EndData, Response
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import AppWrapper, ConnectionState, H11SendableEvent, TaskGroup, WorkerContext
from hypercorn.typing import Event as WaitableEvent

_READ_AHEAD_BYTES = 64 * 1024


@attrs.frozen(kw_only=True)
class ServerSettings:
    """Where the server listens and what it grants to a client.

    Attributes:
        host: Name or address to listen on; a name with several addresses listens on all of them.
        port: Port to listen on; 0 takes any free one.
        backlog: Connections the kernel queues until they are accepted.
        max_connections: Connections open at once; one more is answered 503 and closed.
        head_timeout_s: Time for a whole request head, from its first byte (or the connection's begin) to its last.
        keep_alive_s: Time a connection may stay open between an answer and the next request.
        read_timeout_s: Time for each 64 KiB of a request's body, or for what is left of it.
        write_timeout_s: Time for the client to take each 64 KiB of an answer.
        max_head_bytes: Size of request line and fields together, with their line ends.
        max_head_fields: Number of field lines in a head.
        max_body_bytes: Size of a request's body, whether announced or chunked.
        drain_s: Time for requests in progress to finish when the server drains; what remains is cut off.
    """

    host: str = "127.0.0.1"
    port: int = attrs.field(default=8000, validator=[attrs.validators.ge(0), attrs.validators.le(65535)])
    backlog: int = attrs.field(default=1024, validator=attrs.validators.gt(0))
    max_connections: int = attrs.field(default=1000, validator=attrs.validators.gt(0))
    head_timeout_s: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    keep_alive_s: float = attrs.field(default=5.0, validator=attrs.validators.gt(0))
    read_timeout_s: float = attrs.field(default=30.0, validator=attrs.validators.gt(0))
    write_timeout_s: float = attrs.field(default=30.0, validator=attrs.validators.gt(0))
    max_head_bytes: int = attrs.field(default=16 * 1024, validator=attrs.validators.gt(0))
    max_head_fields: int = attrs.field(default=100, validator=attrs.validators.gt(0))
    max_body_bytes: int = attrs.field(default=1024 * 1024, validator=attrs.validators.ge(0))
    drain_s: float = attrs.field(default=10.0, validator=attrs.validators.ge(0))


class Refusal(Exception):
    """Raised when a client sent what the server does not accept; the connection ends with this answer."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status} {HTTPStatus(status).phrase}: {detail}")
        self.status = status
        self.detail = detail


def problem(status: int, detail: str) -> bytes:
    """Write a problem details document (RFC 9457)."""
    document = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return json.dumps(document).encode()


def problem_answer(status: int, detail: str) -> bytes:
    """Write a whole HTTP/1.1 answer with a problem details document that ends its connection."""
    body = problem(status, detail)
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "content-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode() + body


def check_head(received: bytes, settings: ServerSettings) -> None:
    r"""Refuse a request head, complete or not, for its size or its line ends.

    It must see the raw bytes: h11 takes ``\n`` for ``\r\n`` and joins folded lines before anyone can look, and its size
    limit counts an incomplete head only, so that 60 KiB in one read pass it.

    Args:
        received: All bytes received since the end of the last message; whatever follows the head is ignored.
        settings: The bounds.

    Raises:
        Refusal: 400 for line ends, 431 for size.
    """
    end = received.find(b"\r\n\r\n")
    head = received if end < 0 else received[: end + 4]
    if len(head) > settings.max_head_bytes:
        raise Refusal(431, f"The request head is larger than {settings.max_head_bytes} bytes.")
    lines = head.count(b"\r\n")
    if head.count(b"\n") != lines:
        raise Refusal(400, "A line of the request head ends without CR.")
    if b"\r\n " in head or b"\r\n\t" in head:
        raise Refusal(400, "A field of the request head is folded over several lines.")
    if lines - (1 if end < 0 else 2) > settings.max_head_fields:
        raise Refusal(431, f"The request head has more than {settings.max_head_fields} fields.")


def check_request(request: h11.Request, settings: ServerSettings) -> None:
    """Refuse a well-formed request that the server does not serve.

    Args:
        request: The request as h11 read it.
        settings: The bounds.

    Raises:
        Refusal: 400, 413, 417, 501 or 505.
    """
    if request.http_version not in {b"1.1", b"1.0"}:
        # Also the HTTP/2 preface, `PRI * HTTP/2.0`: behind a proxy that speaks HTTP/1.1 only it opens a tunnel.
        raise Refusal(505, "This server speaks HTTP/1.1.")
    if request.method in {b"CONNECT", b"TRACE"}:
        raise Refusal(501, "This server does not implement CONNECT and TRACE.")
    length: bytes | None = None
    chunked = False
    for name, value in request.headers:
        if name == b"content-length":
            length = value
        elif name == b"transfer-encoding":
            chunked = True
        elif name == b"expect" and request.http_version == b"1.1" and value.lower() != b"100-continue":
            raise Refusal(417, "The only expectation this server meets is 100-continue.")
    if chunked and (length is not None or request.http_version == b"1.0"):
        raise Refusal(400, "Transfer-Encoding with Content-Length, or in HTTP/1.0, makes the body's end ambiguous.")
    if length is not None and int(length) > settings.max_body_bytes:
        raise Refusal(413, f"The request body is larger than {settings.max_body_bytes} bytes.")


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
    """Hypercorn's HTTP/1.1 protocol with the rules above, and with fewer and larger writes.

    It relies on these names of Hypercorn 0.18 beyond its public interface: ``_handle_events``, ``_check_protocol``,
    ``_create_stream``, ``_send_h11_event`` and ``_maybe_recycle``.
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
    ) -> None:
        super().__init__(
            app,
            config,
            context,
            task_group,
            ConnectionState(state),
            ssl=False,
            client=client,
            server=server,
            send=self._on_event,
        )
        self._host = host
        self._settings = settings
        self._held = b""
        self._refused = False
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
        self.connection.receive_data(data)
        await self._handle_events()

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
            return self.connection.next_event()
        except h11.RemoteProtocolError as error:
            raise Refusal(error.error_status_hint, f"{error}.") from error

    def _begin(self, request: h11.Request) -> None:
        # Stands in for H11Protocol._check_protocol, which would switch to HTTP/2. `Upgrade: h2c` is not looked at: a
        # server may ignore it and answer in HTTP/1.1 (RFC 9110 section 7.8). With settings of a wrong length the
        # switch even ended the process on the Trio worker.
        check_request(request, self._settings)
        self.body_bytes = 0
        self._host.request_began()

    def _count_body(self, size: int) -> None:
        self.body_bytes += size
        if self.body_bytes > self._settings.max_body_bytes:
            raise Refusal(413, f"The request body is larger than {self._settings.max_body_bytes} bytes.")

    async def _handle_frames(self, event: Data) -> None:
        if isinstance(self.stream, WSStream) and not self.stream.handshake.accepted:
            # Hypercorn answers twice here, and the error from that ends the Trio worker's process
            # (pgjones/hypercorn#225).
            raise Refusal(400, "WebSocket frames came before the handshake was answered.")
        if self.stream is not None:
            await self.stream.handle(event)

    async def stream_send(self, event: StreamEvent) -> None:
        """Send what the application says."""
        if self._refused:
            return  # The answer was ours; the application is still finding out.
        if isinstance(event, Body):
            await self._send_h11_event(h11.Data(data=event.data))
        elif isinstance(event, EndBody):
            await self._send_h11_event(h11.EndOfMessage())
        elif isinstance(event, Response) and event.status_code >= 200 and self.context.terminated.is_set():
            headers = [*event.headers, (b"connection", b"close")]
            await super().stream_send(Response(stream_id=STREAM_ID, headers=headers, status_code=event.status_code))
        elif isinstance(event, EndData):
            self._host.request_ended()  # A WebSocket's client has some time to answer our close.
        else:
            await super().stream_send(event)

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
