"""`python -m fissile`, which is the same as the command `fissile`."""

from __future__ import annotations

import sys
from time import perf_counter

STARTED = perf_counter()
"""When the command began, to tell how long it took until ready."""


def main() -> int:
    """Run the command line; return its exit code."""
    from fissile._garbage import collect_rarely

    collect_rarely()
    from fissile.cli._command_line import run_command_line

    return run_command_line(sys.argv[1:], STARTED)


if __name__ == "__main__":
    sys.exit(main())
