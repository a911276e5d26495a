"""Bytes: the one way a message, a reply or a declared error crosses the boundary of a module, in one process too.

There is no faster mode that means something else. JSON is the default, because every Kafka tool shows it; MessagePack is a setting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, get_type_hints

import attrs
import msgspec

from fissile._errors import InvalidMessage, MessageTooLarge
from fissile._messages import DeclaredError, fields_of
from fissile._types import value_check

T = TypeVar("T")
WireFormat = Literal["json", "msgpack"]

ENCODE_ERRORS = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)
"""What encoding can raise; UnicodeEncodeError is a ValueError."""
DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding can raise."""


class Codec(Generic[T]):
    """Encodes and decodes the values of one type.

    Args:
        name: The message's name, for errors.
        annotation: The type.
        wire: The format.
        limit_bytes: The size that an encoded value may have.

    Raises:
        TypeError: The type cannot be decoded.
    """

    # Any: the type is an expression such as `RunReport | None`, which no type variable can stand for.
    def __init__(self, name: str, annotation: Any, wire: WireFormat, limit_bytes: int) -> None:
        self.name = name
        self.limit_bytes = limit_bytes
        self.check = value_check(annotation)
        self.encode_value: Callable[[Any], bytes]
        self.decode_value: Callable[[bytes], T]
        if wire == "json":
            self.encode_value = msgspec.json.Encoder().encode
            self.decode_value = msgspec.json.Decoder(annotation).decode
        else:
            self.encode_value = msgspec.msgpack.Encoder().encode
            self.decode_value = msgspec.msgpack.Decoder(annotation).decode

    def encode(self, value: T) -> bytes:
        """Return the bytes of a value.

        Raises:
            InvalidMessage: It holds something that cannot be sent.
            MessageTooLarge: Its bytes exceed the limit.
        """
        if self.check is not None and (problem := self.check(value)) is not None:
            raise InvalidMessage(self.name, problem)
        try:
            data = self.encode_value(value)
        except ENCODE_ERRORS as error:
            raise InvalidMessage(self.name, _reason(error)) from None
        if len(data) > self.limit_bytes:
            raise MessageTooLarge(self.name, len(data), self.limit_bytes)
        return data

    def decode(self, data: bytes) -> T:
        """Return the value of some bytes; unknown fields are passed over.

        Raises:
            InvalidMessage: The bytes are no value of the type.
        """
        try:
            return self.decode_value(data)
        except DECODE_ERRORS as error:
            raise InvalidMessage(self.name, _reason(error)) from None

    def cross(self, value: T) -> T:
        """Return what the other side of the boundary gets.

        Raises:
            InvalidMessage: The value does not fit the type.
            MessageTooLarge: Its bytes exceed the limit.
        """
        return self.decode(self.encode(value))


class RawCodec(Codec[bytes]):
    """Lets bytes through as they are."""

    def __init__(self) -> None:
        self.name = "bytes"
        self.limit_bytes = 2**63
        self.check = None
        self.encode_value = bytes
        self.decode_value = bytes


class ErrorCodec:
    """Encodes and decodes one declared error.

    msgspec decodes into an exception without calling its `__new__`, after which formatting it can crash the interpreter. So the
    bytes are decoded into a twin class with the same fields, and the error is then made from those.
    """

    def __init__(self, name: str, error: type[DeclaredError], wire: WireFormat, limit_bytes: int) -> None:
        self.error = error
        hints = get_type_hints(error, include_extras=True)
        self._fields = tuple(field.name for field in fields_of(error))
        twin = attrs.make_class(
            error.__name__,
            {field.name: attrs.field(type=hints[field.name], default=field.default) for field in fields_of(error)},
            frozen=True,
            kw_only=True,
        )
        self._twin = twin
        self._codec: Codec[Any] = Codec(name, twin, wire, limit_bytes)

    def encode(self, error: DeclaredError) -> bytes:
        """Return the bytes of the error; raises as `Codec.encode` does."""
        return self._codec.encode(self._twin(**{name: getattr(error, name) for name in self._fields}))

    def decode(self, data: bytes) -> DeclaredError:
        """Return a new error with the fields in the bytes; raises as `Codec.decode` does."""
        twin = self._codec.decode(data)
        return self.error(**{name: getattr(twin, name) for name in self._fields})


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = str(error)
    return text[:1].lower() + text[1:]
