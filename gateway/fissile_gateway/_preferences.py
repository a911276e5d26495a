"""Two fields of a request: Prefer (RFC 7240), and Idempotency-Key (draft-ietf-httpapi-idempotency-key-header-07)."""

from __future__ import annotations

import re

import msgspec

from fissile_gateway._problems import Problem, ProblemError

KEY_CHARACTERS = 255
"""How long an idempotency key may be."""
_WAIT_S = 3600.0

_STRING = r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'
_BARE_ITEM = rf"(?:{_STRING}|[!#$%&'*+\-./0-9:?A-Z^_`a-z|~=@]+)"
# A string of structured fields (RFC 9651, 3.3.3), and parameters, of which the draft defines none and which are passed over.
_KEY = re.compile(rf" *({_STRING})(?: *; *[a-z*][a-z0-9_\-.*]*(?:={_BARE_ITEM})?)* *")
_PREFERENCE = re.compile(r'\s*(?P<name>[A-Za-z0-9!#$%&\'*+\-.^_`|~]+)\s*(?:=\s*(?P<value>"[^"]*"|[^\s;,"]*))?[^,]*')


class Preferences(msgspec.Struct, frozen=True):
    """What a client would like.

    Attributes:
        is_async: Whether it would rather have an answer at once than wait for the outcome.
        wait_s: How long it waits for the outcome all the same, in seconds; None if it does not say.
    """

    is_async: bool = False
    wait_s: float | None = None


def parse_prefer(field: bytes) -> Preferences:
    """Return the preferences in a field; what is unknown or malformed is no preference, as RFC 7240 has it."""
    is_async, wait_s = False, None
    for match in _PREFERENCE.finditer(field.decode("latin-1")):
        name, value = match["name"].lower(), (match["value"] or "").strip('"')
        if name == "respond-async":
            is_async = True
        elif name == "wait" and wait_s is None and re.fullmatch("[0-9]{1,9}", value):
            wait_s = min(float(value), _WAIT_S)
    return Preferences(is_async, wait_s)


def parse_key(field: bytes) -> str:
    """Return the key in a field Idempotency-Key.

    Raises:
        ProblemError: 400: it is no string, empty, or too long.
    """
    match = _KEY.fullmatch(field.decode("latin-1"))
    if match is None:
        raise _malformed(
            'it is not one string in double quotes; write Idempotency-Key: "8e03978e-40d5-43e8-bc93-6894a57f9324"'
        )
    key = re.sub(r"\\(.)", r"\1", match[1][1:-1])
    if not 1 <= len(key) <= KEY_CHARACTERS:
        raise _malformed(f"it has {len(key)} characters; 1 to {KEY_CHARACTERS} are possible")
    return key


def key_missing(command: str) -> ProblemError:
    """Return the error of a command that has to have a key and has none."""
    detail = (
        f"{command} needs an Idempotency-Key, so that sending it twice does it once. Make one for each new command, such as a UUID in double "
        "quotes, and send the same one with each repeat. Nothing happened."
    )
    return ProblemError(Problem(400, "idempotency-key-missing", detail))


def _malformed(what: str) -> ProblemError:
    return ProblemError(
        Problem(400, "idempotency-key-malformed", f"The Idempotency-Key is malformed: {what}. Nothing happened.")
    )
