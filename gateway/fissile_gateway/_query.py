"""Strict decoding of a query string into a query: `?limit=10&after=abc`.

Each parameter is a field. A tuple or frozenset is a parameter that is given several times, a tuple of fixed length, a nested class or a
mapping is JSON text. What is
text in JSON (dates, UUIDs, decimals, bytes in base64) is the same text here; numbers, `true`, `false` and `null` are written as in
JSON, unless the field takes a string: then the text is taken as it is, and no parameter at all says "none".
"""

from __future__ import annotations

import collections.abc
import enum
import math
import re
import types
from collections.abc import Callable
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar, Union, get_args, get_origin
from urllib.parse import unquote_to_bytes

import attrs
import msgspec

from fissile._messages import hints_of
from fissile_gateway._strict import InputError, InvalidInput, StrictDecoder, input_error
from fissile_gateway._twin import Convert, Misfit, Tally, Twins

T = TypeVar("T")

_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,30})")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}

Lift = Callable[[str], Any]
"""Takes a parameter's text to what stands for it in JSON; text that fits nothing stays text, and the conversion says what is wrong."""


class QueryDecoder(Generic[T]):
    """Decodes query strings into one class.

    Args:
        cls: The class of the query.
        twins: Makes the twins; shared by all decoders of an application.

    Attributes:
        fields: How each field is read.
    """

    def __init__(self, cls: type[T], twins: Twins) -> None:
        self.cls = cls
        hints = hints_of(cls)
        fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(cls)  # type: ignore[arg-type]  # a message is an attrs class
        self.fields = {field.name: Parameter(field, hints[field.name], twins) for field in fields}

    def decode(self, query_string: bytes) -> T:
        """Return the query that a query string asks.

        Raises:
            InvalidInput: A parameter is unknown, missing, given twice or does not fit its field; all such are named.
        """
        errors: list[InputError] = []
        given: dict[str, list[str]] = {}
        for name, text in parse_pairs(query_string):
            given.setdefault(name, []).append(text)
        values: dict[str, Any] = {}
        for name, texts in given.items():
            field = self.fields.get(name)
            if field is None:
                errors.append(InputError(f"$.{name}", f"there is no such parameter; there are {self._names()}"))
            elif len(texts) > 1 and not field.is_repeated:
                errors.append(InputError(f"$.{name}", f"the parameter is given {len(texts)} times"))
            else:
                try:
                    values[name] = field.value_of(texts)
                except InvalidInput as invalid:
                    errors.extend(invalid.errors)
        missing = [name for name, field in self.fields.items() if field.is_required and name not in given]
        errors.extend(InputError(f"$.{name}", "the parameter is missing") for name in missing)
        if errors:
            raise InvalidInput(*errors)
        try:
            return self.cls(**values)
        except (ValueError, TypeError) as error:  # from the class's own validators
            raise InvalidInput(InputError("$", str(error))) from None

    def _names(self) -> str:
        return ", ".join(self.fields) or "none"


