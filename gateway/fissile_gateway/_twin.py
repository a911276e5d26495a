"""Strict twins: what decodes a contract's types from JSON without overlooking anything.

msgspec decodes attrs classes directly, but passes over fields that it does not know. So for each class a twin is made once, a
`msgspec.Struct` that forbids unknown fields and remembers which fields were given; it decodes four times as fast as the attrs class, which pays
for making the message from it. Integers get the bounds of 64 bits, so that the error names the place.
"""

from __future__ import annotations

import collections.abc
import types
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from typing import Annotated, Any, ForwardRef, NewType, Union, get_args, get_origin

import attrs
import msgspec
from msgspec import UNSET, Meta, UnsetType

from fissile._messages import hints_of

# Any, all through this file: a type expression, or a value of a type that is only known at run time.

INTEGER_MIN = -(2**63)
INTEGER_MAX = 2**63 - 1


class Tally:
    """Counts the members of all objects in a decoded document.

    Attributes:
        members: How many there are.
    """

    __slots__ = ("members",)

    def __init__(self) -> None:
        self.members = 0


class Misfit(Exception):
    """Raised when a decoded value is refused after all: by a class's own validator, or as a decimal that is no number.

    Attributes:
        path: The way to it, as steps of a JSON path, such as `.source` or `[3]`.
        message: What is wrong.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


Convert = Callable[[Any, Tally], Any]
"""Makes the contract's value from the twin's, counting members; None stands for a value that needs neither."""


class Twins:
    """Makes twins, one per class.

    Attributes:
        max_depth: How deeply a document may be nested.

    Args:
        max_depth: The same.
    """

    def __init__(self, max_depth: int = 64) -> None:
        self.max_depth = max_depth
        self._twins: dict[type, type[msgspec.Struct]] = {}
        self._converts: dict[type, Convert] = {}
        self._open: set[type] = set()
        self._referred: set[type] = set()

    def of(self, annotation: Any, metas: tuple[Any, ...] = ()) -> tuple[Any, Convert | None]:
        """Return the twin of a type, and what converts the twin's values.

        Args:
            annotation: A type that a contract may use.
            metas: The `msgspec.Meta` around it.
        """
        origin = get_origin(annotation)
        if origin is Annotated:
            inner, *own = get_args(annotation)
            twin, convert = self.of(inner, (*own, *metas))
            return _annotated(twin, own), convert
        if isinstance(annotation, NewType):
            return self.of(annotation.__supertype__, metas)
        if annotation is int:
            return _bounded(metas), None
        if annotation is Decimal:
            return annotation, _finite
        if origin in (Union, types.UnionType):
            return self._union(annotation, metas)
        if origin is tuple:
            return self._tuple(annotation)
        if origin is frozenset:
            twin, convert = self.of(get_args(annotation)[0])
            # A twin cannot be hashed, and equal members must not be lost before they are counted.
            return _variadic(twin), _items(convert, frozenset)
        if origin is collections.abc.Mapping:
            twin, convert = self.of(get_args(annotation)[1])
            return dict[str, twin], _mapping(convert)  # type: ignore[valid-type]  # made at run time
        if isinstance(annotation, type) and attrs.has(annotation):
            return self._class(annotation)
        return annotation, None

    def _union(self, annotation: Any, metas: tuple[Any, ...]) -> tuple[Any, Convert | None]:
        parts = [(member, *self.of(member, metas)) for member in get_args(annotation)]
        converts = [(self._kind_of(member), convert) for member, _, convert in parts if convert is not None]
        twin: Any = Union[tuple(twin for _, twin, _ in parts)]  # noqa: UP007
        if not converts:
            return twin, None

        def choose(value: Any, tally: Tally) -> Any:
            for kind, convert in converts:
                if isinstance(value, kind()):
                    return convert(value, tally)
            return value

        return twin, choose

    def _kind_of(self, member: Any) -> Callable[[], type]:
        """Tell the class of a member's decoded value, later: the twin of a class that holds itself is not there yet."""
        member = _bare(member)
        origin = get_origin(member)
        if origin is collections.abc.Mapping:
            return lambda: dict
        if origin in (tuple, frozenset):
            return lambda: tuple
        if member is Decimal:
            return lambda: Decimal
        return lambda: self._twins[member]

    def _tuple(self, annotation: Any) -> tuple[Any, Convert | None]:
        arguments = get_args(annotation)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            twin, convert = self.of(arguments[0])
            return _variadic(twin), None if convert is None else _items(convert, tuple)
        parts = [self.of(argument) for argument in arguments]
        converts = [convert for _, convert in parts]
        twin = tuple[tuple(twin for twin, _ in parts)]  # type: ignore[misc]  # made at run time
        return twin, _positions(converts) if any(converts) else None

    def _class(self, cls: type) -> tuple[Any, Convert]:
        if cls in self._open:  # it holds itself, so its name is resolved when the decoder is made
            self._referred.add(cls)
            return ForwardRef(_reference(cls)), lambda value, tally: self._converts[cls](value, tally)
        if cls not in self._twins:
            self._open.add(cls)
            self._make(cls)
            self._open.discard(cls)
            if not self._open:
                for referred in self._referred:
                    for twin in self._twins.values():
                        setattr(twin, _reference(referred), self._twins[referred])
        return self._twins[cls], self._converts[cls]

    def _make(self, cls: type) -> None:
        hints = hints_of(cls)
        fields: list[Any] = []
        parts: list[tuple[str, Convert | None]] = []
        for attribute in attrs.fields(cls):
            twin, convert = self.of(hints[attribute.name])
            parts.append((attribute.name, convert))
            if attribute.default is attrs.NOTHING:
                fields.append((attribute.name, twin))
            else:
                fields.append((attribute.name, Union[twin, UnsetType], UNSET))  # noqa: UP007 -- the same
        self._twins[cls] = msgspec.defstruct(cls.__name__, fields, forbid_unknown_fields=True, kw_only=True)
        self._converts[cls] = make_class(cls, parts)


