"""Whole numbers that are written with a fraction: `1.0` and `1e2` are integers to JSON Schema, and to JSON the same numbers as `1` and `100`.

msgspec takes only `1` for an integer. So a document that it refuses is looked through once more, along the types of the contract, and
decoded again. A document that it takes costs nothing.
"""

from __future__ import annotations

import collections.abc
import enum
import functools
import types
from collections.abc import Sequence
from decimal import Decimal
from itertools import zip_longest
from typing import Annotated, Any, Literal, NewType, Union, cast, get_args, get_origin

import attrs
import msgspec

from fissile._messages import hints_of

# Any, all through this file: a type expression, or JSON.

_LIMIT = 2**64
"""Beyond it nothing is an integer of a contract, and making one takes long: `1e999999`."""

_exactly = msgspec.json.Decoder(float_hook=Decimal).decode


def read_whole(data: bytes, annotation: Any) -> Any:
    """Return a JSON document with integers where the type wants integers and the document has whole numbers.

    Args:
        data: The document.
        annotation: The type of the contract.

    Raises:
        msgspec.DecodeError: It is not JSON.
        RecursionError: It is nested too deeply.
    """
    msgspec.json.decode(data)  # refuses numbers beyond a float, which a Decimal could hold
    return _read(_exactly(data), annotation)


def _read(value: Any, annotation: Any) -> Any:
    members = _members(annotation)
    if isinstance(value, Decimal):
        if Decimal in members:
            return value
        is_whole = abs(value) < _LIMIT and value == int(value)
        return int(value) if is_whole and _wants_integer(members) else float(value)
    if isinstance(value, list):
        items = cast("Sequence[Any]", value)
        array = next((member for member in members if get_origin(member) in (tuple, frozenset)), None)
        if array is None:
            return [_read(item, Any) for item in items]
        arguments = [argument for argument in get_args(array) if argument is not Ellipsis]
        if get_origin(array) is tuple and Ellipsis not in get_args(array):
            # What is too much is refused when the document is converted.
            return [_read(item, argument) for item, argument in zip_longest(items, arguments, fillvalue=Any)][
                : len(items)
            ]
        return [_read(item, arguments[0]) for item in items]
    if isinstance(value, dict):
        return _object(cast("dict[str, Any]", value), members)
    return value


def _object(value: dict[str, Any], members: tuple[Any, ...]) -> dict[str, Any]:
    for member in members:
        if isinstance(member, type) and attrs.has(member):
            hints = hints_of(member)
            return {name: _read(item, hints.get(name, Any)) for name, item in value.items()}
        if get_origin(member) is collections.abc.Mapping:
            inner = get_args(member)[1]
            return {name: _read(item, inner) for name, item in value.items()}
    return {name: _read(item, Any) for name, item in value.items()}


def _wants_integer(members: tuple[Any, ...]) -> bool:
    if float in members:
        return False
    return any(
        member is int
        or (get_origin(member) is Literal and any(type(item) is int for item in get_args(member)))
        or (
            isinstance(member, type)
            and issubclass(member, enum.Enum)
            and any(type(item.value) is int for item in member)
        )
        for member in members
    )


@functools.cache
def _members(annotation: Any) -> tuple[Any, ...]:
    while get_origin(annotation) is Annotated or isinstance(annotation, NewType):
        annotation = annotation.__supertype__ if isinstance(annotation, NewType) else get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(inner for member in get_args(annotation) for inner in _members(member))
    return (annotation,)
