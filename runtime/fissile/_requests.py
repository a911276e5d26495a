"""How a request, its reply and its cancellation look in a log. docs/wire-format.md describes them for programs in other languages.

A request goes to `<module>.requests` and names where it wants its answer: a topic of replies, a partition of it, and a correlation. The
reply goes there; the cancellation goes to the partition of the request, behind it. What the caller may wait is sent as a budget and not as
a moment, since the clocks of two machines differ; the time that the request spends in the log is taken off it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from fissile._bus import Queries
from fissile._errors import CallError, Forbidden, HandlerFailed, InvalidMessage, Unauthenticated
from fissile.abc import Headers

REPLIES_TOPIC = "replies"
"""The topic of replies: an answer goes nowhere else, whatever a request asks for."""

CORRELATION = "fissile-correlation"
REPLY_TO = "fissile-reply-to"
BUDGET_MS = "fissile-budget-ms"
CHAIN = "fissile-chain"
CANCEL = "fissile-cancel"
OUTCOME = "fissile-outcome"

REPLIED = "replied"
DECLARED = "declared:"
FAILED = "failed"
INVALID = "invalid"
FORBIDDEN = "forbidden"
UNAUTHENTICATED = "unauthenticated"


class Link(msgspec.Struct, frozen=True):
    """One handler up the chain of a request, as it travels.

    Attributes:
        module: Its module.
        name: Its message.
        key: The key that it holds, if it has one.
    """

    module: str
    name: str
    key: str | None = None


_encode_chain = msgspec.json.Encoder().encode
_decode_chain = msgspec.json.Decoder(tuple[Link, ...]).decode


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request whose caller waits, as it was read from a log.

    Attributes:
        correlation: What the reply has to carry.
        partition: The partition of the reply.
        budget_s: How long the caller waits, counted from when the request was stored, in seconds.
        chain: The handlers up the chain, the first one first.
    """

    correlation: bytes
    partition: int
    budget_s: float
    chain: tuple[Link, ...]


def request_headers(bus: Queries, correlation: bytes, reply_to: tuple[str, bytes], budget_s: float) -> Headers:
    """Return the headers that a request has besides those of a message; `reply_to` is one of them, made by `reply_to_header`."""
    correlated, budget = (CORRELATION, correlation), (BUDGET_MS, b"%d" % max(0, int(budget_s * 1000)))
    chain = chain_of(bus)
    if chain:
        return correlated, reply_to, budget, (CHAIN, _encode_chain(chain))
    return correlated, reply_to, budget


def reply_to_header(topic: str, partition: int) -> tuple[str, bytes]:
    """Return the header that says where the answer goes; the same for all requests of a process."""
    return REPLY_TO, f"{topic}/{partition}".encode()


def cancel_headers(correlation: bytes) -> Headers:
    """Return the headers of a cancellation."""
    return ((CANCEL, correlation),)


def read_request(headers: Mapping[str, bytes], reply_partitions: int) -> Request | None:
    """Return the request in the headers of a record; None if nobody waits for an answer, or the address makes no sense.

    Args:
        headers: The headers.
        reply_partitions: How many partitions the topic of replies has.
    """
    correlation, address, budget_ms = headers.get(CORRELATION), headers.get(REPLY_TO), headers.get(BUDGET_MS)
    if correlation is None or address is None or budget_ms is None:
        return None
    partition = _partition_in(address)
    if partition is None or partition >= reply_partitions or not budget_ms.isdigit() or len(budget_ms) > 12:
        return None
    chain: tuple[Link, ...] = ()
    encoded = headers.get(CHAIN)
    if encoded is not None:
        try:
            chain = _decode_chain(encoded)
        except (msgspec.MsgspecError, RecursionError):
            return None
    return Request(correlation, partition, int(budget_ms) / 1000, chain)


@lru_cache(maxsize=1024)
def _partition_in(address: bytes) -> int | None:
    """Return the partition of replies that an address names, or None if it is none of ours; there are few, and each is read at every call."""
    topic, _, partition = address.rpartition(b"/")
    if topic != REPLIES_TOPIC.encode() or not partition.isdigit() or len(partition) > 6:
        return None
    return int(partition)


def chain_of(bus: Queries) -> tuple[Link, ...]:
    """Return the handlers up the chain of a bus, its own included, the first one first."""
    if bus._parent is None and bus._handler is None:
        return bus._remote_chain  # the bus of code outside of all handlers
    links: list[Link] = []
    here: Queries | None = bus
    while here is not None:
        if here._handler is not None:
            links.append(Link(here._handler.module, here._handler.name, here._key))
        elif here._remote_chain:
            links.extend(reversed(here._remote_chain))
        here = here._parent
    return tuple(reversed(links))


# --- outcomes --------------------------------------------------------------------------------------------------------


class _Failure(msgspec.Struct, frozen=True):
    message_id: str
    error_type: str
    error_text: str


_decode_failure = msgspec.json.Decoder(_Failure).decode


def encode_failure(error: HandlerFailed) -> bytes:
    """Return the body of a reply that tells of a handler that failed."""
    return msgspec.json.encode(_Failure(error.message_id, error.error_type, error.error_text))


def decode_failure(name: str, body: bytes) -> CallError:
    """Return the failure that a reply tells of."""
    try:
        told = _decode_failure(body)
    except msgspec.MsgspecError as error:
        return HandlerFailed(name, "", "UnreadableReply", str(error))
    return HandlerFailed(name, told.message_id, told.error_type, told.error_text)


def decode_invalid(name: str, body: bytes) -> CallError:
    """Return the error of a message that its handler's process could not read."""
    return InvalidMessage(name, body.decode(errors="replace"), "was not handled")


_decode_scopes = msgspec.json.Decoder(tuple[str, ...]).decode


def encode_forbidden(error: Forbidden) -> tuple[str, bytes]:
    """Return the outcome, and the body, of a reply to who lacks a scope."""
    return (UNAUTHENTICATED if isinstance(error, Unauthenticated) else FORBIDDEN), msgspec.json.encode(error.missing)


def decode_forbidden(name: str, outcome: str, body: bytes) -> CallError:
    """Return the error that tells of missing scopes."""
    try:
        missing = _decode_scopes(body)
    except msgspec.MsgspecError as error:
        return HandlerFailed(name, "", "UnreadableReply", str(error))
    return (Unauthenticated if outcome == UNAUTHENTICATED else Forbidden)(f"{name} was not done", missing)


def outcome_name(error: Any) -> str:
    """Return how a declared error is called in a reply."""
    return f"{DECLARED}{type(error).__name__}"
