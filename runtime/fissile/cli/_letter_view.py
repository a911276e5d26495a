"""How dead letters are shown: grouped, one a line, or one with everything that is known of it. Secrets are masked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, cast, get_args, get_type_hints

import attrs
import msgspec

from fissile._check import Catalog
from fissile._delivery.dead_letters import STATES, DeadLetter
from fissile._delivery.letter_check import LetterCheck
from fissile._messages import fields_of
from fissile._settings import MASK, Settings
from fissile.cli._output import Output, encode_json

# Any, all through this file: a message, or a part of one, of a class that is only known at run time.

SHOWN_ID = 10
"""How many characters of an id are shown where many are; they are enough to name it."""
_REASON = 60


def check_of(catalog: Catalog, settings: Settings) -> LetterCheck:
    """Return what reads and checks bodies."""
    return LetterCheck(catalog, settings.wire, settings.max_message_bytes)


def groups(letters: Sequence[DeadLetter]) -> list[Mapping[str, object]]:
    """Return letters counted by handler, error and message."""

    def group(letter: DeadLetter) -> tuple[str, str, str, str]:
        return letter.module, letter.handler, letter.error_type, letter.name

    rows: list[Mapping[str, object]] = []
    for (module, handler, error, name), found in groupby(sorted(letters, key=group), group):
        members = list(found)
        rows.append(
            {
                "module": module,
                "handler": handler,
                "error": error,
                "type": name,
                **{state: sum(each.state == state for each in members) for state in STATES},
                "first_failed": _moment(min(each.first_failed for each in members)),
                "last_failed": _moment(max(each.last_failed for each in members)),
            }
        )
    return rows


def row(letter: DeadLetter) -> Mapping[str, object]:
    """Return a letter as a row: what it is, without the message."""
    return {
        "id": letter.id,
        "state": letter.state,
        "module": letter.module,
        "handler": letter.handler,
        "error": letter.error_type,
        "reason": letter.reason,
        "type": letter.name,
        "message_id": letter.message_id,
        "key": letter.key,
        "attempts": letter.attempts,
        "first_failed": _moment(letter.first_failed),
        "last_failed": _moment(letter.last_failed),
        "edits": letter.edits,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
    }


def short_row(letter: DeadLetter) -> Mapping[str, object]:
    """Return a row that fits beside others on a screen."""
    reason = " ".join(letter.reason.split())
    reason = reason if len(reason) <= _REASON else f"{reason[:_REASON]}…"
    return {**row(letter), "id": letter.id[:SHOWN_ID], "reason": reason}


def everything(letter: DeadLetter, check: LetterCheck) -> Mapping[str, object]:
    """Return all that is known of a letter, for JSON."""
    return {
        **row(letter),
        "group": letter.group,
        "stored": _moment(datetime.fromtimestamp(letter.timestamp_ms / 1000, UTC)),
        "is_complete": letter.is_complete,
        "headers": [[name, value.decode(errors="replace")] for name, value in letter.headers],
        "body": body_of(letter, check),
        "original": None if letter.original is None else body_of(attrs.evolve(letter, body=letter.original), check),
        "traceback": letter.traceback,
    }


def tell(letter: DeadLetter, check: LetterCheck, output: Output) -> None:
    """Write all that is known of a letter, for a person."""
    known = everything(letter, check)
    lines = {
        "id": letter.id,
        "state": letter.state,
        "handler": f"{letter.handler} (consumer group {letter.group})",
        "error": f"{letter.error_type}: {letter.reason}",
        "attempts": f"{letter.attempts}, from {known['first_failed']} to {known['last_failed']}",
        "message": letter.name,
        "message id": letter.message_id or "-",
        "key": letter.key if letter.raw_key is not None else "-",
        "origin": f"{letter.topic}, partition {letter.partition}, offset {letter.offset}, stored {known['stored']}",
    }
    if letter.edits:
        lines["edited"] = f"{letter.edits} times" if letter.edits > 1 else "once"
    for name, text in lines.items():
        output.data(f"{name:<11} {text}")
    output.data("\nheaders")
    for name, value in letter.headers:
        output.data(f"  {name}: {value.decode(errors='replace')}")
    if letter.is_complete:
        output.data(f"\nbody\n{_pretty(known['body'])}")
    if known["original"] is not None:
        output.data(f"\nbody before it was edited\n{_pretty(known['original'])}")
    output.data(f"\ntraceback\n{letter.traceback.rstrip()}")


def _pretty(body: object) -> str:
    return body if isinstance(body, str) else encode_json(body, indent=True)


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- bodies ----------------------------------------------------------------------------------------------------------


def body_of(letter: DeadLetter, check: LetterCheck) -> Any:
    """Return the body of a letter as JSON has it, in the order of the contract; text where it is no message of one."""
    message = check.message_of(letter)
    if message is not None:
        return masked(message)
    cls = check.message_class(letter.name)
    if cls is not None and has_secrets(cls):
        return f"({len(letter.body)} bytes, not shown: they are no {letter.name}, which has secret fields)"
    try:
        return msgspec.json.decode(letter.body)
    except (msgspec.DecodeError, RecursionError):
        return letter.body.decode(errors="backslashreplace")


def masked(value: Any) -> Any:
    """Return a value as JSON has it, the fields in the order of their definition, secret ones masked."""
    if attrs.has(value.__class__):
        return {
            field.name: MASK if field.metadata.get("secret") else masked(getattr(value, field.name))
            for field in fields_of(value.__class__)
        }
    if isinstance(value, (tuple, list, frozenset)):
        return [masked(each) for each in cast("Iterable[Any]", value)]
    if isinstance(value, Mapping):
        return {key: masked(each) for key, each in cast("Mapping[str, Any]", value).items()}
    return msgspec.to_builtins(value)


def unmasked(given: Any, shown: Any, real: Any) -> Any:
    """Return what was given with each mask that was left as it was shown replaced by the real value."""
    if given == MASK and shown == MASK:
        return real
    if isinstance(given, dict) and isinstance(shown, dict) and isinstance(real, dict):
        before, values = cast("dict[str, Any]", shown), cast("dict[str, Any]", real)
        return {
            name: unmasked(each, before.get(name), values.get(name)) if name in values else each
            for name, each in cast("dict[str, Any]", given).items()
        }
    if isinstance(given, list) and isinstance(shown, list) and isinstance(real, list):
        items, masks, parts = cast("Sequence[Any]", given), cast("Sequence[Any]", shown), cast("Sequence[Any]", real)
        if len(items) == len(parts):
            return [unmasked(*each) for each in zip(items, masks, parts, strict=True)]
    return cast("Any", given)


def has_secrets(annotation: Any) -> bool:
    """Tell whether a type has fields that are secret, however deep."""
    return _has_secrets(annotation, frozenset())


def _has_secrets(annotation: Any, seen: frozenset[Any]) -> bool:
    if isinstance(annotation, type) and attrs.has(annotation) and annotation not in seen:
        hints = get_type_hints(annotation)
        return any(
            field.metadata.get("secret") or _has_secrets(hints[field.name], seen | {annotation})
            for field in fields_of(annotation)
        )
    return any(_has_secrets(each, seen) for each in get_args(annotation))
