"""How an error is told to a person: the root error first, as one clear text; the whole tree only with -v."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from difflib import SequenceMatcher

from fissile._errors import (
    CallError,
    DeadlineExceeded,
    Fault,
    HandlerFailed,
    Overloaded,
    Postponed,
    StartupFailed,
    Unavailable,
)
from fissile._logging import format_error, leaves
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._output import Output

_CLOSE, _AS_CLOSE = 0.6, 0.05
"""How alike two names have to be for one to be meant, from 0 to 1; and how much less alike than the best one others may be."""
REPORT = "This is not a fault that fissile expects. Run it again with -v to see where it arose."


def exit_code(error: BaseException) -> Exit:
    """Return the exit code of an error."""
    root = root_of(error)
    if isinstance(root, CommandFailed):
        return root.code
    if isinstance(root, StartupFailed):
        return Exit.INVALID
    if isinstance(root, DeadlineExceeded):
        return Exit.TIMEOUT
    if isinstance(root, (Unavailable, Overloaded, Postponed)) or is_port_taken(root):
        return Exit.UNAVAILABLE
    if isinstance(root, KeyboardInterrupt):
        return Exit.INTERRUPTED
    return Exit.FAILED


def root_of(error: BaseException) -> BaseException:
    """Return the error that a person should read first: of several, one that says what to do."""
    found = leaves(error)
    return next(
        (leaf for leaf in found if isinstance(leaf, (CommandFailed, StartupFailed, KeyboardInterrupt))), found[0]
    )


def describe(error: BaseException) -> tuple[str, tuple[str, ...]]:
    """Return what a person reads of an error: what happened, and the lines that follow."""
    root = root_of(error)
    if isinstance(root, CommandFailed):
        return root.what, root.details
    if isinstance(root, StartupFailed):
        return describe_faults("The application cannot start", root.faults)
    if is_port_taken(root):
        return f"{_sentence(root)}.", (
            "Another program listens there. Stop it, or choose a port: --port 9000 (or FISSILE_PORT).",
        )
    if isinstance(root, HandlerFailed):
        text = f": {root.error_text}" if root.error_text else ""
        return f"{root.message_name} failed with {root.error_type}{text}", (
            f"id {root.message_id}; -v shows the traceback",
        )
    if isinstance(root, CallError):
        return str(root), ()
    if isinstance(root, Postponed):
        return f"{_sentence(root)}.", ("Start it, or see FISSILE_DATABASE, and run this again.",)
    return f"{type(root).__name__}: {root}", (REPORT,)


def describe_faults(title: str, faults: Iterable[Fault]) -> tuple[str, tuple[str, ...]]:
    """Return faults as a title and lines, each with its place and its cure."""
    faults = tuple(faults)
    if len(faults) == 1:
        return f"{title}. {faults[0]}", ()
    lines: list[str] = []
    for fault in faults:
        lines += [fault.where, f"  {fault.what}", f"  cure: {fault.cure}"]
    return f"{title}: {len(faults)} faults.", tuple(lines)


def report(error: BaseException, output: Output, *, verbose: bool) -> Exit:
    """Tell an error on stderr and return the exit code."""
    code = exit_code(error)
    if code is Exit.INTERRUPTED:
        output.say("interrupted")
        return code
    what, details = describe(error)
    output.error(what, *details)
    others = len(leaves(error)) - 1
    if verbose and not isinstance(root_of(error), (CommandFailed, HandlerFailed)):  # the log has shown the handler's
        output.say(format_error(error, tree=True))
    elif others:
        output.say(f"  {others} more went wrong with it; -v shows all.")
    return code


def is_port_taken(error: BaseException) -> bool:
    """Tell whether an error says that an address cannot be listened on."""
    return isinstance(error, OSError) and error.errno == errno.EADDRINUSE


def did_you_mean(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return a line with the names that were probably meant; none where nothing comes close."""
    ratios = {each: SequenceMatcher(None, name, each).ratio() for each in known}
    best = max(ratios.values(), default=0.0)
    close = [each for each, ratio in ratios.items() if ratio >= max(_CLOSE, best - _AS_CLOSE)]
    return (f"Did you mean {' or '.join(close[:3])}?",) if close else ()


def _sentence(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return text[:1].upper() + text[1:].rstrip(".")
