"""`fissile export`: files for other programs, made of the application."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fissile._compose import compose
from fissile.cli._context import Context
from fissile.cli._exit import CommandFailed, Exit

COMPOSE_FILE = "docker-compose.yml"


def export(
    what: Literal["compose"],
    /,
    *,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"), negative=())] = None,
    check: Annotated[bool, Parameter(negative=())] = False,
    context: Annotated[Context, Parameter(parse=False)],
) -> Exit:
    """Write a file for another program: of `compose`, one service per process of the placement that containers run.

    The placement is the one that .docker/.override.env names.

    Args:
        what: What to write.
        output: The file; stdout unless told. With --check, the file to look at: docker-compose.yml unless told.
        check: Write nothing; exit with 10 if the file is not what would be written.
        context: What all commands are given.
    """
    application = context.application()
    text = compose(application)
    if check:
        path = output or application.root / COMPOSE_FILE
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
    what = "is stale" if found is not None else "does not exist"
    raise CommandFailed(f"{path} {what}.", f"Write it anew: {command}", code=Exit.PENDING)
