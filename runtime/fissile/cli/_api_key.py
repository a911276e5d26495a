"""`fissile api-key`: make keys for clients of the gateway."""

from __future__ import annotations

import msgspec
from cyclopts import App

from fissile._api_keys import ApiKey, new_key
from fissile.cli._context import Context
from fissile.cli._exit import CommandFailed, Exit

api_key = App(
    name="api-key", help="Make an API key for a client of the gateway, and show its lines for the file of keys."
)


@api_key.command
def new(
    key_id: str,
    /,
    *,
    subject: str | None = None,
    scopes: str = "",
    tenant: str | None = None,
    context: Context,
) -> None:
    """Make an API key. It is shown once: the file has only its hash, from which nobody gets it back.

    The key goes to the client, who sends it as `X-API-Key`; the lines go into the file that FISSILE_API_KEYS_FILE names. A gateway
    that runs takes them up within seconds. To change a key, add one with another id, and take the old lines out when its client has the new one.

    Args:
        key_id: Its name in the file and in logs, of letters, digits and hyphens.
        subject: Whose it is; its id unless told.
        scopes: What it may do, with commas between.
        tenant: On whose behalf.
        context: What all commands are given.
    """
    words = tuple(filter(None, scopes.split(",")))
    try:
        key, sha256 = new_key(key_id)
        entry = ApiKey(key_id, sha256, subject or key_id, words, tenant)
        entry.identity()
    except ValueError as error:
        raise CommandFailed(f"No key was made: {error}.", code=Exit.USAGE) from None
    if context.as_json:
        context.output.json({"key": key, "entry": msgspec.to_builtins(entry)})
        return
    named = {"id": key_id, "sha256": sha256, "subject": entry.subject, "tenant": tenant}
    lines = [f"{name} = {_quoted(value)}" for name, value in named.items() if value is not None]
    lines.append(f"scopes = [{', '.join(map(_quoted, words))}]")
    context.output.say("The key, for the client; it is not shown again:")
    context.output.data(key)
    context.output.say("The lines, for the file that FISSILE_API_KEYS_FILE names:")
    context.output.data("\n".join(["[[key]]", *lines]))


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()  # a string of JSON is one of TOML
