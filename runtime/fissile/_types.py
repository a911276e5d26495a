"""Which types a contract may use, and which values of them may be sent.

The table (docs/contracts.md has it in prose): `str`, `int` within 64 bits, finite `float`, `bool`, `None`, `bytes`, `Decimal`, `datetime`,
`date`, `time`, `timedelta`, `UUID`, enums and literals of strings or integers, `tuple`, `frozenset`, `Mapping` (to read), frozen attrs
classes, unions with at most one attrs class, and each of these under `Annotated` with `msgspec.Meta`.

What is in the table comes back equal from JSON and from MessagePack. What msgspec would lose or change in silence is outside it: private
and `init=False` fields (not encoded, or settable from the wire), exceptions (decoding into one can crash the interpreter), NaN (becomes
null in JSON), integers beyond 64 bits (pass JSON, not MessagePack), a union of two classes (cannot be told apart).
"""

from __future__ import annotations

import collections.abc
import enum
import math
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, Union, cast, get_args, get_origin
from uuid import UUID

import attrs

from fissile._messages import fields_of, hints_of

# Any, all through this file: a type expression, or a value of a type that is only known at run time.

_SCALARS = (str, int, float, bool, bytes, Decimal, datetime, date, time, timedelta, UUID, type(None))
_MUTABLE = {list: "tuple[X, ...]", dict: "Mapping[str, X]", set: "frozenset[X]", bytearray: "bytes"}
INTEGER_MIN = -(2**63)
INTEGER_MAX = 2**63 - 1

Problem = tuple[str, str]  # what is wrong, and the cure


def type_problems(annotation: Any) -> Iterator[Problem]:
    """Yield what keeps a type out of a contract, with the cure."""
    yield from _problems(annotation, "", frozenset())


def class_problems(cls: type) -> Iterator[Problem]:
    """Yield what keeps a message, a declared error or a nested class out of a contract, with the cure."""
    yield from _class_problems(cls, cls.__name__, frozenset(), is_error=issubclass(cls, BaseException))


def _problems(annotation: Any, path: str, seen: frozenset[type]) -> Iterator[Problem]:
    annotation = _bare(annotation)
    origin = get_origin(annotation)
    where = f"{path}: " if path else ""
    if annotation is None or annotation in _SCALARS:
        return
    if origin in (Union, types.UnionType):
        yield from _union_problems(annotation, path, seen)
    elif origin is Literal:
        if not all(
            (isinstance(value, (str, int)) and not isinstance(value, bool)) or value is None
            for value in get_args(annotation)
        ):
            yield f"{where}a literal of other values than strings and integers.", "Use strings or integers."
    elif origin is tuple:
        for argument in get_args(annotation):
            if argument is not Ellipsis:
                yield from _problems(argument, path, seen)
    elif origin is frozenset:
        yield from _problems(get_args(annotation)[0], path, seen)
    elif origin is collections.abc.Mapping:
        key, value = get_args(annotation)
        if _bare(key) is not str:
            yield f"{where}a mapping whose keys are not strings.", "Use Mapping[str, X]."
        yield from _problems(value, path, seen)
    elif (origin or annotation) in _MUTABLE:
        name = (origin or annotation).__name__
        yield f"{where}the type {name} is mutable.", f"Use {_MUTABLE[origin or annotation]}."
    elif isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        if not all(type(member.value) in (str, int) for member in annotation):
            yield (
                f"{where}the enum {annotation.__name__} has values that are neither strings nor integers.",
                "Use strings.",
            )
    elif isinstance(annotation, type) and attrs.has(annotation):
        yield from _class_problems(annotation, path or annotation.__name__, seen, is_error=False)
    elif isinstance(annotation, type) and issubclass(annotation, BaseException):
        yield f"{where}{annotation.__name__} is an exception.", "Use a frozen attrs class with the same fields."
    else:
        name = _name_of(annotation)
        yield f"{where}the type {name} cannot be part of a contract.", "Use a type of the table in docs/contracts.md."


def _union_problems(annotation: Any, path: str, seen: frozenset[type]) -> Iterator[Problem]:
    members = [_bare(member) for member in get_args(annotation)]
    classes = [member for member in members if isinstance(member, type) and attrs.has(member)]
    if len(classes) > 1:
        names = " and ".join(cls.__name__ for cls in classes)
        where = f"{path}: " if path else ""
        yield f"{where}a union of {names} cannot be told apart on the wire.", "Use one class with optional fields."
    for member in members:
        yield from _problems(member, path, seen)


def _class_problems(cls: type, path: str, seen: frozenset[type], *, is_error: bool) -> Iterator[Problem]:
    if cls in seen:
        return
    if not attrs.has(cls) or "__attrs_attrs__" not in cls.__dict__:
        yield f"{path}: {cls.__name__} is no attrs class.", "Put @frozen (from attrs) above it."
        return
    if not is_error and issubclass(cls, BaseException):
        yield f"{path}: {cls.__name__} is an exception.", "Use a frozen attrs class with the same fields."
        return
    if not attrs.inspect(cls).is_frozen:
        yield f"{path}: {cls.__name__} can be changed after it was made.", "Use @frozen instead of @define."
    if getattr(cls, "__parameters__", ()):
        yield f"{path}: {cls.__name__} is generic.", "Use a class with concrete fields."
        return
    try:
        hints = hints_of(cls)
    except (NameError, TypeError) as error:
        yield (
            f"{path}: its annotations cannot be read ({error}).",
            "Define the names they use at the level of the file.",
        )
        return
    for attribute in fields_of(cls):
        name = f"{path}.{attribute.name}"
        if attribute.name.startswith("_"):
            yield f"{name}: a private field is not sent.", "Rename it without the underscore."
        elif not attribute.init:
            yield f"{name}: a field with init=False could be set from the wire.", "Make it a property."
        elif attribute.alias not in (None, attribute.name):
            yield f"{name}: a field with an alias is read under another name than it is sent.", "Remove the alias."
        elif attribute.name not in hints:
            yield f"{name}: it has no type.", "Annotate it."
        else:
            yield from _problems(hints[attribute.name], name, seen | {cls})


