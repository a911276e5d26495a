"""What a handler, a resource or a worker takes and gives, read from its annotations. All wiring is by type."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from fissile._errors import Fault
from fissile._names import source_place


class Signature(msgspec.Struct, frozen=True):
    """The parameters of a function, by name, and what it returns.

    Attributes:
        function: The function.
        first: The type of the first parameter, where that is a message.
        parameters: The types of the others.
        returns: What it returns.
        is_async: Whether it is a coroutine function.
        place: Where it is, as `file:line`.
    """

    function: Callable[..., Any]
    first: Any  # Any: a type expression, here and below
    parameters: dict[str, Any]
    returns: Any
    is_async: bool
    place: str


def read_signature(function: Callable[..., Any], *, takes_message: bool, faults: list[Fault]) -> Signature | None:
    """Read a function's annotations; note what is missing and return None then.

    Args:
        function: The function.
        takes_message: Whether its first parameter is a message.
        faults: Gets what is wrong.
    """
    where = source_place(function)
    name = getattr(function, "__qualname__", repr(function))
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        faults.append(
            Fault(
                f"The annotations of {name} cannot be read ({error}).",
                where,
                "Import what they name at the level of the file.",
            )
        )
        return None
    names: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            faults.append(
                Fault(f"{name} takes *{parameter.name}.", where, "Name its parameters; they are found by type.")
            )
            return None
        if parameter.name not in hints:
            if parameter.default is not parameter.empty:
                continue
            faults.append(Fault(f"The parameter {parameter.name} of {name} has no type.", where, "Annotate it."))
            return None
        names.append(parameter.name)
    first = None
    if takes_message:
        if not names:
            faults.append(Fault(f"{name} takes no message.", where, "Make the message its first parameter."))
            return None
        first = bare(hints[names.pop(0)])
    return Signature(
        function,
        first,
        {parameter: bare(hints[parameter]) for parameter in names},
        bare(hints.get("return", inspect.Signature.empty)),
        inspect.iscoroutinefunction(inspect.unwrap(function)),
        where,
    )


def resource_type(signature: Signature) -> Any:
    """Return what a resource yields, or None if its annotation does not say."""
    origin = get_origin(signature.returns)
    if origin in (AsyncGenerator, AsyncIterator, AbstractAsyncContextManager):
        return bare(get_args(signature.returns)[0])
    return None


def bare(annotation: Any) -> Any:
    """Return a type without `Annotated`."""
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def type_name(annotation: Any) -> str:
    """Return how people call a type."""
    return getattr(annotation, "__qualname__", None) or str(annotation)
