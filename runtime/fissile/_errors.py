"""All errors of fissile, named by whose act they are.

The *caller's* acts come first (a message that cannot be sent, a call where none may be made), then the three answers of the
*infrastructure*, then the *handler's* failure, then what a *developer* reads at start. A declared error is none of these: it is a
value of a contract and lives in `_messages.py`.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec


class FissileError(Exception):
    """The root of every error that fissile itself raises. Declared errors are values of a contract and do not derive from it."""


class CallError(FissileError):
    """The root of what a call can raise besides the errors that its message declares.

    Attributes:
        happened: False if the handler certainly did not run, None if it may have run, True if it ran and failed.
    """

    happened: ClassVar[bool | None] = None


# --- the caller's acts -----------------------------------------------------------------------------------------------


class InvalidMessage(CallError):
    """Raised when a message does not fit its own contract: a wrong type, a NaN, an integer beyond 64 bits."""

    happened = False

    def __init__(self, message_name: str, reason: str, what: str = "was not sent") -> None:
        self.message_name = message_name
        self.reason = reason
        super().__init__(f"{message_name} {what}: {reason}.")


class MessageTooLarge(InvalidMessage):
    """Raised when an encoded message exceeds the limit, which is the same in every placement."""

    def __init__(self, message_name: str, size_bytes: int, limit_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            message_name,
            f"it has {size_bytes} bytes encoded and the limit is {limit_bytes} (setting FISSILE_MAX_MESSAGE_BYTES); "
            "store large data and send a reference to it",
        )


class UnknownMessage(CallError):
    """Raised when no module of the application declares the message, or none handles it."""

    happened = False


class CallRefused(CallError):
    """Raised when a call may not be made here: inside an open transaction, too deep in a chain, on a bus whose handler ended."""

    happened = False


class Forbidden(CallError):
    """Raised when who asks lacks a scope that the message requires. It did not happen.

    Attributes:
        missing: The scopes that are missing; those that are there are not told.
    """

    happened = False

    def __init__(self, what: str, missing: tuple[str, ...]) -> None:
        self.what = what
        self.missing = missing
        super().__init__(f"{what}: {self._why()}")

    def _why(self) -> str:
        return f"it requires {_scopes(self.missing)}, which its caller does not have."


class Unauthenticated(Forbidden):
    """Raised when a message requires scopes and nobody has said, or shown, who asks. It did not happen."""

    def _why(self) -> str:
        return f"it requires {_scopes(self.missing)}, and it is not known who asks."


def _scopes(scopes: tuple[str, ...]) -> str:
    return f"{'the scope' if len(scopes) == 1 else 'the scopes'} {', '.join(scopes)}"


class IdReused(InvalidMessage):
    """Raised when a command has an id under which its module has handled another command. Its caller gets an `InvalidMessage`."""

    def __init__(self, message_name: str, message_id: str) -> None:
        super().__init__(
            message_name,
            f"the id {message_id!r} was used before, for a command with other content; a new command needs an id of its own",
        )


# --- the infrastructure's answers ------------------------------------------------------------------------------------


class Overloaded(CallError):
    """Raised at once when the caller already has its bound of calls in flight to a module. The call did not happen."""

    happened = False


class Unavailable(CallError):
    """Raised when a message could not be sent: no process hosts the module, the log cannot be reached. It did not happen."""

    happened = False


class DeadlineExceeded(CallError):
    """Raised when no answer came within the deadline. The call may have happened; a command may be repeated with its own id."""


# --- the handler's failure -------------------------------------------------------------------------------------------


class HandlerFailed(CallError):
    """Raised when a handler ended with anything but a reply or an error that its message declares.

    It carries what may cross a process boundary; the traceback is in the log of the module, under the same id. It never has a
    cause, in one process either.

    Attributes:
        message_name: What was handled, such as `orders.place-order`.
        message_id: The id to look for in the log of the module.
        error_type: The name of the error's class.
        error_text: The text of the error.
    """

    happened = True

    def __init__(self, message_name: str, message_id: str, error_type: str, error_text: str) -> None:
        self.message_name = message_name
        self.message_id = message_id
        self.error_type = error_type
        self.error_text = error_text
        super().__init__(message_name, message_id, error_type, error_text)

    def __str__(self) -> str:
        text = f": {self.error_text}" if self.error_text else ""
        return f"{self.message_name} failed with {self.error_type}{text} (id {self.message_id}; the traceback is in its module's log)"


class Postponed(FissileError):
    """Raised in a handler when its message cannot be handled now, for no fault of its own: its database is away, its partition has gone.

    A message that nobody waits for stays in hand and is tried again until it succeeds; that is no failed attempt.
    """

    def told_outside(self) -> str:
        """Return what is told to other modules and to whoever asks for readiness: the text, without what only operators need to know."""
        return str(self)


class PartitionLost(Postponed):
    """Raised in place of a commit when the partition of the message has gone to another process, which handles it. Nothing was changed."""


# --- transports ------------------------------------------------------------------------------------------------------


class TransportClosed(FissileError):
    """Raised by a transport, or one of its members and readers, that has been closed."""


class PositionLost(FissileError):
    """Raised when a log no longer has what comes after a position, or never had it. The reader has to begin anew."""


# --- a developer's faults, found at start ----------------------------------------------------------------------------


class Fault(msgspec.Struct, frozen=True):
    """One thing that keeps an application from starting.

    Attributes:
        what: What is wrong, as a sentence.
        where: The place, as `file:line`, or the name of a setting.
        cure: What to do about it.
    """

    what: str
    where: str
    cure: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} Cure: {self.cure}"


class StartupFailed(FissileError):
    """Raised when an application cannot start; it tells all faults together, each with its place and its cure."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self.faults = faults
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__("\n".join([f"The application cannot start: {count}.", *(f"  {fault}" for fault in faults)]))


class InvalidSettings(FissileError):
    """Raised when the settings cannot be read: an unknown key, a value of a wrong type, a broken file."""
