"""What ended a process in production, as lines of its log."""

from __future__ import annotations

import logging

from fissile._logging import leaves
from fissile.cli._errors import describe, exit_code
from fissile.cli._exit import Exit

_logger = logging.getLogger("fissile.run")


def log_end(error: BaseException, *, verbose: bool) -> Exit:
    """Log what ended the process, each fault on a line of its own, and return the exit code.

    Args:
        error: What ended it.
        verbose: Whether details are wanted.
    """
    faults = [fault for leaf in leaves(error) for fault in getattr(leaf, "faults", ())]
    for fault in faults:
        _logger.critical(fault.what, extra={"where": fault.where, "cure": fault.cure})
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        _logger.critical("The application cannot start: %s.", count, exc_info=error if verbose else None)
    else:
        what, details = describe(error)
        _logger.critical(what, extra={"details": details}, exc_info=error if verbose else None)
    return exit_code(error)
