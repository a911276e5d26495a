"""`fissile export`: files for other programs, made of the application."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fissile._application import Application
from fissile._compose import compose
from fissile.cli._context import Context
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._export_documents import asyncapi_text, openapi_text

What = Literal["compose", "openapi", "asyncapi"]

WRITERS: dict[What, tuple[str, Callable[[Application], str]]] = {
    "compose": ("docker-compose.yml", compose),
    "openapi": ("openapi.json", openapi_text),
    "asyncapi": ("asyncapi.json", asyncapi_text),
}
"""The file that each is compared with unless told, and what makes it."""

SHOWN_LINES = 40
"""How many lines of a difference are shown."""


def export(
    what: What,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), negative=())] = None,
    check: Annotated[bool, Parameter(negative=())] = False,
    context: Context,
) -> Exit:
    """Write a file for another program.

    Of `compose`, one service per process of the placement that containers run, which .docker/.override.env names. Of `openapi`, what the
    gateway can be asked. Of `asyncapi`, what stands in the logs, with what contracts keep from the gateway.

    Args:
        what: What to write.
        output: The file; stdout unless told. With --check, the file to look at: docker-compose.yml, openapi.json or asyncapi.json unless told.
        check: Write nothing; exit with 10, and show the difference, if the file is not what would be written.
        context: What all commands are given.
    """
    application = context.application()
    file, write = WRITERS[what]
    text = write(application)
    if check:
        path = output or application.root / file
        return _compare(path, text, f"fissile export {what} -o {path.name if output is None else output}", context)
    if output is None:
        context.output.data(text.rstrip("\n"))
        return Exit.OK
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"{output} cannot be written: {error.strerror}.", code=Exit.FAILED) from None
    return Exit.OK


def _compare(path: Path, text: str, command: str, context: Context) -> Exit:
    try:
        found = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        found = None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{path} cannot be read: {error}.", code=Exit.FAILED) from None
    if found == text:
        context.output.data(f"{path}: up to date")
        return Exit.OK
    if found is None:
        raise CommandFailed(f"{path} does not exist.", f"Write it: {command}", code=Exit.PENDING)
    _show(path, found, text, context)
    raise CommandFailed(f"{path} is stale.", f"Write it anew: {command}", code=Exit.PENDING)


def _show(path: Path, found: str, text: str, context: Context) -> None:
    """Show what would change, as far as a person reads it."""
    before, after = found.splitlines(), text.splitlines()
    lines = list(
        difflib.unified_diff(before, after, f"{path.name} as it is", f"{path.name} as it would be", "", "", 2, "")
    )
    for line in lines[:SHOWN_LINES]:
        context.output.data(line)
    if len(lines) > SHOWN_LINES:
        context.output.data(f"… and {len(lines) - SHOWN_LINES} lines more")
