"""One request and its answer, as the gateway knows them. Its fields are looked at once, when it begins."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from fissile import Trace
from fissile._trace import read_trace
from fissile_gateway._admission import Gate
from fissile_gateway._auth import API_KEY, AUTHORIZATION
from fissile_gateway._breaker import Call
from fissile_gateway._client import network_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from fissile_gateway._gateway import Gateway

Message = MutableMapping[str, Any]  # Any, here and below: ASGI's own
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]
Fields = tuple[tuple[bytes, bytes], ...]

EXCHANGE = "fissile.exchange"
"""Where a scope has its `Exchange`."""

_NO_SCOPE: Scope = {}
_CREDENTIALS = frozenset({AUTHORIZATION, API_KEY})
_FIELDS = _CREDENTIALS | {
    b"content-type",
    b"content-length",
    b"transfer-encoding",
    b"content-encoding",
    b"x-request-id",
    b"if-none-match",
    b"idempotency-key",
    b"prefer",
    b"host",
    b"origin",
    b"traceparent",
    b"tracestate",
}
"""The fields of a request that are looked at; most are passed over with one question."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")

_logger = logging.getLogger("fissile.gateway")


class Exchange:
    """One request and its answer.

    Attributes:
        path: Its path, below the point where the gateway is mounted.
        query: Its query string.
        request_id: Its id, which the client may have chosen.
        asgi: Its ASGI scope, until it is answered.
        credentials: The fields that say who asks; None where there are none.
        identity: Who asks; None where nobody looks at that.
        expires: Until when that is so, in seconds since 1970.
        bus: Calls modules for who asks.
        trace: Where it stands in its trace.
        route: The route that answers it, as it is declared; None where its path leads nowhere.
        sent_bytes: The size of what was sent of the answer's body.
        is_stream: Whether the answer is an event stream.
        span: Its span, where a tracer is configured.
        media_type: The field Content-Type.
        encoding: The field Content-Encoding.
        if_none_match: The field If-None-Match; several are joined, here and below.
        idempotency_key: The field Idempotency-Key.
        prefer: The field Prefer.
        length: The size of the body, or None if it is not told in advance.
        is_read: Whether all of the body has come.
        body: The body; what waits for it, where it is not small enough to be read before the view is called.
        status: The status of the answer, 0 as long as none was sent.
        is_gone: Whether the client went away.
        is_done: Whether the application has returned.
        scope: Bounds the time.
        listeners: Where the task runs that listens to the client.
        close: Closes what the answer holds open, when it has been sent.
        address: The client's address, as the connection or a trusted proxy tells it.
        host: The field Host.
        origin: The field Origin.
        fields: Fields of the answer, whatever it is.
        limit_fields: Fields that tell where the client stands with its rate limit.
        max_body_bytes: The size that the body may have.
        gates: The bounds among which the request has a place.
        call: What the module's circuit has let through, to be told how the module has answered; none once it was told.
        failure: The error that it ended with.
        is_late: Whether it was not done in time.
        is_refused: Whether it was refused before any route saw it.
    """

    __slots__ = (
        "_listening",
        "_network",
        "address",
        "asgi",
        "body",
        "bus",
        "call",
        "close",
        "credentials",
        "encoding",
        "expires",
        "failure",
        "fields",
        "gates",
        "gateway",
        "host",
        "idempotency_key",
        "identity",
        "if_none_match",
        "is_done",
        "is_gone",
        "is_late",
        "is_read",
        "is_refused",
        "is_stream",
        "length",
        "limit_fields",
        "listeners",
        "max_body_bytes",
        "media_type",
        "origin",
        "path",
        "prefer",
        "query",
        "request_id",
        "route",
        "scope",
        "sent_bytes",
        "span",
        "status",
        "trace",
    )

    def __init__(self, gateway: Gateway, scope: Scope, path: str) -> None:
        self.gateway = gateway
        self.path = path
        self.query: bytes = scope["query_string"]
        self.request_id = ""
        self.asgi: Scope = _NO_SCOPE
        self.credentials: tuple[tuple[bytes, bytes], ...] | None = None
        self.identity = gateway.anonymous
        self.expires = math.inf
        self.bus = gateway.bus
        self.trace: Trace | None = None
        self.route: str | None = None
        self.sent_bytes = 0
        self.is_stream = False
        self.span: Span | None = None
        self.media_type: bytes | None = None
        self.encoding: bytes | None = None
        self.if_none_match: bytes | None = None
        self.idempotency_key: bytes | None = None
        self.prefer: bytes | None = None
        self.length: int | None = 0
        self.body: bytes | Awaitable[bytes] = b""
        self.status = 0
        self.is_gone = False
        self.is_done = False
        self.is_read = True
        self.scope = gateway.new_scope()
        self.listeners: TaskGroup
        self.close: Callable[[], Coroutine[Any, Any, None]] | None = None
        self.address = ""
        self.host = b""
        self.origin: bytes | None = None
        self.fields: Fields = ()
        self.limit_fields: Fields = ()
        self.max_body_bytes = gateway.max_body_bytes
        self.gates: list[Gate] = []
        self.call: Call | None = None
        self.failure: BaseException | None = None
        self.is_late = False
        self.is_refused = False
        self._network = ""
        self._listening: anyio.CancelScope | None = None
        self._read(scope["headers"])

    def _read(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Note what the fields say."""
        traceparent: bytes | None = None
        tracestate: bytes | None = None
        # One look at each field: Quart's own headers cost a microsecond for each question.
        for name, value in headers:
            if name not in _FIELDS:
                continue
            if name == b"content-type":
                self.media_type = value
            elif name == b"content-length" and self.length is not None:
                self.length = int(value) if value.isdigit() else None
            elif name == b"transfer-encoding":
                self.length = None
            elif name == b"content-encoding":
                self.encoding = value
            elif name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                self.request_id = value.decode()
            elif name in _CREDENTIALS:
                self.credentials = (*(self.credentials or ()), (name, value))
            elif name == b"if-none-match":
                self.if_none_match = value if self.if_none_match is None else b"%s, %s" % (self.if_none_match, value)
            elif name == b"idempotency-key":
                self.idempotency_key = (
                    value if self.idempotency_key is None else b"%s, %s" % (self.idempotency_key, value)
                )
            elif name == b"host":
                self.host = value
            elif name == b"origin":
                self.origin = value
            elif name == b"prefer":
                self.prefer = value if self.prefer is None else b"%s, %s" % (self.prefer, value)
            elif name == b"traceparent":
                traceparent = value if traceparent is None else b""  # of two, none counts
            elif name == b"tracestate":
                tracestate = value if tracestate is None else b"%s,%s" % (tracestate, value)
        if traceparent and self.gateway.accepts_traces:
            self.trace = read_trace(traceparent, tracestate)

    @property
    def network(self) -> str:
        """What counts as one client where there is no identity: its address, or the network of an IPv6 address."""
        self._network = self._network or network_of(self.address)
        return self._network

    def release(self) -> None:
        """Give the places back that the request has among others."""
        gates, self.gates = self.gates, []
        for gate in gates:
            gate.leave()

    def leave_circuit(self) -> None:
        """Tell the module's circuit that nothing will be known of this request, or not soon."""
        call, self.call = self.call, None
        if call is not None:
            call.end(None)

    def become_stream(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Lift the bounds of a request from an answer that has no end.

        Args:
            close: Closes what it holds open.
        """
        self.release()
        self.is_stream = True
        self.scope.deadline = math.inf
        self.close = close

    def listen(self, function: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        """Start what listens to the client until the application has returned."""
        self._listening = anyio.CancelScope()
        self.listeners.start_soon(self._listen, self._listening, function, arguments)

    async def _listen(
        self,
        scope: anyio.CancelScope,
        function: Callable[..., Coroutine[Any, Any, None]],
        arguments: tuple[object, ...],
    ) -> None:
        with scope:
            try:
                await function(*arguments)
            except Exception:  # it runs among the listeners of all requests
                _logger.exception("a request could not be read")
            self.leave()

    def leave(self) -> None:
        """Note that the client went away, and cancel what is being done for it."""
        if not self.is_done:
            self.is_gone = True
            self.scope.cancel()

    def done(self) -> None:
        """Note that the application has returned, and stop listening."""
        self.is_done = True
        self.asgi = _NO_SCOPE  # which holds the exchange: a ring that nobody would have to take apart is gone sooner
        if self._listening is not None:
            self._listening.cancel()
