"""What a message is remembered by, to tell a repeat from another message of the same id.

A contract may get a further field with a default, and readers and writers of both versions go on. So may a repeat: a message that was handled
before the deployment is the same one after it. Therefore there are two digests, of all fields, and of those that have another value than their
default; messages are the same if either is. The first holds where a default was changed, the second where a field came.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from hashlib import blake2b
from typing import Any, cast, get_args, get_type_hints

import attrs
import msgspec

from fissile._messages import fields_of

# Any, all through this file: a message, or a part of one, of a class that is only known at run time.

_SIZE_BYTES = 16

_ATOMS = {str, int, float, bool, bytes, type(None)}

_canonical = msgspec.json.Encoder(order="sorted").encode


def digest_of(message: Any) -> bytes:
    """Return the digest of a message, the same for equal messages: one of its halves, or both where they differ."""
    if _has_no_defaults(message.__class__):
        return _digest(message)
    return digest_of_both(message, _lean(message))


def digest_of_both(whole: Any, lean: Any) -> bytes:
    """Return a digest of two values: what is the same in either is the same."""
    one, two = _digest(whole), _digest(lean)
    return one if one == two else one + two


def is_same(one: bytes, other: bytes) -> bool:
    """Tell whether two digests are of the same message."""
    return one[:_SIZE_BYTES] == other[:_SIZE_BYTES] or one[-_SIZE_BYTES:] == other[-_SIZE_BYTES:]


def _digest(value: Any) -> bytes:
    return blake2b(_canonical(value), digest_size=_SIZE_BYTES).digest()


def _lean(value: Any) -> Any:
    """Return a value without the fields that have their defaults."""
    cls: type[Any] = value.__class__
    if cls in _ATOMS:
        return value
    if attrs.has(cls):
        fields: dict[str, Any] = {}
        for name, default in _fields(cls):
            part = getattr(value, name)
            if part.__class__ is not default.__class__ or part != default:
                fields[name] = _lean(part)
        return fields
    if isinstance(value, (list, tuple)):
        return [_lean(part) for part in cast("tuple[Any, ...]", value)]
    if isinstance(value, Mapping):
        return {key: _lean(part) for key, part in cast("Mapping[Any, Any]", value).items()}  # type: ignore[redundant-cast]  # not for pyright
    return value


@cache
def _fields(cls: type) -> tuple[tuple[str, Any], ...]:
    """Return the fields of a class that go over the wire, each with its default; `NOTHING` where it has none."""
    return tuple((field.name, _default(field)) for field in fields_of(cls) if not field.name.startswith("_"))


def _default(field: attrs.Attribute[Any]) -> Any:
    default: Any = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class, whatever its stub says
        return attrs.NOTHING if default.takes_self else default.factory()
    return default


@cache
def _has_no_defaults(cls: type) -> bool:
    """Tell whether no field of a message, nor of its parts, has a default: then there is nothing to leave out."""
    seen = set[Any]()

    def has(kind: Any) -> bool:
        if kind in seen:
            return False
        seen.add(kind)
        if isinstance(kind, type) and attrs.has(kind):
            if any(default is not attrs.NOTHING for _, default in _fields(kind)):
                return True
            try:
                hints = get_type_hints(kind)
            except (NameError, TypeError, AttributeError):
                return True  # nobody knows what is in there
            return any(has(hints.get(name)) for name, _ in _fields(kind))
        return any(has(part) for part in get_args(kind))

    return not has(cls)
