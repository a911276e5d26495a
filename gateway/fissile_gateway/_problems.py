"""Problem details (RFC 9457): every error that a client sees, and which error becomes which.

The table at the end is the whole mapping. Nothing of a failure's inside is told: its id is, under which the log has the rest.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

import attrs
import msgspec

from fissile import (
    CallRefused,
    DeadlineExceeded,
    DeclaredError,
    FissileError,
    Forbidden,
    HandlerFailed,
    InvalidMessage,
    MessageTooLarge,
    Overloaded,
    Unauthenticated,
    Unavailable,
    UnknownMessage,
)
from fissile._messages import in_words
from fissile_gateway._strict import InputError, InvalidInput

_logger = logging.getLogger("fissile.gateway")

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
CREDENTIAL_REFUSED = 401
_HAS_RETRY_AFTER = (429, 503)

_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_REASON = re.compile(r"(?P<path>\w+(?:: \w+)*): (?P<what>.*)", re.DOTALL)


class Problem(msgspec.Struct, frozen=True):
    """What is told to a client whose request was not done.

    Attributes:
        status: The HTTP status.
        name: What kind of problem it is, in kebab-case; `type` is `/problems/<name>`.
        detail: What happened and what to do, as sentences.
        errors: What is wrong with the input, each with its place.
        members: Further members of the document.
        headers: Fields of the answer.
    """

    status: int
    name: str
    detail: str
    errors: tuple[InputError, ...] = ()
    members: Mapping[str, Any] = msgspec.field(default_factory=dict[str, Any])  # Any: whatever JSON can say
    headers: tuple[tuple[str, str], ...] = ()

    def document(self, request_id: str) -> bytes:
        """Return the document.

        Args:
            request_id: The id of the request, under which logs tell more.
        """
        document: dict[str, Any] = {
            "type": f"/problems/{self.name}",
            "title": self.name.replace("-", " ").capitalize(),
            "status": self.status,
            "detail": self.detail,
            "request_id": request_id,
        }
        if self.errors:
            document["errors"] = [{"path": error.path, "message": error.message} for error in self.errors]
        return msgspec.json.encode(document | dict(self.members))


class ProblemError(Exception):
    """Raised to answer a request with a problem; for the gateway's own routes and those of an application."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.name}: {problem.detail}")
        self.problem = problem


def overloaded(what: str) -> Problem:
    """Return the problem of a bound that is reached."""
    return Problem(
        503, "overloaded", f"{what} It did not happen; try again later.", headers=(("retry-after", str(RETRY_AFTER_S)),)
    )


def deadline_exceeded(timeout_s: float) -> Problem:
    """Return the problem of a request that took too long."""
    return Problem(504, "deadline-exceeded", f"The request was not done within {timeout_s:g} s. It may have happened.")


def challenge(*, error: str = "", scopes: Iterable[str] = ()) -> tuple[str, str]:
    """Return the field that says how to say who asks (RFC 9110, 11.6.1; RFC 6750, 3)."""
    scope = " ".join(scopes)
    parameters = [('error="%s"', error), ('scope="%s"', scope)]
    return "www-authenticate", ", ".join(['Bearer realm="api"', *(text % value for text, value in parameters if value)])


def _of_forbidden(error: Forbidden) -> Problem:
    members = {"missing_scopes": error.missing}
    if isinstance(error, Unauthenticated):
        header = challenge(scopes=error.missing)
        return Problem(401, "unauthenticated", f"{error} Say who asks.", members=members, headers=(header,))
    header = challenge(error="insufficient_scope", scopes=error.missing)
    return Problem(403, "forbidden", str(error), members=members, headers=(header,))


def came_late(timeout_s: float) -> Problem:
    """Return the problem of a request whose body was not there in time."""
    return Problem(
        408,
        "request-timeout",
        f"The body did not come within {timeout_s:g} s, or was the slowest of too many. Nothing happened.",
    )


def invalid_input(errors: tuple[InputError, ...]) -> Problem:
    """Return the problem of input that does not fit the contract."""
    places = "; ".join(f"{error.path}: {error.message}" for error in errors[:5])
    return Problem(400, "invalid-input", f"The input does not fit the contract: {places}.", errors)


def problem_of(error: BaseException) -> Problem:
    """Return what a client is told of an error."""
    error = _only_leaf(error)
    if isinstance(error, ProblemError):
        return error.problem
    if isinstance(error, InvalidInput):
        return invalid_input(error.errors)
    if isinstance(error, FissileError):
        return _of_call(error)
    if isinstance(error, DeclaredError):
        return _of_declared(error)
    return internal_error(error)


def internal_error(error: BaseException) -> Problem:
    """Return the problem of an error that nobody expected, and log the error."""
    _logger.error("a request failed: %s", type(error).__name__, exc_info=error)
    return Problem(500, "internal-error", "The request failed. The log tells why, under the request's id.")


def kebab_case(class_name: str) -> str:
    """Return `unknown-language` for `UnknownLanguage`."""
    return _WORD_START.sub("-", class_name).lower()


def _of_call(error: FissileError) -> Problem:
    if isinstance(error, HandlerFailed):
        return Problem(
            500,
            "handler-failed",
            f"{error.message_name} failed. The log of its module tells why, under the id {error.message_id}.",
            members={"message_id": error.message_id},
        )
    if isinstance(error, Forbidden):
        return _of_forbidden(error)
    if isinstance(error, MessageTooLarge):
        return Problem(413, "message-too-large", str(error))
    if isinstance(error, InvalidMessage):
        return invalid_input((_place_of(error.reason),))
    for kind, (status, headers) in _CALL_ERRORS.items():
        if isinstance(error, kind):
            return Problem(status, kebab_case(kind.__name__), str(error), headers=headers)
    return internal_error(error)


def _only_leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        inner = cast("tuple[BaseException, ...]", error.exceptions)
        if len(inner) != 1:
            return cast("BaseException", error)
        error = inner[0]
    return error


def _of_declared(error: DeclaredError) -> Problem:
    name = kebab_case(type(error).__name__)
    attributes: tuple[attrs.Attribute[Any], ...] = getattr(type(error), "__attrs_attrs__", ())
    fields = {one.name: getattr(error, one.name) for one in attributes}
    detail = in_words(error) or f"{name.replace('-', ' ').capitalize()}."
    wait_s = fields.get("retry_after_s") if error.status in _HAS_RETRY_AFTER else None
    headers = (("retry-after", str(max(1, math.ceil(wait_s)))),) if isinstance(wait_s, (int, float)) else ()
    return Problem(error.status, name, detail, members={"error": fields}, headers=headers)


def _place_of(reason: str) -> InputError:
    match = _REASON.fullmatch(reason)
    return InputError(f"$.{match['path'].replace(': ', '.')}", match["what"]) if match else InputError("$", reason)


_LATER = (("retry-after", str(RETRY_AFTER_S)),)

_CALL_ERRORS: dict[type[FissileError], tuple[int, tuple[tuple[str, str], ...]]] = {
    UnknownMessage: (404, ()),
    CallRefused: (500, ()),
    Overloaded: (503, _LATER),
    Unavailable: (503, _LATER),
    DeadlineExceeded: (504, ()),
}
