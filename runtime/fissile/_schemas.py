"""JSON Schema of a contract's types, as msgspec makes it, with what msgspec cannot know of attrs classes.

For each class a `msgspec.Struct` with the same fields is made, whose name is that of the component, and whose types say what is read and
written on the wire: the bounds of integers, how decimals and durations are written, which dates need an offset. Defaults and descriptions are
put in afterwards.
"""

from __future__ import annotations

import collections.abc
import enum
import sys
import types
from collections.abc import Iterable, Sequence
from datetime import datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, ForwardRef, Literal, NewType, Union, cast, get_args, get_origin

import attrs
import msgspec
from attrs import frozen
from msgspec import Meta

from fissile._contract import Contract
from fissile._docstrings import prose_of
from fissile._messages import fields_of, hints_of
from fissile._types import INTEGER_MAX as INTEGER_MAX
from fissile._types import INTEGER_MIN as INTEGER_MIN

# Any, all through this file: a type expression, or JSON.

Json = dict[str, Any]

REF = "#/components/schemas/{name}"

_OFFSET = r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
_YEAR = r"([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
_LEAP = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)"
_DAYS = r"((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"
_DAY = rf"({_YEAR}-{_DAYS}|{_LEAP}-02-29)"
_MOMENT = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?"
_SECONDS = r"[0-9]{1,8}(\.[0-9]{1,6})?S"
_MINUTES = rf"([0-9]{{1,8}}M({_SECONDS})?|{_SECONDS})"
_HOURS = rf"([0-9]{{1,8}}H{_MINUTES}?|{_MINUTES})"
_DURATION = rf"^-?P([0-9]{{1,9}}D(T{_HOURS})?|T{_HOURS})$"
_DECIMAL = r"^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,4})?$"
_BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"

_NAIVE = f"^{_DAY}T{_MOMENT}$"
_TIMES = {None: f"^{_MOMENT}{_OFFSET}?$", True: f"^{_MOMENT}{_OFFSET}$", False: f"^{_MOMENT}$"}

PATTERNS: dict[str, tuple[str, str]] = {
    _DURATION: ("ISO 8601 duration", "PT30S"),
    _DECIMAL: ("decimal", "9.90"),
    _BASE64: ("base64", "aGVsbG8="),
    _NAIVE: ("date and time without an offset", "2026-01-31T12:00:00"),
    _TIMES[None]: ("time", "12:00:00Z"),
    _TIMES[True]: ("time with an offset", "12:00:00Z"),
    _TIMES[False]: ("time without an offset", "12:00:00"),
}
"""What a pattern of ours is called, and an example: people need not read it."""


@frozen
class Mode:
    """Who reads the schema.

    Attributes:
        is_closed: Whether unknown fields are refused.
        is_complete: Whether every field is there; otherwise those with a default may be left out.
    """

    is_closed: bool = False
    is_complete: bool = False


INPUT = Mode(is_closed=True)
"""What the gateway takes."""
REPLY = Mode(is_complete=True)
"""What the gateway answers; a later version may have more fields."""
WIRE = Mode()
"""What stands in a log: fields with a default may be left out, unknown ones are passed over."""


class Names:
    """Names classes in documents: `orders.Receipt` for a class of the contract `orders`, and the class's name for others.

    Args:
        contracts: The contracts of the application.
    """

    def __init__(self, contracts: Iterable[Contract]) -> None:
        self._files: dict[str, str] = {}
        self._owners: dict[type, str] = {}
        self._taken: dict[str, type] = {}
        for contract in contracts:
            if contract.has_file_of_its_own:
                self._files[contract.import_name] = contract.name
            for cls in (*contract.commands, *contract.queries, *contract.events, *contract.errors):
                self._owners[cls] = contract.name

    def of(self, cls: type) -> str:
        """Return the name of a class; no two classes have the same."""
        owner = self._owners.get(cls) or self._files.get(cls.__module__)
        name = f"{owner}.{cls.__name__}" if owner else cls.__name__
        if self._taken.setdefault(name, cls) is not cls:
            name = f"{cls.__module__}.{cls.__qualname__}".replace("<", "").replace(">", "")
        return name


