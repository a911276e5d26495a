"""Dead letters: what was given up, as it came, with the reason. They are kept in a log of their own, one per module.

The names of the headers are those of Kafka's own dead letter queue for share groups (KIP-1191), with `exception`, `stacktrace` and
`handler` beside them, so that a tool that knows those reads ours.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from fissile._delivery.lifecycle import Delivery
from fissile._envelope import header
from fissile.abc import Headers, Outgoing, Record

PREFIX = "__dlq.errors."
_TRACEBACK_LIMIT = 16_384
_TOLD_ANYWAY = ("ce_type", "ce_id")


@frozen
class DeadLetter:
    """A message that was given up.

    Attributes:
        id: The dead letter's own id: where it was and who gave it up.
        module: The module that gave it up.
        handler: The function that failed.
        name: The message's name, such as `orders.order-placed`.
        message_id: The message's id.
        key: The message's key.
        body: The original bytes.
        headers: The original headers.
        reason: The error, as text.
        error_type: The name of the error's class.
        traceback: Where it came from.
        attempts: How often it was tried.
        topic: The topic it was read from.
        partition: Its partition there.
        offset: Its offset there.
    """

    id: str
    module: str
    handler: str
    name: str
    message_id: str
    key: str
    body: bytes
    headers: Headers
    reason: str
    error_type: str
    traceback: str
    attempts: int
    topic: str
    partition: int
    offset: int


def bury(topic: str, group: str, delivery: Delivery, error: BaseException) -> Outgoing:
    """Return the dead letter of a delivery as a record for the module's log of dead letters."""
    record, subscription = delivery.record, delivery.subscription
    letter_id = f"{group}/{subscription.name}/{record.topic}/{record.partition}/{record.offset}"
    import traceback  # not needed to import fissile

    trace = "".join(traceback.format_exception(error))
    told = {
        "id": letter_id,
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "group": group,
        "delivery.count": str(delivery.failures),
        "message": _cut(str(error)),
        "exception": type(error).__name__,
        "stacktrace": trace[-_TRACEBACK_LIMIT:],
        "handler": subscription.name,
    }
    headers = (
        *record.headers,
        ("fissile-key", record.key or b""),
        *((f"{PREFIX}{name}", text.encode(errors="replace")) for name, text in told.items()),
    )
    return Outgoing(topic, letter_id.encode(), record.value, headers)


def shorten(letter: Outgoing) -> Outgoing:
    """Return a dead letter without the message, which is larger than a record may be. Its place says where the message is.

    Only what another program has written can be that large: what is sent with a bus is limited.
    """
    note = b" (The message is too large to be kept here; it is where it was.)"
    headers = tuple(
        (name, value + note if name == f"{PREFIX}message" else value)
        for name, value in letter.headers
        if name.startswith(PREFIX) or (name in _TOLD_ANYWAY and len(value) < 1000)
    )
    return Outgoing(letter.topic, letter.key, b"", headers)


def read(module: str, record: Record) -> DeadLetter:
    """Return the dead letter that a record of a log of dead letters holds."""
    told: Mapping[str, str] = {
        name.removeprefix(PREFIX): value.decode(errors="replace")
        for name, value in record.headers
        if name.startswith(PREFIX)
    }
    original = tuple((name, value) for name, value in record.headers if not name.startswith((PREFIX, "fissile-key")))
    return DeadLetter(
        id=told.get("id", ""),
        module=module,
        handler=told.get("handler", ""),
        name=header(original, "ce_type") or "",
        message_id=header(original, "ce_id") or "",
        key=header(record.headers, "fissile-key") or "",
        body=record.value,
        headers=original,
        reason=told.get("message", ""),
        error_type=told.get("exception", ""),
        traceback=told.get("stacktrace", ""),
        attempts=int(told.get("delivery.count", "0")),
        topic=told.get("topic", ""),
        partition=int(told.get("partition", "0")),
        offset=int(told.get("offset", "0")),
    )


def _cut(text: str) -> str:
    return text if len(text) <= 2000 else f"{text[:2000]}…"
