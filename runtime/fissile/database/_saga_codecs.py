"""What of a saga is written down, as JSON whatever the wire format, so that a person can read a history: messages, replies and errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from fissile._codec import Codec, ErrorCodec
from fissile._errors import (
    CallError,
    CallRefused,
    DeadlineExceeded,
    FissileError,
    HandlerFailed,
    InvalidMessage,
    Overloaded,
    Unavailable,
    UnknownMessage,
)
from fissile._messages import Command, DeclaredError, Query, reply_type
from fissile._requests import DECLARED, REPLIED
from fissile.database._digest import digest_of

DONE = "done"
TIMED_OUT = "timed-out"
FAILED = "failed:"

_BY_TEXT: tuple[type[CallError], ...] = (CallRefused, DeadlineExceeded, Overloaded, Unavailable, UnknownMessage)


class StepFailed(FissileError):
    """Raised in a saga when a function that was given to `saga.transaction` has failed, as often as the saga tries it.

    Attributes:
        step: What people call the step.
        error_type: The name of the error's class.
        error_text: The text of the error.
    """

    def __init__(self, step: str, error_type: str, error_text: str) -> None:
        self.step = step
        self.error_type = error_type
        self.error_text = error_text
        super().__init__(step, error_type, error_text)

    def __str__(self) -> str:
        return f"{self.step} failed with {self.error_type}{f': {self.error_text}' if self.error_text else ''}"


class Unreadable(Exception):
    """Raised when what was written down does not fit the program any more."""


class _Failure(msgspec.Struct, frozen=True):
    """An error that nobody has declared, as it is written down."""

    type: str
    arguments: tuple[str, ...]


class Call(msgspec.Struct, frozen=True):
    """A command or a query of a saga, ready to be made.

    Attributes:
        message: The message.
        name: Its name on the wire.
        digest: Tells it from others.
        reply: The codec of its reply.
        errors: The codecs of the errors that it declares, by their names.
    """

    message: Any  # Any: whatever message
    name: str
    digest: bytes
    reply: Codec[Any]
    errors: Mapping[str, ErrorCodec]


class Codecs:
    """The codecs of one module's sagas.

    Args:
        name_of: Gives the name of a message's class on the wire.
        limit_bytes: The size that an encoded value may have.
    """

    def __init__(self, name_of: Callable[[type], str], limit_bytes: int) -> None:
        self.name_of = name_of
        self._limit_bytes = limit_bytes
        self._messages: dict[type, Codec[Any]] = {}
        self._replies: dict[type, Codec[Any]] = {}
        self._errors: dict[type, Mapping[str, ErrorCodec]] = {}

    def message(self, cls: type) -> Codec[Any]:
        """Return the codec of a message class."""
        if cls not in self._messages:
            self._messages[cls] = self.value(self.name_of(cls), cls)
        return self._messages[cls]

    def value(self, name: str, annotation: Any) -> Codec[Any]:  # Any: a type expression
        """Return a codec of any type that a contract may use."""
        return Codec(name, annotation, "json", self._limit_bytes)

    def errors_of(self, errors: Sequence[type[DeclaredError]]) -> Mapping[str, ErrorCodec]:
        """Return the codecs of declared errors, by their names."""
        return {error.__name__: ErrorCodec(error.__name__, error, "json", self._limit_bytes) for error in errors}

    def call(self, message: Command[Any] | Query[Any]) -> Call:
        """Prepare a call.

        Raises:
            InvalidMessage: The message does not fit its contract.
        """
        cls = type(message)
        if cls not in self._replies:
            self._replies[cls] = self.value(f"the reply of {self.name_of(cls)}", reply_type(cls))
            self._errors[cls] = self.errors_of(cls.declared_errors)
        self.message(cls).encode(message)
        return Call(message, self.name_of(cls), digest_of(message), self._replies[cls], self._errors[cls])


def encode_error(error: Exception, errors: Mapping[str, ErrorCodec], step: str) -> tuple[str, bytes]:
    """Return the outcome of a step that has failed for good, and its body.

    Args:
        error: The error.
        errors: The errors that are declared.
        step: What people call the step.
    """
    codec = errors.get(type(error).__name__) if isinstance(error, DeclaredError) else None
    if codec is not None and isinstance(error, DeclaredError) and isinstance(error, codec.error):
        return DECLARED + type(error).__name__, codec.encode(error)
    failure = _Failure("StepFailed", (step, type(error).__name__, str(error)))
    if isinstance(error, HandlerFailed):
        failure = _Failure("HandlerFailed", (error.message_name, error.message_id, error.error_type, error.error_text))
    elif isinstance(error, InvalidMessage):
        failure = _Failure("InvalidMessage", (error.message_name, error.reason))
    else:
        for cls in _BY_TEXT:
            if isinstance(error, cls):
                failure = _Failure(cls.__name__, (str(error),))
    return FAILED + failure.type, msgspec.json.encode(failure)


def decode_error(outcome: str, body: bytes, errors: Mapping[str, ErrorCodec]) -> Exception:
    """Return the error that a step came to.

    Raises:
        Unreadable: It is one that the contract no longer declares.
    """
    if outcome.startswith(DECLARED):
        codec = errors.get(outcome.removeprefix(DECLARED))
        if codec is None:
            raise Unreadable(f"it came to the error {outcome.removeprefix(DECLARED)}, which is no longer declared")
        try:
            return codec.decode(body)
        except InvalidMessage as error:
            raise Unreadable(error.reason) from None
    failure = msgspec.json.decode(body, type=_Failure)
    known: dict[str, type[Exception]] = {cls.__name__: cls for cls in (*_BY_TEXT, HandlerFailed, InvalidMessage)}
    return known.get(failure.type, StepFailed)(*failure.arguments)


def decode_value(codec: Codec[Any], body: bytes) -> Any:  # Any: whatever the step returned
    """Return what a step came to.

    Raises:
        Unreadable: The bytes are none of the type.
    """
    try:
        return codec.decode(body)
    except InvalidMessage as error:
        raise Unreadable(error.reason) from None


def may_have_happened(outcome: str | None, *, is_uncertain: bool) -> bool:
    """Tell whether there may be something to undo: the step has succeeded, or an attempt was cut off or failed half-way."""
    return outcome is None or outcome in (REPLIED, DONE) or is_uncertain
