"""The exit codes of every command, in one place, and the error that carries one."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the exit code of a command means. The numbers are stable; scripts may rely on them."""

    OK = 0
    """It did what was asked. `run` and `dev` too, when they were told to stop and drained."""
    FAILED = 1
    """Something failed while it ran: a handler, a declared error that `call` got, the process itself."""
    USAGE = 2
    """The command line is wrong: an unknown option, a missing field, a value of the wrong type."""
    INVALID = 3
    """The application has faults: what `check` finds, settings that cannot be read, no application at all."""
    UNKNOWN_NAME = 4
    """There is no module or message of that name."""
    NOTHING_THERE = 5
    """There is no running application that could be asked: the bus is in the memory of a process, or nothing has run on it yet."""
    TIMEOUT = 6
    """No answer came within the deadline."""
    UNAVAILABLE = 7
    """Something that is needed cannot be had: the port is taken, the bus cannot be reached, a call found no room."""
    PENDING = 10
    """Something is not as it should be, and was only looked at: a generated file is stale, changes are to be made."""
    INTERRUPTED = 130
    """It was told to stop at once: a second Ctrl-C, or the first one where there was nothing to drain."""

    @property
    def shown(self) -> str:
        """How people call it."""
        return self.name.lower().replace("_", " ")


class CommandFailed(Exception):
    """Raised when a command cannot do what was asked, with what a person should read.

    Attributes:
        what: What happened, as a sentence.
        details: Further lines: where, and what to do next.
        code: The exit code.
    """

    def __init__(self, what: str, *details: str, code: Exit) -> None:
        self.what = what
        self.details = details
        self.code = code
        super().__init__(what)
