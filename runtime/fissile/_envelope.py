"""The envelope: how a message looks in a log. docs/wire-format.md describes it for programs in other languages.

CloudEvents in binary mode (https://github.com/cloudevents/spec, Kafka protocol binding): the body is the record's value, the rest its
headers. What CloudEvents has no name for is called `fissile-*`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fissile._bus import Queries
from fissile._codec import CONTENT_TYPES, Codec, WireFormat
from fissile._errors import InvalidMessage
from fissile._identity import identity_of
from fissile._trace import Trace, carried, trace_headers
from fissile.abc import Headers, Outgoing

if TYPE_CHECKING:
    from fissile._signatures import Signatures

_SPECVERSION = ("ce_specversion", b"1.0")
CONTENT_TYPE = "content-type"


class Encoder:
    """Turns messages into records of a log.

    Args:
        application: The application's name, the source of its messages.
        wire: The format of bodies.
        now_ms: The time of day, in milliseconds since 1970.
        signatures: Signs for whom a message is sent; None where that cannot be told.
    """

    def __init__(
        self, application: str, wire: WireFormat, now_ms: Callable[[], int], signatures: Signatures | None = None
    ) -> None:
        self._signatures = signatures
        self._source = f"/{application}"
        self._content_type = CONTENT_TYPES[wire]
        self._now_ms = now_ms
        self._at_ms = -1
        self._time = ("ce_time", b"")
        # Those of a message and a caller that are the same each time: made once, since they cost as much as the rest of a call.
        self.carried: Callable[[Queries, str, str], Trace | None] = carried
        """Gives the trace that a message has to carry; see there. `_otel.py` puts its own here."""
        self._same: dict[tuple[str, str | None], tuple[Headers, Headers]] = {}

    def headers(
        self,
        name: str,
        message_id: str,
        bus: Queries,
        body: bytes,
        *,
        valid_s: float | None = None,
        more: Iterable[tuple[str, bytes]] = (),
    ) -> Headers:
        """Return the headers of a message that is sent on a bus.

        Args:
            name: The message's name.
            message_id: Its id.
            bus: The bus.
            body: The message, encoded.
            valid_s: For how long its identity is valid, in seconds; as long as any that nobody waits for unless told.
            more: What stands behind them.
        """
        caller = bus._routes.caller
        same = self._same.get((name, caller))
        if same is None:
            same = self._same[name, caller] = self._make_same(name, caller)
        typed, described = same
        at_ms = self._now_ms()
        if at_ms != self._at_ms:
            self._at_ms = at_ms
            time = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
            self._time = ("ce_time", time.replace("+00:00", "Z").encode())
        headers = [_SPECVERSION, ("ce_id", message_id.encode()), *typed, self._time, *described]
        signatures = self._signatures
        if signatures is not None:
            identity = identity_of(bus)
            if identity is not None or signatures.is_required:
                message = (message_id.encode(), name.encode(), b"" if caller is None else caller.encode())
                headers.append(signatures.sign(identity, message, body, valid_s))
        trace = self.carried(bus, message_id, name)
        if trace is not None:
            headers += trace_headers(trace)
        if bus._handler is not None:
            headers.append(("fissile-cause", bus._message_id().encode()))
            headers.append(("fissile-depth", b"%d" % bus._depth))
        headers += more
        return tuple(headers)

    def _make_same(self, name: str, caller: str | None) -> tuple[Headers, Headers]:
        source = self._source if caller is None else f"{self._source}/{caller}"
        content_type = (CONTENT_TYPE, self._content_type)
        described = (content_type,) if caller is None else (content_type, ("fissile-caller", caller.encode()))
        return (("ce_type", name.encode()), ("ce_source", source.encode())), described

    def event(
        self, topic: str, name: str, codec: Codec[Any], key: Callable[[Any], str]
    ) -> Callable[[Queries, Any], Outgoing]:
        """Return what turns one class of events into records of its topic."""

        def encode(bus: Queries, event: Any) -> Outgoing:
            data = codec.encode(event)
            arrived = codec.decode(data)
            headers = self.headers(name, bus._next_child_id(), bus, data)
            return Outgoing(topic, key_bytes(name, key, arrived), data, headers)

        return encode

    def command(
        self, topic: str, name: str, codec: Codec[Any], key: Callable[[Any], str] | None
    ) -> Callable[[Queries, Any, str | None], Outgoing]:
        """Return what turns one class of commands into records of its module's requests."""

        def encode(bus: Queries, command: Any, message_id: str | None) -> Outgoing:
            data = codec.encode(command)
            arrived = codec.decode(data)
            message_id = message_id or bus._next_child_id()
            # Without a key of its own a command is spread over the partitions by its id.
            record_key = message_id.encode() if key is None else key_bytes(name, key, arrived)
            return Outgoing(topic, record_key, data, self.headers(name, message_id, bus, data))

        return encode


KEY_LIMIT_BYTES = 4096
"""A key is a name. It also has to fit beside a message of the largest size, with the headers of a dead letter."""


def key_bytes(name: str, key: Callable[[Any], str], message: Any) -> bytes:
    """Return the key of a message as it stands in a log.

    Raises:
        InvalidMessage: The contract's key function fails, or gives no string.
    """
    try:
        text: object = key(message)
        if not isinstance(text, str):
            raise TypeError(f"it gives {type(text).__name__}, not str")
        encoded = text.encode()
        if len(encoded) > KEY_LIMIT_BYTES:
            raise ValueError(f"it has {len(encoded)} bytes and the limit is {KEY_LIMIT_BYTES}")
        return encoded
    except Exception as error:  # noqa: BLE001 -- the developer's function may raise anything
        raise InvalidMessage(name, f"its key cannot be made ({type(error).__name__}: {error})") from None


def by_name(headers: Headers) -> dict[str, bytes]:
    """Return the headers of a record by name; the first of a name counts, as in `header`."""
    found = dict(headers)
    return found if len(found) == len(headers) else dict(reversed(headers))


def text(headers: Mapping[str, bytes], name: str) -> str | None:
    """Return the text of a header, or None if there is none or it is no text."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def header(headers: Headers, name: str) -> str | None:
    """Return the text of a header, or None if there is none or it is no text."""
    for key, value in headers:
        if key == name:
            try:
                return value.decode()
            except UnicodeDecodeError:
                return None
    return None


def content_type_in(headers: Headers) -> bytes | None:
    """Return what stands in the headers of a record as the format of its body, or None if nothing does."""
    for name, value in headers:
        if name == CONTENT_TYPE:
            return value
    return None
