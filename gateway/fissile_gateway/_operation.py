"""What a hand-written route says of itself in the OpenAPI document. Only told here, so that it costs nothing at import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from fissile import DeclaredError

F = TypeVar("F", bound=Callable[..., object])

_ATTRIBUTE = "__fissile_operation__"
_SCOPES = "__fissile_scopes__"


class Operation(msgspec.Struct, frozen=True):
    """What `operation` was told.

    Attributes:
        reply: The type of the answer, presented as JSON; None where nothing is told of it.
        body: The class of a JSON body; None for none.
        raises: The declared errors that may be answered.
        status: The status of a success.
        media_type: What the answer is, where it is not JSON.
        openapi: Members of the operation object, laid over everything else.
    """

    reply: Any = None  # Any: a type expression, such as `Receipt | None`
    body: Any = None  # Any: the same
    raises: tuple[type[DeclaredError], ...] = ()
    status: int = 200
    media_type: str | None = None
    openapi: Mapping[str, Any] = msgspec.field(default_factory=dict[str, Any])  # Any: JSON


def operation(
    *,
    reply: Any = None,  # Any: a type expression
    body: Any = None,  # Any: the same
    raises: tuple[type[DeclaredError], ...] = (),
    status: int = 200,
    media_type: str | None = None,
    openapi: Mapping[str, Any] | None = None,  # Any: JSON
) -> Callable[[F], F]:
    """Describe a hand-written route for the OpenAPI document. Write it below the line that makes the route.

    The docstring of the function gives summary and description; parameters of the path follow from the route. Nothing is checked at run
    time: the function reads its request itself.

    Args:
        reply: The type of the answer, one that a contract may use, presented as JSON.
        body: The class of the JSON body it takes.
        raises: The declared errors that it lets out.
        status: The HTTP status of a success.
        media_type: What the answer is, such as `text/csv`, where it is not JSON.
        openapi: Members of the OpenAPI operation object, laid over what follows from the rest: `parameters`, `responses`, `tags` ...
    """
    told = Operation(reply, body, raises, status, media_type, openapi or {})

    def mark(function: F) -> F:
        setattr(function, _ATTRIBUTE, told)
        return function

    return mark


def operation_of(function: object) -> Operation:
    """Return what a view says of itself."""
    told = getattr(function, _ATTRIBUTE, None)
    return told if isinstance(told, Operation) else Operation()


def note_scopes(view: object, scopes: tuple[str, ...]) -> None:
    """Note which scopes a view requires, so that the document tells them."""
    setattr(view, _SCOPES, tuple(dict.fromkeys((*scopes_noted(view), *scopes))))


def scopes_noted(view: object) -> tuple[str, ...]:
    """Return the scopes that a view requires."""
    noted: tuple[str, ...] = getattr(view, _SCOPES, ())
    return noted
