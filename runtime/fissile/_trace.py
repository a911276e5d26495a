"""Trace context (W3C): which chain of work a message belongs to, in whatever processes that goes on.

A chain that was given a trace, by the gateway or by a tracer, carries it: `traceparent` and `tracestate` stand in the headers of all that it
sends. A chain that was given none needs none to be followed: its trace follows from the id of its first message, and the ids of all others begin
with that. So what is off costs nothing, and logs have a trace id in any case.

The span of a handler follows from its message's id and its attempt, and is worked out only where somebody asks: a line of the log, or a
message that carries it on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

import msgspec

from fissile._isolation import current_bus

if TYPE_CHECKING:
    from fissile._bus import Queries

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"

SAMPLED = 0x01
_KNOWN_FLAGS = 0x03
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE_BYTES, _STATE_MEMBERS = 512, 32
_STATE_MEMBER = re.compile(
    rb"[a-z0-9][a-z0-9_\-*/]{0,255}(@[a-z][a-z0-9_\-*/]{0,13})?=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)


class Trace(msgspec.Struct, frozen=True):
    """A place in a trace.

    Attributes:
        trace_id: The trace, 32 hexadecimal digits.
        span_id: The span in it, 16 hexadecimal digits.
        flags: The flags of W3C that are known: 1, it is recorded; 2, the trace's id is random.
        state: What tracing systems add, as `tracestate` has it.
        root: The id of the chain's first message, where the trace follows from that; empty where it was given.
    """

    trace_id: str
    span_id: str
    flags: int = 0
    state: str = ""
    root: str = ""

    @property
    def is_sampled(self) -> bool:
        """Whether who began the trace records it."""
        return bool(self.flags & SAMPLED)

    @property
    def traceparent(self) -> str:
        """The field `traceparent` of a request that goes on from here, to a system outside of the application."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"


ambient: ContextVar[Trace | None] = ContextVar("fissile.trace", default=None)
"""The trace of code outside of all handlers: of a request that the gateway is answering."""

outside: Callable[[], Trace | None] = ambient.get
"""Gives the trace that a chain goes on with which begins here. `_otel.py` puts its own here, where a tracer is configured."""


def current_trace() -> Trace | None:
    """Return the trace of the message being handled here, or of the request that the gateway is answering; None elsewhere.

    Pass its `traceparent` on to systems outside of the application.
    """
    bus = current_bus.get(None)
    if bus is not None and bus._handler is not None:
        return trace_of(bus)
    return outside()


# --- what comes in ---------------------------------------------------------------------------------------------------


def begin_trace(unique: str) -> Trace:
    """Begin a trace that is carried.

    Args:
        unique: What no other trace begins with, such as a new id.
    """
    from hashlib import blake2b  # it loads OpenSSL, which is not needed to import fissile

    digest = blake2b(unique.encode(), digest_size=24).hexdigest()
    return Trace(digest[:32], digest[32:])


def read_trace(traceparent: bytes | None, tracestate: bytes | None = None) -> Trace | None:
    """Return the trace in the fields `traceparent` and `tracestate`, or None if the first is missing or not valid.

    A `tracestate` that is not valid is passed over, as W3C has it.
    """
    match = None if traceparent is None or len(traceparent) > 256 else _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if trace_id == b"0" * 32 or span_id == b"0" * 16:
        return None
    return Trace(trace_id.decode(), span_id.decode(), int(flags, 16) & _KNOWN_FLAGS, _read_state(tracestate))


def _read_state(tracestate: bytes | None) -> str:
    if not tracestate or len(tracestate) > _STATE_BYTES:
        return ""
    members = [member for part in tracestate.split(b",") if (member := part.strip(b" \t"))]
    keys = {member.partition(b"=")[0] for member in members}
    if len(members) > _STATE_MEMBERS or len(keys) < len(members):
        return ""
    if not all(_STATE_MEMBER.fullmatch(member) for member in members):
        return ""
    return b",".join(members).decode()


