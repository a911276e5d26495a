"""Bytes: the one way a message, a reply or a declared error crosses the boundary of a module, in one process too.

There is no faster mode that means something else. JSON is the default, because every Kafka tool shows it; MessagePack is a setting.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, Generic, Literal, TypeVar, Union

import attrs
import msgspec

from fissile._errors import InvalidMessage, MessageTooLarge
from fissile._messages import DeclaredError, fields_of, hints_of
from fissile._types import value_check

T = TypeVar("T")
WireFormat = Literal["json", "msgpack"]

CONTENT_TYPES: dict[WireFormat, bytes] = {"json": b"application/json", "msgpack": b"application/msgpack"}
"""What the header `content-type` says of each format."""

ENCODE_ERRORS = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)
"""What encoding can raise; UnicodeEncodeError is a ValueError."""
DECODE_ERRORS = (msgspec.MsgspecError, ValueError, RecursionError)
"""What decoding can raise."""


def format_in(content_type: bytes | None) -> WireFormat | None:
    """Return the format that a header `content-type` names; None where there is none, or it names none of ours."""
    if content_type is None:
        return None
    media_type = content_type.partition(b";")[0].strip().lower()
    return next((wire for wire, ours in CONTENT_TYPES.items() if ours == media_type), None)


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
        self.wire: WireFormat = wire
        self.content_type = CONTENT_TYPES[wire]
        self.check = value_check(annotation)
        self._annotation = annotation
        self._other: Callable[[bytes], T] | None = None
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

    def read(self, data: bytes, content_type: bytes | None) -> T:
        """Return the value of bytes out of a log, which another process may have written with another setting than ours.

        Args:
            data: The bytes.
            content_type: What stands beside them as their format; where that is none of ours, they are taken to be in our own.

        Raises:
            InvalidMessage: The bytes are no value of the type.
        """
        decode = self.decode_value if content_type == self.content_type else self._decoder_of(content_type)
        try:
            return decode(data)
        except DECODE_ERRORS as error:
            raise InvalidMessage(self.name, _reason(error), "cannot be read") from None

    def _decoder_of(self, content_type: bytes | None) -> Callable[[bytes], T]:
        wire = format_in(content_type)
        if wire is None or wire == self.wire:
            return self.decode_value
        if self._other is None:
            formats: Any = {"json": msgspec.json.Decoder, "msgpack": msgspec.msgpack.Decoder}
            self._other = formats[wire](self._annotation).decode
        assert self._other is not None
        return self._other

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
        self.content_type = b""
        self.check = None
        self.encode_value = bytes
        self.decode_value = bytes

    def _decoder_of(self, content_type: bytes | None) -> Callable[[bytes], bytes]:  # noqa: ARG002 -- whatever it is
        return self.decode_value


class ErrorCodec:
    """Encodes and decodes one declared error.

    msgspec decodes into an exception without calling its `__new__`, after which formatting it can crash the interpreter. So the
    bytes are decoded into a twin class with the same fields, and the error is then made from those.
    """

    def __init__(self, name: str, error: type[DeclaredError], wire: WireFormat, limit_bytes: int) -> None:
        self.error = error
        self._fields = tuple(field.name for field in fields_of(error))
        self._twin = _twin_of(error)
        self._check = value_check(error)
        self._codec: Codec[Any] = Codec(name, self._twin, wire, limit_bytes)

    def encode(self, error: DeclaredError) -> bytes:
        """Return the bytes of the error; raises as `Codec.encode` does."""
        if self._check is not None and (problem := self._check(error)) is not None:
            raise InvalidMessage(self._codec.name, problem)
        return self._codec.encode(self._twin(**{name: getattr(error, name) for name in self._fields}))

    def decode(self, data: bytes) -> DeclaredError:
        """Return a new error with the fields in the bytes; raises as `Codec.decode` does."""
        return self._error_of(self._codec.decode(data))

    def read(self, data: bytes, content_type: bytes | None) -> DeclaredError:
        """Return a new error with the fields in bytes out of a log; as `Codec.read` does."""
        return self._error_of(self._codec.read(data, content_type))

    def under(self, name: str) -> ErrorCodec:
        """Return the same codec for another message, whose name its errors tell."""
        other, other._codec = copy(self), copy(self._codec)
        other._codec.name = name
        return other

    @property
    def content_type(self) -> bytes:
        """What the header `content-type` says of the bytes that it makes."""
        return self._codec.content_type

    def _error_of(self, twin: object) -> DeclaredError:
        values = ((name, getattr(twin, name)) for name in self._fields)
        return self.error(**{name: value for name, value in values if value is not msgspec.UNSET})


def _twin_of(error: type[DeclaredError]) -> type[msgspec.Struct]:
    """Return a class with the fields of a declared error; a field with a default may be left out, and the error then has that default."""
    hints = hints_of(error)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [  # Any: types and defaults, as in msgspec.defstruct
        (field.name, hints[field.name])
        if field.default is attrs.NOTHING
        else (field.name, Union[hints[field.name], msgspec.UnsetType], msgspec.UNSET)  # noqa: UP007 -- made here
        for field in fields_of(error)
    ]
    return msgspec.defstruct(error.__name__, fields, frozen=True, kw_only=True)


def check_decodable(annotation: Any) -> None:  # Any: a type expression
    """See to it that msgspec can decode a type, without building what encodes and decodes it.

    Raises:
        TypeError: It cannot.
    """
    decoded: Any = annotation
    if isinstance(annotation, type) and issubclass(annotation, DeclaredError):
        decoded = _twin_of(annotation)
    msgspec.json.Decoder(decoded)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = str(error)
    return text[:1].lower() + text[1:]