def _name_of(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)


def _bare(annotation: Any) -> Any:
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, NewType):
            annotation = annotation.__supertype__
        else:
            return annotation


# --- values ----------------------------------------------------------------------------------------------------------

Check = Callable[[Any], str | None]
"""Returns what is wrong with a value, or None."""


def value_check(annotation: Any) -> Check | None:
    """Build the check of the values that a decoder cannot make: NaN, infinities, integers beyond 64 bits.

    Returns:
        The check, or None where the type has no number in it, which costs nothing.
    """
    return _value_check(annotation, {})


def _value_check(annotation: Any, known: dict[type, Check | None]) -> Check | None:
    annotation = _bare(annotation)
    origin = get_origin(annotation)
    if annotation is int:
        return _check_integer
    if annotation is float:
        return _check_float
    if annotation in (datetime, time):
        return _check_offset
    if origin in (Union, types.UnionType):
        # A value carries its own type, so the checks of all members can be made in a row: each passes over what is not its own.
        return _all([_value_check(member, known) for member in get_args(annotation)])
    if origin in (tuple, frozenset):
        inner = _all([_value_check(member, known) for member in get_args(annotation) if member is not Ellipsis])
        return None if inner is None else _each(inner, (tuple, frozenset))
    if origin is collections.abc.Mapping:
        inner = _value_check(get_args(annotation)[1], known)
        return None if inner is None else _each_value(inner)
    if isinstance(annotation, type) and attrs.has(annotation):
        if annotation not in known:
            known[annotation] = None  # a recursive class is checked at its outer levels; the decoder sees to the rest
            known[annotation] = _class_check(annotation, known)
        return known[annotation]
    return None


def _check_integer(value: Any) -> str | None:
    if value.__class__ is int and not INTEGER_MIN <= value <= INTEGER_MAX:
        return f"{value} is beyond 64 bits"
    return None


def _check_offset(value: Any) -> str | None:
    if (
        isinstance(value, (datetime, time))
        and (offset := value.utcoffset()) is not None
        and offset % timedelta(minutes=1)
    ):
        return f"{value}: an offset from UTC that is no whole number of minutes cannot be written in JSON"
    return None


def _check_float(value: Any) -> str | None:
    if value.__class__ is float and not math.isfinite(value):
        return f"{value} cannot be sent; use None for 'no number'"
    return None


def _all(checks: list[Check | None]) -> Check | None:
    found = list(dict.fromkeys(check for check in checks if check is not None))
    if not found:
        return None
    if len(found) == 1:
        return found[0]

    def check(value: Any) -> str | None:
        return next((problem for part in found if (problem := part(value)) is not None), None)

    return check


def _each(inner: Check, kinds: tuple[type, ...]) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, kinds):
            return None
        return next((problem for item in cast("Iterable[Any]", value) if (problem := inner(item)) is not None), None)

    return check


def _each_value(inner: Check) -> Check:
    def check(value: Any) -> str | None:
        if not isinstance(value, collections.abc.Mapping):
            return None
        return next(
            (problem for item in cast("Mapping[str, Any]", value).values() if (problem := inner(item)) is not None),
            None,
        )

    return check


def _class_check(cls: type, known: dict[type, Check | None]) -> Check | None:
    hints = hints_of(cls)
    parts = [(field.name, _value_check(hints[field.name], known)) for field in fields_of(cls)]
    checks = [(name, check) for name, check in parts if check is not None]
    if not checks:
        return None
    # The function is put together as text, as attrs does it for `__init__`: a loop over the fields takes three times as long, and this runs
    # for every message and reply with a number in it. Each field's check is called only where its guard says that there may be a problem.
    lines = ["def check_fields(value):", "    if value.__class__ is cls:"]
    namespace: dict[str, Any] = {"cls": cls, "MIN": INTEGER_MIN, "MAX": INTEGER_MAX}
    for number, (name, check) in enumerate(checks):
        namespace[f"check_{number}"] = check
        lines += [
            f"        field = value.{name}",
            f"        if {_GUARDS.get(check, 'True')} and (problem := check_{number}(field)) is not None:",
            f"            return '{name}: ' + problem",
        ]
    exec("\n".join(lines), namespace)  # noqa: S102 -- the only text from outside are names of fields
    return cast("Check", namespace["check_fields"])


_GUARDS: dict[Check, str] = {
    _check_integer: "field.__class__ is int and not MIN <= field <= MAX",
    _check_float: "field.__class__ is float and field - field != 0.0",  # the difference is NaN for NaN and for infinity
}
"""For the checks of single numbers: what is true of a value that is to be checked."""
