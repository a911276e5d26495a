"""Dead letters: what was given up, as it came, with the reason. They are kept in a log of their own, one per module.

This file is what one looks like in a log; what can be done with them is in `letter_box.py`. The names of the headers are those of Kafka's own
dead letter queue for share groups (KIP-1191), with others beside them, so that a tool that knows those reads ours.

The log is compacted by the letter's id: a letter whose state changes is appended again as a whole, and one that is resolved is forgotten. A
retried message carries the headers of its letter to the handler and back, so that nothing has to be looked up when it fails again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal

from attrs import evolve, frozen

from fissile._delivery.lifecycle import Delivery
from fissile._envelope import KEY_LIMIT_BYTES, header
from fissile.abc import Headers, Outgoing, Record

PREFIX = "__dlq.errors."
KEY = "fissile-key"
RETRY_OF = "fissile-retry-of"
HANDLER = "fissile-handler"

LetterState = Literal["dead", "retrying", "archived"]
STATES: tuple[LetterState, ...] = ("dead", "retrying", "archived")

_REASON_LIMIT = 2000
_TRACEBACK_LIMIT_BYTES = 16_384
_ORIGINAL_LIMIT_BYTES = 16_384
"""How large an original body may be to be kept beside an edited one: both have to fit into one record."""
_TOLD_ANYWAY = ("ce_type", "ce_id")
_MARK = f"{PREFIX}id"
"""The first header that is ours: what stands before it is the original's."""
_NEVER = datetime.fromtimestamp(0, UTC)


