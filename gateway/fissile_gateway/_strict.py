"""Strict decoding of a JSON document into a contract's type: what a client sent is taken as it is meant, or refused with its place.

The one thing that no decoder tells is a repeated key. So members are counted: a document has as many colons outside of strings as it has
members, and the decoded value as many as it has distinct ones. Colons inside of strings are looked for only where the plain count
differs, which it hardly ever does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Generic, TypeVar, cast

import msgspec

from fissile_gateway._twin import Convert, Misfit, Tally, Twins
from fissile_gateway._whole import read_whole

T = TypeVar("T")

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_PLACE = re.compile(r"(?P<what>.*?)(?: - at (?P<key>`key` in )?`(?P<path>\$.*)`)?", re.DOTALL)
_FIELD = re.compile(r"Object (?:missing required|contains unknown) field `(?P<name>.*)`", re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_DEPTH_CURE = "The document is nested too deeply."


class InputError(msgspec.Struct, frozen=True):
    """One thing that is wrong with what a client sent.

    Attributes:
        path: Its place, as a JSON path such as `$.source`.
        message: What is wrong.
    """

    path: str
    message: str


class InvalidInput(Exception):
    """Raised when what a client sent does not fit the contract.

    Attributes:
        errors: What is wrong, at least one thing.
    """

    def __init__(self, *errors: InputError) -> None:
        super().__init__("; ".join(f"{error.path}: {error.message}" for error in errors))
        self.errors = errors


class StrictDecoder(Generic[T]):
    """Decodes JSON into one type of a contract.

    Args:
        annotation: The type.
        twins: Makes the twins; shared by all decoders of an application.
    """

    def __init__(self, annotation: Any, twins: Twins) -> None:
        # Any: the type is an expression such as `Filter | None`, which no type variable can stand for.
        self.annotation = annotation
        twin, convert = twins.of(annotation)
        self._twin = twin
        self._convert: Convert = convert or (lambda value, _: value)
        self._decode = msgspec.json.Decoder(twin).decode
        self._max_depth = twins.max_depth

    def decode(self, data: bytes) -> T:
        """Return the value of a document.

        Raises:
            InvalidInput: It is not JSON, does not fit the type, or repeats a key.
        """
        tally = Tally()
        try:
            try:
                twin = self._decode(data)
            except msgspec.ValidationError as error:
                twin = self._decode_whole(data, error)
            value = self._convert(twin, tally)
        except (msgspec.MsgspecError, ValueError, RecursionError, Misfit) as error:
            raise InvalidInput(*self._explain(data, error)) from None
        # What fits no type was refused above, with its place. Counted first: a document with few brackets is never deep.
        if data.count(b"{") + data.count(b"[") > self._max_depth and _is_deeper(data, self._max_depth):
            raise InvalidInput(InputError("$", f"{_DEPTH_CURE[:-1]}; at most {self._max_depth} levels are allowed"))
        if data.count(b":") != tally.members and _STRING.sub(b"", data).count(b":") != tally.members:
            raise InvalidInput(*(InputError(path, "the key is given twice") for path in _repeated(data)))
        return cast("T", value)

    def _decode_whole(self, data: bytes, refused: msgspec.ValidationError) -> Any:
        """Decode a document once more, with 1 for 1.0 where an integer is wanted: to JSON both are the same number."""
        if "got `float`" not in str(refused):
            raise refused from None
        try:
            document = read_whole(data, self.annotation)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise refused from None
        return msgspec.convert(document, self._twin)

    def _explain(self, data: bytes, error: Exception) -> list[InputError]:
        if isinstance(error, Misfit):
            return [InputError(f"${error.path}", error.message)]
        if isinstance(error, RecursionError):
            return [InputError("$", _DEPTH_CURE)]
        if not isinstance(error, msgspec.ValidationError):
            return [InputError("$", _not_json(data, error))]
        return _all_errors(data, self.annotation, self._twin) or [input_error(error)]


def _is_deeper(data: bytes, limit: int) -> bool:
    depth = 0
    for match in _BRACKET.finditer(_STRING.sub(b"", data)):
        depth += 1 if match[0] in b"[{" else -1
        if depth > limit:
            return True
    return False


def input_error(error: msgspec.ValidationError, root: str = "$") -> InputError:
    """Return the place and the message of a decoder's error.

    Args:
        error: The error.
        root: What stands for the whole value in paths.
    """
    match = _PLACE.fullmatch(str(error))
    what, path = (match["what"], match["path"] or "$") if match else (str(error), "$")
    if match and match["key"]:
        what = f"a key: {what}"
    field = _FIELD.fullmatch(what)
    if field:
        path = f"{path}.{field['name']}"
        what = "there is no such field" if "unknown" in what.partition("`")[0] else "the field is missing"
    return InputError(root + path[1:], what[:1].lower() + what[1:])


def _all_errors(data: bytes, annotation: Any, twin: Any) -> list[InputError]:
    """Find what is wrong with each field of an object; the decoder stops at the first."""
    if not (isinstance(twin, type) and issubclass(twin, msgspec.Struct)):
        return []
    try:
        document = read_whole(data, annotation)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return []
    if not isinstance(document, dict):
        return []
    members = cast("dict[str, Any]", document)
    fields = {field.name: field for field in msgspec.structs.fields(twin)}
    errors = [InputError(f"$.{name}", "there is no such field") for name in members if name not in fields]
    for name, field in fields.items():
        if name in members:
            try:
                msgspec.convert(members[name], field.type)
            except msgspec.ValidationError as error:
                errors.append(input_error(error, f"$.{name}"))
            except RecursionError:
                errors.append(InputError(f"$.{name}", _DEPTH_CURE))
        elif field.required:
            errors.append(InputError(f"$.{name}", "the field is missing"))
    return errors


def _not_json(data: bytes, error: Exception) -> str:
    if not data.strip():
        return "the body is empty; send a JSON object, such as {}"
    try:
        text = data.decode()
    except UnicodeDecodeError as wrong:
        return f"the body is not UTF-8 (byte {wrong.start})"
    try:
        json.loads(text)
    except json.JSONDecodeError as wrong:
        return f"the body is not JSON: {wrong.msg.lower()} (line {wrong.lineno}, column {wrong.colno})"
    except (ValueError, RecursionError):
        return f"the body is not JSON: {error}"
    # Python's parser takes what JSON has not: numbers that are none, and halves of surrogate pairs.
    return "the body is not JSON: NaN, Infinity and unpaired surrogates cannot be sent"


class _Members(list[tuple[str, Any]]):
    """The members of an object, repeated ones too."""


def _repeated(data: bytes) -> Iterator[str]:
    waiting: list[tuple[str, Any]] = [("$", json.loads(data, object_pairs_hook=_Members))]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, _Members):
            seen: set[str] = set()
            for key, inner in value:
                inner_path = f"{path}.{key}"
                if key in seen:
                    yield inner_path
                seen.add(key)
                waiting.append((inner_path, inner))
        elif isinstance(value, list):
            waiting += [(f"{path}[{index}]", inner) for index, inner in enumerate(cast("tuple[Any, ...]", value))]