def make_class(cls: type, parts: list[tuple[str, Convert | None]]) -> Convert:
    """Return what makes an attrs class from its twin."""

    def convert(twin: Any, tally: Tally) -> Any:
        values: dict[str, Any] = {}
        for name, inner in parts:
            value = getattr(twin, name)
            if value is UNSET:
                continue
            if inner is None:
                values[name] = value
                continue
            try:
                values[name] = inner(value, tally)
            except Misfit as misfit:
                misfit.path = f".{name}{misfit.path}"
                raise
        tally.members += len(values)
        try:
            return cls(**values)
        except (ValueError, TypeError) as error:  # from the class's own validators
            raise Misfit("", f"{error}") from None

    return convert


def _items(convert: Convert | None, kind: type) -> Convert:
    def convert_items(values: tuple[Any, ...], tally: Tally) -> Any:
        if convert is None:
            return kind(values)
        steps = enumerate(values)
        return kind(_each(steps, convert, tally))

    return convert_items


def _mapping(convert: Convert | None) -> Convert:
    def convert_mapping(values: dict[str, Any], tally: Tally) -> dict[str, Any]:
        tally.members += len(values)
        if convert is None:
            return values
        return dict(
            zip(values, _each(((repr(key), value) for key, value in values.items()), convert, tally), strict=True)
        )

    return convert_mapping


def _each(values: Iterable[tuple[object, Any]], convert: Convert, tally: Tally) -> Iterator[Any]:
    for step, value in values:
        try:
            yield convert(value, tally)
        except Misfit as misfit:
            misfit.path = f"[{step}]{misfit.path}"
            raise


def _positions(converts: list[Convert | None]) -> Convert:
    def convert_positions(values: tuple[Any, ...], tally: Tally) -> tuple[Any, ...]:
        converted: list[Any] = []
        for index, (value, convert) in enumerate(zip(values, converts, strict=True)):
            try:
                converted.append(value if convert is None else convert(value, tally))
            except Misfit as misfit:
                misfit.path = f"[{index}]{misfit.path}"
                raise
        return tuple(converted)

    return convert_positions


def _finite(value: Any, tally: Tally) -> Any:
    del tally
    if isinstance(value, Decimal) and not value.is_finite():
        raise Misfit("", f"{value} is no number; use null for 'no number'")
    return value


def _bounded(metas: tuple[Any, ...]) -> Any:
    given = [meta for meta in metas if isinstance(meta, Meta)]
    annotation: Any = int
    if all(meta.ge is None and meta.gt is None for meta in given):
        annotation = Annotated[annotation, Meta(ge=INTEGER_MIN)]
    if all(meta.le is None and meta.lt is None for meta in given):
        annotation = Annotated[annotation, Meta(le=INTEGER_MAX)]
    return annotation


def _variadic(item: Any) -> Any:
    return tuple[item, ...]


def _annotated(annotation: Any, extras: list[Any]) -> Any:
    for extra in extras:
        annotation = Annotated[annotation, extra]
    return annotation


def _bare(annotation: Any) -> Any:
    while get_origin(annotation) is Annotated or isinstance(annotation, NewType):
        annotation = annotation.__supertype__ if isinstance(annotation, NewType) else get_args(annotation)[0]
    return annotation


def _reference(cls: type) -> str:
    return f"_{cls.__module__}_{cls.__qualname__}".replace(".", "_")