@frozen
class DeadLetter:
    """A message that was given up.

    Attributes:
        id: The dead letter's own id; it follows from where the message was and who gave it up.
        module: The module that gave it up.
        handler: The function that failed, such as `billing.on_placed`.
        name: The message's name, such as `orders.order-placed`.
        message_id: The message's id.
        key: The message's key, as text.
        body: The original bytes, or what they were edited into.
        headers: The original headers.
        reason: The error, as text.
        error_type: The name of the error's class.
        traceback: Where it came from.
        attempts: How often it was tried in all, retries included.
        topic: The topic it was read from.
        partition: Its partition there.
        offset: Its offset there.
        timestamp_ms: When it was stored there, in milliseconds since 1970.
        group: The consumer group that gave it up.
        state: `dead`, `retrying` (it is on its way to its handler) or `archived` (kept, and left alone).
        first_failed: When it failed for the first time, as far as the process knew that gave it up.
        last_failed: When it failed for the last time.
        edits: How often its body was edited.
        original: The bytes before the first edit; None if it was not edited, or they were too large to be kept.
        is_complete: Whether the message is there; one that was larger than a record may be is only told of.
        raw_key: The message's key, as it was.
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
    timestamp_ms: int = 0
    group: str = ""
    state: LetterState = "dead"
    first_failed: datetime = _NEVER
    last_failed: datetime = _NEVER
    edits: int = 0
    original: bytes | None = None
    is_complete: bool = True
    raw_key: bytes | None = None

    @property
    def age_order(self) -> tuple[datetime, str, int, int]:
        """What to sort by: the first failure, then the place; messages of one key stand in their order."""
        return self.first_failed, self.topic, self.partition, self.offset


def bury(module: str, group: str, delivery: Delivery, error: BaseException, now: datetime) -> DeadLetter:
    """Return the dead letter of a delivery; if it was a retry, that of its message again, with the new reason.

    Args:
        module: The module that gives it up.
        group: Its consumer group.
        delivery: The delivery.
        error: What it failed with.
        now: When.
    """
    import traceback  # not needed to import fissile

    name, former = delivery.subscription.name, delivery.retried
    letter = _first_letter(module, group, delivery, now) if former is None else former
    if letter.handler != name:  # what nobody knew has a handler now: from here on it is that one's
        letter = evolve(letter, handler=name, id=letter_id(group, name, letter))
    trace = "".join(traceback.format_exception(error)).encode(errors="replace")
    return evolve(
        letter,
        reason=_text(error),
        error_type=type(error).__name__,
        traceback=trace[-_TRACEBACK_LIMIT_BYTES:].decode(errors="ignore"),
        attempts=letter.attempts + delivery.failures,
        last_failed=now,
        state="dead",
    )


def _first_letter(module: str, group: str, delivery: Delivery, now: datetime) -> DeadLetter:
    record, name = delivery.record, delivery.subscription.name
    letter = DeadLetter(
        id="",
        module=module,
        handler=name,
        name=header(record.headers, "ce_type") or "",
        message_id=header(record.headers, "ce_id") or "",
        key=(record.key or b"").decode(errors="replace"),
        body=record.value,
        headers=record.headers,
        reason="",
        error_type="",
        traceback="",
        attempts=0,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp_ms=record.timestamp_ms,
        group=group,
        first_failed=delivery.first_failed or now,
        raw_key=record.key,
    )
    return evolve(letter, id=letter_id(group, name, letter))


def letter_id(group: str, handler: str, letter: DeadLetter) -> str:
    """Return the id of a letter: the same each time that this message is given up by this handler, and short for people.

    The time is in it because a topic that was deleted and made again begins at offset 0 again.
    """
    from hashlib import blake2s  # not needed to import fissile; it loads OpenSSL

    place = f"{group}/{handler}/{letter.topic}/{letter.partition}/{letter.offset}/{letter.timestamp_ms}"
    return blake2s(place.encode(), digest_size=10).hexdigest()


def shorten(letter: DeadLetter) -> tuple[DeadLetter, DeadLetter]:
    """Return a dead letter that is larger than a record may be with less of the traceback, and without the message.

    Only what another program has written can be that large: what is sent with a bus is limited. Its place says where the message is.
    """
    brief = evolve(letter, traceback=letter.traceback[-_REASON_LIMIT:], original=None)
    headers = tuple(
        (name, value) for name, value in letter.headers if name in _TOLD_ANYWAY and len(value) < _REASON_LIMIT // 2
    )
    is_long = letter.raw_key is not None and len(letter.raw_key) > KEY_LIMIT_BYTES
    return brief, evolve(
        brief,
        body=b"",
        headers=headers,
        key="" if is_long else letter.key,
        raw_key=None if is_long else letter.raw_key,
        reason=f"{letter.reason} (The message is too large to be kept here; it is where it was.)",
        is_complete=False,
    )


def edited(letter: DeadLetter, body: bytes, key: bytes | None) -> DeadLetter:
    """Return a dead letter with another body, which makes it another message: its id ends in `~1`, `~2` and so on.

    An inbox refuses an id that it knows with another content, and it would be right to.
    """
    before = letter.body if letter.edits == 0 else letter.original
    edits = letter.edits + 1
    message_id = f"{_message_id(letter).rpartition('~')[0] if letter.edits else _message_id(letter)}~{edits}"
    headers = (*((name, value) for name, value in letter.headers if name != "ce_id"), ("ce_id", message_id.encode()))
    return evolve(
        letter,
        body=body,
        original=before if before is not None and len(before) <= _ORIGINAL_LIMIT_BYTES else None,
        edits=edits,
        message_id=message_id,
        headers=headers,
        raw_key=key,
        key=(key or b"").decode(errors="replace"),
        state="dead",
    )


def _message_id(letter: DeadLetter) -> str:
    """Return the message's id as its handler saw it; see `answers.message_id`."""
    return letter.message_id or f"{letter.topic}/{letter.partition}/{letter.offset}"


# --- in a log --------------------------------------------------------------------------------------------------------


def write(topic: str, letter: DeadLetter) -> Outgoing:
    """Return the record of a letter for the module's log of dead letters."""
    told = {
        **_travelling(letter),
        "message": letter.reason.encode(errors="replace"),
        "exception": letter.error_type.encode(errors="replace"),
        "stacktrace": letter.traceback.encode(errors="replace"),
        "state": letter.state.encode(),
    }
    return Outgoing(topic, letter.id.encode(), letter.body, (*letter.headers, *_headers(told, letter)))