class Parameter:
    """Reads one field from the texts of its parameter.

    Attributes:
        is_required: Whether it has to be given.
        is_repeated: Whether it may be given several times.
        is_text: Whether the text is taken as it is.
    """

    def __init__(self, attribute: attrs.Attribute[Any], annotation: Any, twins: Twins) -> None:
        self.name = attribute.name
        self.is_required = attribute.default is attrs.NOTHING
        self.is_repeated = False
        self.is_text = False
        self._json: StrictDecoder[Any] | None = None
        members = _members(annotation)
        if any(_is_object(member) for member in members):
            self._json = StrictDecoder(annotation, twins)
            return
        arrays = [member for member in members if get_origin(member) in (tuple, frozenset)]
        self.is_repeated = bool(arrays)
        items = [item for array in arrays for item in get_args(array) if item is not Ellipsis]
        if any(_is_fixed(array) for array in arrays) or any(
            _is_object(inner) or get_origin(inner) in (tuple, frozenset) for item in items for inner in _members(item)
        ):
            self._json, self.is_repeated = StrictDecoder(annotation, twins), False
            return
        taken = [inner for item in items for inner in _members(item)] if arrays else members
        self.is_text = str in taken
        self._lift = _lift(taken)
        self._twin, convert = twins.of(annotation)
        self._convert: Convert = convert or (lambda value, _: value)

    @property
    def is_json(self) -> bool:
        """Whether the text is a JSON document."""
        return self._json is not None

    def value_of(self, texts: list[str]) -> Any:
        """Return the value of the field.

        Args:
            texts: What its parameter was given as, at least once.

        Raises:
            InvalidInput: That does not fit the field.
        """
        if self._json is not None:
            try:
                return self._json.decode(texts[0].encode())
            except InvalidInput as invalid:
                raise InvalidInput(
                    *(InputError(f"$.{self.name}{error.path[1:]}", error.message) for error in invalid.errors)
                ) from None
        lifted = [self._lift(text) for text in texts]
        try:
            twin = msgspec.convert(lifted if self.is_repeated else lifted[0], self._twin)
            return self._convert(twin, Tally())
        except msgspec.ValidationError as error:
            wrong = input_error(error, f"$.{self.name}")
        except Misfit as misfit:
            wrong = InputError(f"$.{self.name}{misfit.path}", misfit.message)
        raise InvalidInput(wrong)


def parse_pairs(query_string: bytes) -> list[tuple[str, str]]:
    """Return the names and values of a query string.

    Raises:
        InvalidInput: A pair has no `=`, or its escapes are broken or not UTF-8.
    """
    pairs: list[tuple[str, str]] = []
    for pair in query_string.split(b"&") if query_string else ():
        name, equals, value = pair.partition(b"=")
        shown = name.decode("ascii", "backslashreplace")
        if not equals:
            raise InvalidInput(InputError("$", f"the parameter {shown!r} has no value; write {shown}=..."))
        if b"%" in pair and re.search(rb"%(?![0-9A-Fa-f]{2})", pair):
            raise InvalidInput(InputError(f"$.{shown}", "a % is not followed by two hexadecimal digits"))
        try:
            pairs.append((_unquote(name), _unquote(value)))
        except UnicodeDecodeError:
            raise InvalidInput(InputError(f"$.{shown}", "the parameter is not UTF-8")) from None
    return pairs


def _unquote(part: bytes) -> str:
    return unquote_to_bytes(part.replace(b"+", b" ")).decode()


def _lift(members: list[Any]) -> Lift:
    if str in members:
        return lambda text: text
    kinds = {_wire_kind(member) for member in members} - {None}
    words = {word: value for word, value in _WORDS.items() if type(value) in kinds}

    def lift(text: str) -> Any:
        if text in words:
            return words[text]
        if int in kinds and _INTEGER.fullmatch(text):
            return int(text)
        if float in kinds and _NUMBER.fullmatch(text):
            number = float(text)
            return number if math.isfinite(number) else text
        return text

    return lift


def _wire_kind(member: Any) -> Any:
    kind: Any = member
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return int if any(isinstance(item.value, int) for item in kind) else None
    return member


def _members(annotation: Any) -> list[Any]:
    """Return the types that a field takes, without their `Annotated`, a literal as its values' types."""
    while get_origin(annotation) is Annotated or isinstance(annotation, NewType):
        annotation = annotation.__supertype__ if isinstance(annotation, NewType) else get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        return [inner for member in get_args(annotation) for inner in _members(member)]
    if get_origin(annotation) is Literal:
        return [
            f"literal {type(value).__name__}" if isinstance(value, str) else type(value)
            for value in get_args(annotation)
        ]
    return [type(None)] if annotation is None else [annotation]


def _is_fixed(array: Any) -> bool:
    return get_origin(array) is tuple and get_args(array)[1:] != (Ellipsis,)


def _is_object(member: Any) -> bool:
    return get_origin(member) is collections.abc.Mapping or (isinstance(member, type) and attrs.has(member))