class Shapes:
    """Makes schemas and collects the components that they refer to.

    Args:
        names: Names the components.
        mode: Who reads them.
        ref: How a component is referred to.
        is_draft_07: Whether tuples of fixed length are written as in the older draft, which AsyncAPI reads.
        beside: Shapes that are in the same document. A class that is in both is called `<name>-Input` here.

    Attributes:
        components: The schemas of classes by name.
        classes: The classes whose schemas were made.
    """

    def __init__(
        self, names: Names, mode: Mode, *, is_draft_07: bool = False, ref: str = REF, beside: Shapes | None = None
    ) -> None:
        self.components: dict[str, Json] = {}
        self.classes: set[type] = set()
        self._names = names
        self._mode = mode
        self._ref = ref
        self._beside = beside
        self._is_draft_07 = is_draft_07
        self._structs: dict[type, Any] = {}
        self._open: set[type] = set()

    def of(self, annotation: Any) -> Json:
        """Return the schema of a type; its classes become components."""
        (schema,), components = msgspec.json.schema_components((self._twin(annotation),), ref_template=self._ref)
        made = {self.name_of(cls): cls for cls in self._structs}
        for name, component in components.items():
            if name not in self.components:
                self.components[name] = self._finish(made[name], component)
                if self._is_draft_07:
                    self.components[name] = _draft_07(self.components[name])
        return _draft_07(schema) if self._is_draft_07 else schema

    def find(self, annotation: Any) -> None:
        """Note the classes in a type, so that shapes beside these know of them."""
        self._twin(annotation)

    def fields_of(self, cls: type) -> tuple[dict[str, Json], list[str]]:
        """Return the schemas of the fields of a class, and which have to be there; the class itself becomes no component by that."""
        name = self.name_of(cls)
        had = self.components.get(name)
        self.of(cls)
        component = had or self.components.pop(name)
        return component["properties"], component.get("required", [])

    def name_of(self, cls: type) -> str:
        """Return how the schema of a class is called."""
        name = self._names.of(cls)
        return f"{name}-Input" if self._beside is not None and cls in self._beside.classes else name

    def _finish(self, cls: type, component: Json) -> Json:
        prose = prose_of(cls)
        properties: dict[str, Json] = component["properties"]
        required: list[str] = []
        for field in fields_of(cls):
            schema = properties[field.name]
            if field.name in prose.fields:
                schema.setdefault("description", prose.fields[field.name])
            if field.default is attrs.NOTHING or self._mode.is_complete:
                required.append(field.name)
            elif (default := default_of(field)) is not attrs.NOTHING:
                schema["default"] = default
        finished: Json = {"title": cls.__name__}
        if prose.text:
            finished["description"] = prose.text
        finished |= {"type": "object", "properties": properties}
        if required:
            finished["required"] = required
        if self._mode.is_closed:
            finished["additionalProperties"] = False
        return finished

    # --- types -------------------------------------------------------------------------------------------------------

    def _twin(self, annotation: Any, metas: tuple[Any, ...] = ()) -> Any:
        """Return the type whose schema msgspec is asked for."""
        origin = get_origin(annotation)
        if origin is Annotated:
            inner, *own = get_args(annotation)
            own = [meta for meta in own if isinstance(meta, Meta)]
            return _annotated(self._twin(inner, (*own, *metas)), own)
        if isinstance(annotation, NewType):
            return self._twin(annotation.__supertype__, metas)
        if origin in (Union, types.UnionType):
            return Union[tuple(self._twin(member, metas) for member in get_args(annotation))]  # noqa: UP007 -- made here
        if origin is tuple:
            members = tuple(Ellipsis if member is Ellipsis else self._twin(member) for member in get_args(annotation))
            return tuple[members]  # type: ignore[valid-type]  # made at run time
        if origin is Literal:
            return _values(get_args(annotation))
        if origin is frozenset:
            # As a list: a repeated member is no mistake of who sends it.
            return list[self._twin(get_args(annotation)[0])]  # type: ignore[misc]
        if origin is collections.abc.Mapping:
            return dict[str, self._twin(get_args(annotation)[1])]  # type: ignore[misc]
        if isinstance(annotation, type):
            return self._of_type(annotation, metas)
        return annotation

    def _of_type(self, cls: type[Any], metas: tuple[Any, ...]) -> Any:
        if attrs.has(cls):
            return self._struct(cls)
        if issubclass(cls, enum.Enum):
            values = _values(tuple(member.value for member in cls))
            return Annotated[values, Meta(title=cls.__name__, description=prose_of(cls).summary or None)]
        if cls is int:
            return self._integer(metas)
        if cls is Decimal:
            text = Annotated[str, Meta(pattern=_DECIMAL, extra_json_schema={"format": "decimal"})]
            return text if self._mode.is_complete else Union[text, float]  # noqa: UP007
        if cls is timedelta:
            return Annotated[str, Meta(pattern=_DURATION)]
        if cls is bytes:
            return Annotated[cls, Meta(extra_json_schema={"pattern": _BASE64})]
        annotation: Any = cls
        return (
            Annotated[annotation, Meta(extra_json_schema=_moment(cls, metas))]
            if cls in (datetime, time)
            else annotation
        )

    def _integer(self, metas: tuple[Any, ...]) -> Any:
        annotation: Any = Annotated[int, Meta(extra_json_schema={"format": "int64"})]
        if self._mode.is_complete:
            return annotation
        if all(meta.ge is None and meta.gt is None for meta in metas):
            annotation = Annotated[annotation, Meta(ge=INTEGER_MIN)]
        if all(meta.le is None and meta.lt is None for meta in metas):
            annotation = Annotated[annotation, Meta(le=INTEGER_MAX)]
        return annotation

    def _struct(self, cls: type) -> Any:
        if cls in self._open:  # it holds itself; the name is found among the attributes of the class, set below
            return ForwardRef(_reference(cls))
        if cls not in self._structs:
            self.classes.add(cls)
            self._open.add(cls)
            hints = hints_of(cls)
            fields = [(field.name, self._twin(hints[field.name])) for field in fields_of(cls)]
            self._structs[cls] = msgspec.defstruct(self.name_of(cls), fields, module=__name__)
            self._open.discard(cls)
            if not self._open:
                for struct in self._structs.values():
                    for other, made in self._structs.items():
                        setattr(struct, _reference(other), made)
        return self._structs[cls]