def tombstone(topic: str, resolved: str) -> Outgoing:
    """Return the record that says that a letter is no more.

    Args:
        topic: The log of dead letters.
        resolved: The letter's id.
    """
    return Outgoing(topic, resolved.encode(), None, ())


def write_retry(topic: str, letter: DeadLetter) -> Outgoing:
    """Return the message of a letter as a record for the requests of its module, marked for its one handler.

    It keeps its key, its headers and its id; what has to be known when it fails again goes with it.
    """
    marks = [(RETRY_OF, letter.id.encode()), (HANDLER, letter.handler.encode())]
    if not letter.message_id:
        marks.append(("ce_id", _message_id(letter).encode()))
    headers = (*letter.headers, *_headers(_travelling(letter), letter), *marks)
    return Outgoing(topic, letter.raw_key, letter.body, headers)


def _travelling(letter: DeadLetter) -> dict[str, bytes]:
    """Return what a letter tells that a retry needs too; the id stands first."""
    told: dict[str, bytes] = {
        "id": letter.id.encode(),
        "topic": letter.topic.encode(),
        "partition": str(letter.partition).encode(),
        "offset": str(letter.offset).encode(),
        "timestamp": str(letter.timestamp_ms).encode(),
        "group": letter.group.encode(),
        "handler": letter.handler.encode(),
        "delivery.count": str(letter.attempts).encode(),
        "first": _time_text(letter.first_failed),
        "last": _time_text(letter.last_failed),
    }
    if letter.edits:
        told["edits"] = str(letter.edits).encode()
    if letter.original is not None:
        told["original"] = letter.original
    if not letter.is_complete:
        told["incomplete"] = b"true"
    return told


def _headers(told: Mapping[str, bytes], letter: DeadLetter) -> Headers:
    ours = [(f"{PREFIX}{name}", value) for name, value in told.items()]
    if letter.raw_key is not None:
        ours.append((KEY, letter.raw_key))
    return tuple(ours)


def read(module: str, record: Record) -> DeadLetter | None:
    """Return the dead letter that a record holds, of a log of dead letters or of a retried message; None if it holds none."""
    mark = next((index for index in reversed(range(len(record.headers))) if record.headers[index][0] == _MARK), None)
    if mark is None:
        return None
    original, ours = record.headers[:mark], dict(record.headers[mark:])

    def told(name: str) -> str:
        return ours.get(f"{PREFIX}{name}", b"").decode(errors="replace")

    raw_key = ours.get(KEY)
    return DeadLetter(
        id=told("id"),
        module=module,
        handler=told("handler"),
        name=header(original, "ce_type") or "",
        message_id=header(original, "ce_id") or "",
        key=(raw_key or b"").decode(errors="replace"),
        body=record.value,
        headers=original,
        reason=told("message"),
        error_type=told("exception"),
        traceback=told("stacktrace"),
        attempts=_number(told("delivery.count")),
        topic=told("topic"),
        partition=_number(told("partition")),
        offset=_number(told("offset")),
        timestamp_ms=_number(told("timestamp")),
        group=told("group"),
        state=_state(told("state")),
        first_failed=_time(told("first")),
        last_failed=_time(told("last")),
        edits=_number(told("edits")),
        original=ours.get(f"{PREFIX}original"),
        is_complete=told("incomplete") != "true",
        raw_key=raw_key,
    )


def fold(letters: dict[str, DeadLetter], module: str, records: Iterable[Record]) -> None:
    """Bring letters up to date with what stands next in their log: the last record of an id counts, and one without a value ends it."""
    for record in records:
        letter = read(module, record)
        if letter is not None:
            letters[letter.id] = letter
        elif not record.value:
            letters.pop((record.key or b"").decode(errors="replace"), None)


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 -- a broken __str__ must not keep a message from its dead letter
        return "(its text cannot be made)"
    return text if len(text) <= _REASON_LIMIT else f"{text[:_REASON_LIMIT]}…"


def _state(text: str) -> LetterState:
    for state in STATES:
        if state == text:
            return state
    return "dead"


def _time_text(moment: datetime) -> bytes:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z").encode()


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return _NEVER
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 20 else 0
