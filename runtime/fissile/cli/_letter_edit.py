"""The new body of a dead letter: as JSON, field by field, or from a person's editor."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast, get_type_hints

import attrs
import msgspec

from fissile._codec import Codec
from fissile._delivery.dead_letters import DeadLetter
from fissile._delivery.letter_check import LetterCheck, reason_of
from fissile._errors import InvalidMessage, MessageTooLarge, UnknownMessage
from fissile.cli._arguments import _from_texts, shown_type
from fissile.cli._call import plain
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._letter_view import masked, unmasked
from fissile.cli._output import encode_json

# Any, all through this file: a message as JSON has it.


def new_body(letter: DeadLetter, check: LetterCheck, body: str | None, settings: Sequence[str]) -> bytes:
    """Return the new body of a letter, in the format of the application's messages.

    Args:
        letter: The letter.
        check: Knows the contracts.
        body: JSON, `@file`, or `-` for the standard input; where neither this nor fields are given, an editor is opened.
        settings: Fields, as `name=value`.

    Raises:
        CommandFailed: It does not fit the contract; the field is named.
    """
    cls = check.message_class(letter.name)
    if cls is None:
        raise CommandFailed(
            f"The dead letter {letter.id} cannot be edited: no contract of the application has "
            f"{letter.name or 'a message without a name'}, so that nothing could be checked.",
            code=Exit.INVALID,
        )
    message = check.message_of(letter)
    real: Any = plain(message) if message is not None else _as_it_is(letter)
    shown: Any = masked(message) if message is not None else real
    if body is not None:
        given = _json(_text_of(body), letter)
    elif settings:
        given = shown
    else:
        return _from_editor(letter, check, cls, shown, real)
    if settings:
        given = _with_fields(given, settings, cls, letter)
    return _checked(unmasked(given, shown, real), letter, check, cls)


def _as_it_is(letter: DeadLetter) -> Any:
    """Return what the bytes are that are no message: JSON of another shape, or nothing that could be begun with."""
    try:
        return msgspec.json.decode(letter.body)
    except (msgspec.DecodeError, RecursionError):
        return {}


def _checked(given: Any, letter: DeadLetter, check: LetterCheck, cls: type) -> bytes:
    text_check = attrs.evolve(check, wire="json")
    try:
        encoded, _ = text_check(letter.name, msgspec.json.encode(given))
    except (InvalidMessage, UnknownMessage) as error:
        reason = error.reason if isinstance(error, InvalidMessage) else str(error)
        raise CommandFailed(
            f"The dead letter {letter.id} was not changed: the body is no {letter.name}.",
            f"{reason}.",
            code=Exit.INVALID,
        ) from None
    wire = check.wire_of(letter)
    if wire == "json":
        return encoded
    try:
        return Codec[Any](letter.name, cls, wire, check.limit_bytes).encode(msgspec.json.decode(encoded, type=cls))
    except MessageTooLarge as error:
        raise CommandFailed(str(error), code=Exit.INVALID) from None


def _text_of(body: str) -> str:
    if body == "-":
        return sys.stdin.read()
    if not body.startswith("@"):
        return body
    try:
        return Path(body[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"--body {body}: the file cannot be read: {error}.", code=Exit.USAGE) from None


def _json(text: str, letter: DeadLetter) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CommandFailed(
            f"The dead letter {letter.id} was not changed: the body is no JSON.",
            f"{reason_of(error)}.",
            code=Exit.INVALID,
        ) from None


def _with_fields(given: Any, settings: Sequence[str], cls: type, letter: DeadLetter) -> dict[str, Any]:
    """Return a body with some fields set, each from a text as its type says."""
    fields: dict[str, Any] = dict(cast("dict[str, Any]", given)) if isinstance(given, dict) else {}
    hints = get_type_hints(cls, include_extras=True)
    for setting in settings:
        name, has_value, text = setting.partition("=")
        name = name.replace("-", "_")
        if not has_value:
            raise CommandFailed(f"--set {setting}: write --set field=value.", code=Exit.USAGE)
        if name in hints:
            try:
                fields[name] = plain(_from_texts([text], hints[name]))
            except (msgspec.ValidationError, msgspec.DecodeError):
                raise CommandFailed(
                    f"The dead letter {letter.id} was not changed: the body is no {letter.name}.",
                    f"{name}: expected {shown_type(hints[name])}, got {text!r}.",
                    code=Exit.INVALID,
                ) from None
        else:
            fields[name] = text  # it is refused, with the others
    return fields


def _from_editor(letter: DeadLetter, check: LetterCheck, cls: type, shown: Any, real: Any) -> bytes:
    """Have a person edit the body; what does not fit stays in its file, so that nothing typed is lost."""
    command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not command:
        raise CommandFailed(
            "There is no editor: neither VISUAL nor EDITOR is set.",
            "Set one, or pass the body: --body @file, --body '{...}', or --set field=value.",
            code=Exit.USAGE,
        )
    handle, name = tempfile.mkstemp(prefix=f"{letter.id[:10]}-", suffix=".json", text=True)
    path = Path(name)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(f"{encode_json(shown, indent=True)}\n")
    try:
        code = subprocess.call([*shlex.split(command), name])  # noqa: S603 -- the person's own editor
    except OSError as error:
        path.unlink()
        raise CommandFailed(f"The editor {command!r} cannot be started: {error}.", code=Exit.USAGE) from None
    if code:
        path.unlink()
        raise CommandFailed(f"The editor {command!r} ended with {code}. Nothing was changed.", code=Exit.FAILED)
    try:
        body = _checked(unmasked(_json(path.read_text(encoding="utf-8"), letter), shown, real), letter, check, cls)
    except CommandFailed as failed:
        kept = f"What you wrote is in {path}; correct it and pass it on: --body @{path}"
        raise CommandFailed(failed.what, *failed.details, kept, code=failed.code) from None
    path.unlink()
    return body