def trace_headers(trace: Trace) -> tuple[tuple[str, bytes], ...]:
    """Return a trace as headers of a message."""
    parent = (TRACEPARENT, trace.traceparent.encode())
    return (parent, (TRACESTATE, trace.state.encode())) if trace.state else (parent,)


def trace_in(headers: Mapping[str, bytes]) -> Trace | None:
    """Return the trace in the headers of a message."""
    parent = headers.get(TRACEPARENT)
    return None if parent is None else read_trace(parent, headers.get(TRACESTATE))


def trace_id_in(headers: Mapping[str, bytes]) -> str:
    """Return the id of the trace that a message with these headers is part of, carried or not."""
    trace = trace_in(headers)
    if trace is not None:
        return trace.trace_id
    return _follow(root_of(headers.get("ce_id", b"").decode(errors="replace")))


def trace_fields(trace: Trace | None) -> dict[str, str]:
    """Return a trace as fields of a line of the log."""
    return {} if trace is None else {"trace_id": trace.trace_id, "span_id": trace.span_id}


# --- along a chain ---------------------------------------------------------------------------------------------------


def chain_begins(bus: Queries) -> Queries:
    """Return the bus of a chain that begins: one of its own, where there is a trace to go on with."""
    if bus._handler is not None or bus._trace is not None:
        return bus
    trace = outside()
    if trace is None:
        return bus
    return type(bus)(
        bus._routes,
        bus._parent,
        _depth=bus._depth,
        _remote_chain=bus._remote_chain,
        _identity=bus._identity,
        _trace=trace,
    )


def trace_of(bus: Queries) -> Trace | None:
    """Return the place of a bus in its trace: the span of the handler it belongs to; None outside of all traces."""
    trace = bus._trace
    if trace is not None or bus._handler is None:
        return outside() if trace is None else trace
    parent = parent_of(bus)
    message_id = bus._message_id()
    if parent is None:
        root = root_of(message_id)
        parent = Trace(_follow(root), "", root=root)
    # An event has a handler in each of several subscriptions; a command has one, wherever it runs.
    delivery = bus._delivery if bus._handler.kind == "event" else None
    who = bus._handler.module if delivery is None else delivery.subscription.name
    span = f"{parent.trace_id} {who} {bus._handler.name} {message_id} {bus._attempt}"
    from hashlib import blake2b  # it loads OpenSSL, which is not needed to import fissile

    span_id = blake2b(span.encode(), digest_size=8).hexdigest()
    trace = bus._trace = msgspec.structs.replace(parent, span_id=span_id)
    return trace


def parent_of(bus: Queries) -> Trace | None:
    """Return the span that a handler's message was sent in; None where its chain was given no trace and begins with it."""
    if bus._delivery is not None:
        return trace_in(bus._delivery.headers)
    parent = bus._parent
    if parent is None:
        return None
    return parent._trace if parent._handler is None else trace_of(parent)


def carried(bus: Queries, message_id: str, _name: str) -> Trace | None:
    """Return the trace that a message has to carry; None where it follows from the message's id.

    Args:
        bus: The bus that it is sent on.
        message_id: Its id.
    """
    if bus._handler is None:
        return outside() if bus._trace is None else bus._trace
    root = _root_of_chain(bus)
    return None if root and root_of(message_id) == root else trace_of(bus)


def _root_of_chain(bus: Queries) -> str:
    """Return the id of the first message of a handler's chain; nothing where the chain was given a trace."""
    here = bus
    while True:
        if here._trace is not None:
            return here._trace.root
        if here._delivery is not None:
            return "" if TRACEPARENT in here._delivery.headers else root_of(here._message_id())
        parent = here._parent
        if parent is None or (parent._handler is None and parent._trace is None):
            return root_of(here._message_id())
        here = parent


def root_of(message_id: str) -> str:
    """Return the id of the first message of a chain: the ids of all others begin with it, unless somebody has chosen them."""
    return message_id.partition(".")[0]


def _follow(root: str) -> str:
    """Return the trace that follows from the id of a chain's first message."""
    from hashlib import blake2b  # it loads OpenSSL, which is not needed to import fissile

    return blake2b(root.encode(errors="replace"), digest_size=16).hexdigest()
