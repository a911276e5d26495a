"""The command line, from its arguments to an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from fissile.cli._context import Context
from fissile.cli._errors import report
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._output import Output


def run_command_line(tokens: Sequence[str], started: float) -> int:
    """Run a command and return its exit code. Whatever goes wrong is told on stderr, the root error first.

    Args:
        tokens: The arguments, without the program's name.
        started: When the command began, on `perf_counter`.
    """
    verbose = "-v" in tokens or "--verbose" in tokens
    output = Output(color="--no-color" not in tokens)
    try:
        result = _execute(tokens, started)
        return int(result) if isinstance(result, int) else Exit.OK
    except BrokenPipeError:
        # Whoever read the data has had enough (`fissile ls | head`). Nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except (Exception, BaseExceptionGroup, KeyboardInterrupt) as error:  # noqa: BLE001 -- told to a person, whatever it is
        return report(error, output, verbose=verbose and not _is_usage(error))


def _execute(tokens: Sequence[str], started: float) -> Any:  # Any: what the command returns
    if tokens and tokens[0] == "run" and len(tokens) <= 2 and not any(token.startswith("-") for token in tokens):
        # As containers start it: `fissile run [PROCESS]`. There are no options to read, and what reads them takes a twentieth of the start.
        from fissile.cli._run import run

        return run(*tokens[1:], context=Context(started))
    from fissile.cli._app import execute

    return execute(tokens, started)


def _is_usage(error: BaseException) -> bool:
    return isinstance(error, CommandFailed) and error.code is Exit.USAGE
