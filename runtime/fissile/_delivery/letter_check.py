"""Whether a body fits the contract of its message, as strictly as an edge does: a field that nobody knows is a slip of the pen here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import attrs
import msgspec
from attrs import evolve, frozen

from fissile._check import Catalog
from fissile._check.contracts import order_key
from fissile._codec import Codec, WireFormat, format_in
from fissile._contract import Topic
from fissile._delivery.dead_letters import DeadLetter
from fissile._envelope import content_type_in, key_bytes
from fissile._errors import InvalidMessage, UnknownMessage
from fissile._messages import Event, fields_of

# Any, all through this file: a message, or a part of one, of a class that is only known at run time.

_PLACE = re.compile(r" - at `\$\.?(?P<path>.*)`$")
_MISSING = re.compile(r"missing required field `(?P<name>.*?)`")


@frozen(eq=False)
class LetterCheck:
    """Reads and checks the bodies of dead letters.

    Args:
        catalog: The contracts of the application.
        wire: The format of bodies.
        limit_bytes: The size that a body may have.
    """

    catalog: Catalog
    wire: WireFormat
    limit_bytes: int

    def message_class(self, name: str) -> type | None:
        """Return the class of a command or event; None if no contract has one of that name."""
        contract = self.catalog.contracts.get(name.partition(".")[0])
        if contract is None:
            return None
        return next((cls for cls in (*contract.commands, *contract.events) if contract.name_of(cls) == name), None)

    def message_of(self, letter: DeadLetter) -> Any | None:
        """Return the message of a letter; None where no contract has it, or the bytes are none."""
        cls = self.message_class(letter.name)
        if cls is None:
            return None
        try:
            return Codec[Any](letter.name, cls, self.wire_of(letter), self.limit_bytes).decode(letter.body)
        except InvalidMessage:
            return None

    def wire_of(self, letter: DeadLetter) -> WireFormat:
        """Return the format of a letter's body, as its headers have it."""
        return format_in(content_type_in(letter.headers)) or self.wire

    def fits(self, letter: DeadLetter, body: bytes) -> tuple[bytes, bytes | None]:
        """Check a new body of a letter, in the format of the old one, which its headers still name; return and raise as a call does."""
        return evolve(self, wire=self.wire_of(letter))(letter.name, body)

    def __call__(self, name: str, body: bytes) -> tuple[bytes, bytes | None]:
        """Return a body as it is stored, and the key that goes with it; None if it keeps the one that it has.

        Raises:
            InvalidMessage: It does not fit; the reason begins with the field.
            UnknownMessage: No contract has the message.
        """
        cls = self.message_class(name)
        if cls is None:
            raise UnknownMessage(
                f"No contract of the application has {name or 'a message without a name'}: nothing can be checked."
            )
        codec = Codec[Any](name, cls, self.wire, self.limit_bytes)
        try:
            message = codec.decode_value(body)
            given: Any = msgspec.json.decode(body) if self.wire == "json" else msgspec.msgpack.decode(body)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise InvalidMessage(name, reason_of(error)) from None
        unknown = next(_unknown_fields(given, message, ""), None)
        if unknown is not None:
            raise InvalidMessage(name, f"{unknown}: there is no such field")
        encoded = codec.encode(message)
        key = self._key_of(cls)
        return encoded, None if key is None else key_bytes(name, key, message)

    def _key_of(self, cls: Any) -> Callable[[Any], str] | None:
        if issubclass(cls, Event):
            topic: Topic[Any] = self.catalog.topic_of[cls]
            return topic.key
        key: Callable[[Any], str] | None = order_key(cls)  # a command: `message_class` finds nothing else
        return key


def reason_of(error: Exception) -> str:
    """Return what is wrong with a body as `field: what`."""
    text = str(error)
    place = _PLACE.search(text)
    path = place["path"] if place is not None else ""
    if place is not None:
        text = text[: place.start()]
    missing = _MISSING.search(text)
    if missing is not None:
        return f"{_joined(path, missing['name'])}: it is missing"
    text = (text[:1].lower() + text[1:]).replace("`", "")
    return f"{path}: {text}" if path else text


def _unknown_fields(given: Any, message: Any, path: str) -> Iterator[str]:
    """Yield the fields that were given and that the message does not have."""
    cls: type[Any] = message.__class__
    if attrs.has(cls) and isinstance(given, dict):
        fields = {field.name for field in fields_of(cls)}
        for name, value in cast("dict[str, Any]", given).items():
            if name not in fields:
                yield _joined(path, name)
            else:
                yield from _unknown_fields(value, getattr(message, name), _joined(path, name))
    elif isinstance(message, Mapping) and isinstance(given, dict):
        entries = cast("Mapping[str, Any]", message)
        for name, value in cast("dict[str, Any]", given).items():
            if name in entries:
                yield from _unknown_fields(value, entries[name], _joined(path, name))
    elif isinstance(message, tuple) and isinstance(given, list):
        pairs = zip(cast("Iterable[Any]", given), cast("Iterable[Any]", message), strict=False)
        for index, (value, part) in enumerate(pairs):
            yield from _unknown_fields(value, part, f"{path}[{index}]")


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
