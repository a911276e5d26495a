"""Replies and events as JSON for people: fields in the order in which the contract has them.

msgspec encodes a slotted attrs class in the order of its slots, which CPython sorts by name. So a value is moved into a `msgspec.Struct` with
the same fields first, which keeps their order and costs a microsecond.
"""

from __future__ import annotations

import collections.abc
import types
from collections.abc import Callable
from typing import Annotated, Any, NewType, Union, get_args, get_origin

import attrs
import msgspec

from fissile._messages import hints_of

# Any, all through this file: a type expression, or a value of a type that is only known at run time.

_encode = msgspec.json.Encoder().encode


def presenter(annotation: Any) -> Callable[[Any], bytes]:
    """Return what encodes the values of a type."""
    twin = _twin(annotation, {})
    if twin is None:
        return _encode
    convert = msgspec.convert

    def present(value: Any) -> bytes:
        return _encode(convert(value, twin, from_attributes=True))

    return present


def _twin(annotation: Any, made: dict[type, Any]) -> Any | None:
    """Return a type with Structs in the place of attrs classes; None if there is none in it."""
    while get_origin(annotation) is Annotated or isinstance(annotation, NewType):
        annotation = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation.__supertype__
    origin = get_origin(annotation)
    if isinstance(annotation, type) and attrs.has(annotation):
        return _struct(annotation, made)
    if origin in (Union, types.UnionType):
        members = get_args(annotation)
        twins = [_twin(member, made) for member in members]
        if all(twin is None for twin in twins):
            return None
        return Union[tuple(twin or member for twin, member in zip(twins, members, strict=True))]  # noqa: UP007 -- made here
    if origin in (tuple, frozenset):
        members = get_args(annotation)
        twins = [None if member is Ellipsis else _twin(member, made) for member in members]
        if all(twin is None for twin in twins):
            return None
        return tuple[tuple(twin or member for twin, member in zip(twins, members, strict=True))]  # type: ignore[misc]
    if origin is collections.abc.Mapping:
        twin = _twin(get_args(annotation)[1], made)
        return None if twin is None else dict[str, twin]  # type: ignore[valid-type]
    return None


def _struct(cls: type, made: dict[type, Any]) -> Any:
    if cls not in made:
        made[cls] = Any  # a class that contains itself is presented in the order of its slots below its first level
        hints = hints_of(cls)
        fields = [(field.name, _twin(hints[field.name], made) or Any) for field in attrs.fields(cls)]
        made[cls] = msgspec.defstruct(cls.__name__, fields, frozen=True)
    return made[cls]