def default_of(field: attrs.Attribute[Any]) -> Any:
    """Return the default of a field as JSON; `attrs.NOTHING` where it has none, or one that is made of other fields."""
    default: Any = field.default
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # to type checkers it is a function
        if default.takes_self:
            return attrs.NOTHING
        default = default.factory()
    return default if default is attrs.NOTHING else msgspec.json.decode(msgspec.json.encode(default))


def summary_of(contract: Contract) -> str:
    """Return what the file of a contract says of it."""
    return prose_of(sys.modules.get(contract.import_name)).text if contract.has_file_of_its_own else ""


def _moment(cls: type, metas: tuple[Any, ...]) -> Json:
    """Say how dates and times are written: with an offset, without, or either."""
    zoned = next((meta.tz for meta in metas if meta.tz is not None), None)
    if cls is datetime:
        return {"format": "date-time"} if zoned is not False else {"pattern": _NAIVE}
    return {"pattern": _TIMES[zoned]}


def _draft_07(schema: Any) -> Any:
    """Return a schema with tuples of fixed length as draft 7 has them."""
    if isinstance(schema, list):
        return [_draft_07(item) for item in cast("Sequence[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    written: Json = {key: _draft_07(value) for key, value in cast("Json", schema).items()}
    if isinstance(written.get("prefixItems"), list):
        written |= {"items": written.pop("prefixItems"), "additionalItems": False}
    return written


def _values(values: tuple[Any, ...]) -> Any:
    kinds = sorted({_KINDS[type(value)] for value in values})
    return Annotated[Literal[values], Meta(extra_json_schema={"type": kinds[0] if len(kinds) == 1 else kinds})]


_KINDS = {str: "string", int: "integer", type(None): "null"}


def _annotated(annotation: Any, metas: list[Any]) -> Any:
    for meta in metas:
        annotation = Annotated[annotation, meta]
    return annotation


def _reference(cls: type) -> str:
    return "_" + "".join(letter if letter.isalnum() else "_" for letter in f"{cls.__module__}_{cls.__qualname__}")
