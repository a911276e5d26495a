"""The commands and the options that they share. Each command is imported when it is called: the start of `run` is measured."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError, UnknownCommandError, UnknownOptionError

from fissile.cli._context import Context
from fissile.cli._errors import did_you_mean
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._output import Output, silence

COMMANDS = {
    "dev": "Run everything in one process for a developer, and start it anew when a file changes.",
    "run": "Run one process for production: no reload, logs as JSON on stderr.",
    "plan": "Show which module runs in which process, which calls cross a boundary, and what would change on the broker.",
    "topics": "Make the topics that the broker lacks: topics apply.",
    "migrate": "Bring the databases of the modules up to date; migrate new MODULE MESSAGE writes a migration.",
    "ps": "List the processes of the application that are there.",
    "lag": "Show how far each module is behind the ends of its topics.",
    "tail": "Show the events of topics as they come.",
    "dead-letters": "Show, retry, edit or archive messages that were given up.",
    "sagas": "Show where sagas stand; resume those that are stuck or failed, or undo what they did.",
    "check": "Find all faults of the application at once, without starting it.",
    "config": "Show every setting with its value and where that came from; secrets are masked.",
    "graph": "Show which module calls and subscribes to which.",
    "ls": "List modules, commands, queries, topics, subscriptions or settings.",
    "call": "Execute a command or ask a query: call MODULE.MESSAGE [--field value ...] [JSON].",
    "api-key": "Make an API key for a client of the gateway, and show its lines for the file of keys: api-key new ID.",
    "export": "Write a file for another program, such as a compose file.",
    "healthcheck": "Tell whether the processes on this machine, or in this container, are ready.",
    "version": "Show the version of fissile, and of what it runs on.",
}
"""The commands, each with its line in the list: to read them from their docstrings, all of them would have to be imported."""

_ALL_BUT_CONTEXT = re.compile(r"\A(?!context\Z)")
"""The names of what is read from the command line: `context` is what `launch` gives to each command."""

_HAVE_A_LOG = ("dev", "run", "call")
"""The commands that set logging up themselves."""


def build(tokens: Sequence[str], started: float) -> App:
    """Make the command line.

    Args:
        tokens: The arguments, without the program's name.
        started: When the command began, on `perf_counter`.
    """
    app = App(
        name="fissile",
        help="Modules that run together in one process or apart over Kafka, by configuration, with the same meaning.",
        help_epilogue=f"Exit codes: {', '.join(f'{code.value} {code.shown}' for code in Exit)}.",
        version_flags=(),
        result_action="return_value",
        default_parameter=Parameter(parse=_ALL_BUT_CONTEXT),
    )
    is_list = not any(token in COMMANDS for token in tokens)
    for position, (name, line) in enumerate(COMMANDS.items()):
        shown = {"help": line} if is_list else {}
        where = name.replace("-", "_")
        app.command(f"fissile.cli._{where}:{where}", name=name, sort_key=position, **shown)

    @app.meta.default
    def launch(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        folder: Annotated[Path | None, Parameter(name=("--folder", "-C"), negative=())] = None,
        json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
        verbose: Annotated[bool, Parameter(name=("--verbose", "-v"), negative=(), show_default=False)] = False,
        no_color: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
        version: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    ) -> Any:  # Any: what cyclopts hands through
        """Run a command.

        Args:
            tokens: The command and its arguments.
            folder: Do it as if started in this folder.
            json: Data as JSON.
            verbose: Tracebacks, and the tree of an error group.
            no_color: No colours (also: NO_COLOR=1).
            version: The version, and that of what it runs on.
        """
        context = Context(started, json, verbose, Output(color=not no_color))
        if folder is not None:
            enter(folder)
        if version:
            tokens = ("version",)
        if not verbose and not (tokens and tokens[0] in _HAVE_A_LOG):
            silence("aiokafka")  # what matters of it is told as an error of ours
        command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
        return command(*bound.args, **bound.kwargs, **dict.fromkeys(ignored, context))

    return app


def enter(folder: Path) -> None:
    """Go to a folder, as -C asks.

    Raises:
        CommandFailed: There is no such folder.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        raise CommandFailed(f"-C {folder}: {error.strerror}.", code=Exit.USAGE) from None


def execute(tokens: Sequence[str], started: float) -> Any:  # Any: what the command returns
    """Run a command.

    Args:
        tokens: The arguments, without the program's name.
        started: When the command began, on `perf_counter`.

    Raises:
        CommandFailed: The command line is wrong.
        Exception: Whatever the command raises.
    """
    try:
        return build(tokens, started).meta(list(tokens), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise _usage(error, tokens) from None


def _usage(error: CycloptsError, tokens: Sequence[str]) -> CommandFailed:
    """Return a wrong command line as our own error."""
    known = next((name for name in tokens if name in COMMANDS), None)
    if isinstance(error, UnknownCommandError) and known is not None:
        return CommandFailed(str(error), f"`fissile {known} --help` shows what there is.", code=Exit.USAGE)
    if isinstance(error, UnknownCommandError):
        name = next((token for token in tokens if not token.startswith("-") and token not in COMMANDS), "")
        return CommandFailed(
            f"There is no command {name!r}.",
            *did_you_mean(name, COMMANDS),
            f"Commands: {', '.join(COMMANDS)}. `fissile --help` says what they do.",
            code=Exit.USAGE,
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    what = lines[0] if lines else "The command line is wrong."
    if isinstance(error, UnknownOptionError):
        lines[1:] = ["Options of all commands: -C FOLDER, --json, -v, --no-color."]
    return CommandFailed(
        what, *lines[1:], f"`fissile {known or ''}{' ' if known else ''}--help` shows its arguments.", code=Exit.USAGE
    )
