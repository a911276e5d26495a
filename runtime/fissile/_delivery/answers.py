"""Answers: what a request whose caller waits comes to, as a record for that caller."""

from __future__ import annotations

from fissile._bus import Bus, Queries, Routes
from fissile._delivery.lifecycle import Delivery
from fissile._envelope import CONTENT_TYPE, text
from fissile._errors import Forbidden, HandlerFailed, InvalidMessage
from fissile._identity import Identity
from fissile._messages import DeclaredError
from fissile._requests import (
    CORRELATION,
    FAILED,
    INVALID,
    OUTCOME,
    REPLIED,
    REPLIES_TOPIC,
    Link,
    Request,
    encode_failure,
    encode_forbidden,
    outcome_name,
)
from fissile._trace import TRACEPARENT, trace_headers, trace_of
from fissile.abc import Headers, Outgoing, Record

_REPLIED = (OUTCOME, REPLIED.encode())


def answer(request: Request, outcome: str, body: bytes, trace: Headers = ()) -> Outgoing:
    """Return the record that carries an outcome to the caller, with the headers of the trace that it is part of."""
    headers = ((CORRELATION, request.correlation), (OUTCOME, outcome.encode()), *trace)
    return Outgoing(REPLIES_TOPIC, None, body, headers, request.partition)


def trace_of_answer(bus: Queries) -> Headers:
    """Return the headers of the trace that an answer is part of; none where its request carried none."""
    if bus._delivery is None or TRACEPARENT not in bus._delivery.headers:
        return ()
    trace = trace_of(bus)
    return () if trace is None else trace_headers(trace)


def headers_of_answer(delivery: Delivery, bus: Queries) -> Headers:
    """Return what an answer has besides: the headers of its trace, and its format, where that is another than the request's or that has none."""
    ours = delivery.subscription.handler.reply.content_type
    if delivery.headers.get(CONTENT_TYPE) == ours:
        return trace_of_answer(bus)
    return (CONTENT_TYPE, ours), *trace_of_answer(bus)


def answer_reply(request: Request, reply: bytes, more: Headers = ()) -> Outgoing:
    """Return the record of a reply."""
    headers = ((CORRELATION, request.correlation), _REPLIED, *more)
    return Outgoing(REPLIES_TOPIC, None, reply, headers, request.partition)


def answer_invalid(request: Request, error: InvalidMessage) -> Outgoing:
    """Return the record that says that the message could not be read."""
    return answer(request, INVALID, error.reason.encode())


def answer_failure(request: Request, delivery: Delivery, failure: Exception, bus: Queries) -> Outgoing:
    """Return the record of a declared error, or of a handler that failed."""
    trace = trace_of_answer(bus)
    if isinstance(failure, DeclaredError):
        codec = delivery.subscription.handler.errors[type(failure)]
        return answer(request, outcome_name(failure), codec.encode(failure), headers_of_answer(delivery, bus))
    if isinstance(failure, Forbidden):
        return answer(request, *encode_forbidden(failure), trace)
    assert isinstance(failure, HandlerFailed), failure
    return answer(request, FAILED, encode_failure(failure), trace)


def bus_of(delivery: Delivery) -> Queries:
    """Make the bus of a delivery's handler: its chain goes on where that of the sender was."""
    record, headers, subscription, request = delivery.record, delivery.headers, delivery.subscription, delivery.request
    handler, depth, caller = subscription.handler, headers.get("fissile-depth"), headers.get("fissile-caller")
    identities = handler.routes.identities
    identity = None if identities is None else identities.read(headers, record.value)
    sender = None
    if identity is None and (request is None or not request.chain):
        sender = _senders.get(caller)
    if sender is None:
        sender = _make_sender(
            caller, text(headers, "fissile-caller"), () if request is None else request.chain, identity
        )
    # By position, where there is one such bus per message: twice as fast as by name.
    return handler.bus_type(
        handler.routes,
        sender,
        handler,
        delivery.deadline,
        1 if depth is None or not depth.isdigit() or len(depth) > 5 else int(depth) + 1,
        0,
        text(headers, "ce_id") or place_of(record),
        (record.key or b"").decode("utf-8", "replace") if subscription.ordered else None,  # by position: half the time
        delivery.failures + 1 + (0 if delivery.retried is None else delivery.retried.attempts),
        _delivery=delivery,
    )


def place_of(record: Record) -> str:
    """Return the id of a message that has none; it follows from the place of its record."""
    return f"{record.topic}/{record.partition}/{record.offset}"


_senders: dict[bytes | None, Bus] = {}


def _make_sender(caller: bytes | None, module: str | None, chain: tuple[Link, ...], identity: Identity | None) -> Bus:
    """Return what stands for the sender of a message that came through a log: its name, its chain, its identity, and nothing else."""
    if chain or identity is not None:
        return Bus(Routes(module), _remote_chain=chain, _identity=identity)
    if len(_senders) > 1000:
        _senders.clear()  # names from a log are not ours to trust
    sender = _senders[caller] = Bus(Routes(module))
    return sender
