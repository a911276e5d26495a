"""Makes a message from what was typed: `--field value`, `--flag`, repeated options, a JSON object; every mistake names its field."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import attrs
import msgspec
from attrs import frozen

from fissile._messages import fields_of
from fissile._names import source_place
from fissile._signature import bare
from fissile.cli._errors import did_you_mean
from fissile.cli._exit import CommandFailed, Exit

# Any, all through this file: a type expression, or a value of a type that is only known at run time.

_BOOLEANS = ("true", "false", "1", "0")


@frozen
class Typed:
    """What was typed after the message's name.

    Attributes:
        options: The texts given for each option, in order; None for an option without a value.
        document: The fields given as JSON.
    """

    options: Mapping[str, list[str | None]]
    document: Mapping[str, Any]


def parse(tokens: Sequence[str], name: str, message: type) -> Any:
    """Make a message from the tokens that follow its name.

    Args:
        tokens: Such as `--language python --source 'print(1)'`.
        name: The message's name.
        message: Its class.

    Raises:
        CommandFailed: They are no such message; every mistake is told, each with the name of its field.
    """
    hints = get_type_hints(message, include_extras=True)
    names = [attribute.name for attribute in fields_of(message)]
    typed = _read(tokens, name, {each: hints[each] for each in names})
    problems: list[str] = []
    values: dict[str, Any] = {}
    for given in (*typed.document, *typed.options):
        if given not in names:
            meant = " ".join(did_you_mean(_option(given), [_option(each) for each in names]))
            problems.append(f"{_option(given)}: there is no such field. {meant}".rstrip())
    for attribute in fields_of(message):
        problem = _fill(attribute, hints[attribute.name], typed, values)
        if problem:
            problems.append(problem)
    if problems:
        usage = f"usage: fissile call {name} {usage_of(message, hints)}".rstrip()
        raise CommandFailed(
            f"{name} cannot be called:", *problems, usage, f"contract: {source_place(message)}", code=Exit.USAGE
        )
    try:
        return message(**values)
    except (TypeError, ValueError) as error:  # a validator of the class
        raise CommandFailed(f"{name}: {error}", f"contract: {source_place(message)}", code=Exit.USAGE) from None


def usage_of(message: type, hints: Mapping[str, Any]) -> str:
    """Return the options of a message, those that may be left out in brackets."""
    parts: list[str] = []
    for attribute in fields_of(message):
        hint = hints[attribute.name]
        text = _option(attribute.name) if _is_bool(hint) else f"{_option(attribute.name)} {_placeholder(hint)}"
        parts.append(text if attribute.default is attrs.NOTHING and not _is_bool(hint) else f"[{text}]")
    return " ".join(parts)


def shown_type(annotation: Any) -> str:
    """Return a type as people write it: `int`, `str | None`, `tuple[str, ...]`."""
    annotation = bare(annotation)
    if annotation in (None, type(None)):
        return "None"
    if get_origin(annotation) is Literal:
        return "|".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " | ".join(shown_type(member) for member in get_args(annotation))
    if get_args(annotation):
        name = getattr(get_origin(annotation), "__name__", "?")
        return f"{name}[{', '.join('...' if each is ... else shown_type(each) for each in get_args(annotation))}]"
    return getattr(annotation, "__qualname__", None) or str(annotation)


def _placeholder(annotation: Any) -> str:
    if _is_sequence(annotation):
        return f"{shown_type(get_args(bare(annotation))[0]).upper()}..."
    return shown_type(annotation).upper()


# --- reading tokens --------------------------------------------------------------------------------------------------


def _read(tokens: Sequence[str], name: str, hints: Mapping[str, Any]) -> Typed:
    options: dict[str, list[str | None]] = {}
    document: dict[str, Any] = {}
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if not token.startswith("--"):
            document.update(_object(token, name))
            continue
        key, has_value, value = token[2:].partition("=")
        key = key.replace("-", "_")
        if has_value:
            options.setdefault(key, []).append(value)
        elif key not in hints and key.removeprefix("no_") in hints and _is_bool(hints[key.removeprefix("no_")]):
            options.setdefault(key.removeprefix("no_"), []).append("false")
        elif (
            not rest or (key in hints and _is_bool(hints[key]) and rest[0] not in _BOOLEANS) or rest[0].startswith("--")
        ):
            options.setdefault(key, []).append(None)
        else:
            options.setdefault(key, []).append(rest.pop(0))
    return Typed(options, document)


def _object(text: str, name: str) -> dict[str, Any]:
    if text == "-":
        text = sys.stdin.read()
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise CommandFailed(
            f"{name}: {text!r} is neither an option nor JSON ({error}).",
            'Write --field value, or one JSON object such as \'{"field": "value"}\'; - reads it from stdin.',
            code=Exit.USAGE,
        ) from None
    if not isinstance(value, dict):
        raise CommandFailed(f"{name}: {text!r} is JSON and no object.", 'Write {"field": "value"}.', code=Exit.USAGE)
    return cast("dict[str, Any]", value)


# --- values ----------------------------------------------------------------------------------------------------------


def _fill(attribute: attrs.Attribute[Any], annotation: Any, typed: Typed, values: dict[str, Any]) -> str | None:
    """Put the value of a field where it belongs; return what is wrong instead, if something is."""
    name = attribute.name
    if name in typed.options:
        texts = typed.options[name]
        if None in texts and not _is_bool(annotation):
            return f"{_option(name)}: it needs a value, {shown_type(annotation)}."
        if len(texts) > 1 and not _is_sequence(annotation):
            return f"{_option(name)}: it was given {len(texts)} times, and is one {shown_type(annotation)}."
        given: Any = [text if text is not None else "true" for text in texts]
        try:
            values[name] = _from_texts(given, annotation)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            return (
                f"{_option(name)}: expected {shown_type(annotation)}, got {' '.join(map(repr, given))}{_detail(error)}."
            )
    elif name in typed.document:
        try:
            values[name] = msgspec.convert(typed.document[name], annotation)
        except msgspec.ValidationError as error:
            got = msgspec.json.encode(typed.document[name]).decode()
            return f"{_option(name)}: expected {shown_type(annotation)}, got {got}{_detail(error)}."
    elif attribute.default is attrs.NOTHING:
        return f"{_option(name)}: it is missing, {shown_type(annotation)}."
    return None


def _from_texts(texts: list[str], annotation: Any) -> Any:
    """Return the value that texts stand for: as they are, or as JSON where the type is no plain one."""
    if _is_sequence(annotation) and not (len(texts) == 1 and texts[0].lstrip().startswith("[")):
        return msgspec.convert(texts, annotation, strict=False)
    try:
        return msgspec.convert(texts[0], annotation, strict=False)
    except msgspec.ValidationError:
        if texts[0].lstrip()[:1] not in ("{", "["):
            raise
        return msgspec.convert(msgspec.json.decode(texts[0]), annotation)


def _is_bool(annotation: Any) -> bool:
    return bare(annotation) is bool


def _is_sequence(annotation: Any) -> bool:
    return get_origin(bare(annotation)) in (tuple, frozenset)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _detail(error: Exception) -> str:
    """Return where in a nested value the mistake is, if msgspec says so."""
    _, found, path = str(error).partition(" - at `$")
    return f" (at {path.strip('`.')}: {str(error).partition(' - at ')[0]})" if found else ""
