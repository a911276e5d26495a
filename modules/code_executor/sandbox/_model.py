"""The words of the sandbox: a program, its limits, what became of it, and what can go wrong on our side."""

from enum import StrEnum
from typing import Literal, Protocol

import msgspec

from .languages import Language

MIB = 1024 * 1024

Stream = Literal["stdout", "stderr"]


class Outcome(StrEnum):
    """How a run ended. Every value is an answer about the program; our own failures are exceptions."""

    FINISHED = "finished"
    """It ended by itself; `Result.exit_code` is set."""
    KILLED = "killed"
    """A signal ended it that no limit explains: a crash, its own `kill`; `Result.signal` is set where it is known."""
    TIMEOUT = "timeout"
    """It was still there at `Limits.wall_s`."""
    CPU_LIMIT = "cpu_limit"
    """Its processes used more than `Limits.cpu_s` together."""
    MEMORY_LIMIT = "memory_limit"
    """Its processes held more than `Limits.memory_bytes` together."""
    OUTPUT_LIMIT = "output_limit"
    """It wrote more than `Limits.output_bytes` to one of the two streams."""
    COMPILE_ERROR = "compile_error"
    """The compiler refused the source, or came to one of its own limits; `Result.stderr` holds its messages."""


class Limits(msgspec.Struct, frozen=True):
    """What one run may use. The defaults fit the exercises of a programming course.

    Attributes:
        wall_s: Seconds by the clock, for the run itself; a compiler has limits of its own.
        cpu_s: Seconds of CPU, summed over all processes of the run.
        memory_bytes: Memory of all processes of the run together. A single process may reserve more address
            space than it uses; only what it touches counts.
        processes: Processes and threads at a time.
        output_bytes: Kept of each of stdout and stderr; the byte after them ends the run.
        file_bytes: Size of one file.
        disk_bytes: Size of all files in the run's private folder together.
    """

    wall_s: float = 10.0
    cpu_s: float = 5.0
    memory_bytes: int = 256 * MIB
    processes: int = 64
    output_bytes: int = 64 * 1024
    file_bytes: int = 16 * MIB
    disk_bytes: int = 16 * MIB


class Program(msgspec.Struct, frozen=True):
    """A program of a stranger.

    Attributes:
        language: An id of the table in `languages`, such as `python`.
        source: The whole source text, one file.
        stdin: What the program finds on its standard input, followed by the end of the file.
        limits: What the run may use.
    """

    language: str
    source: str
    stdin: str = ""
    limits: Limits = msgspec.field(default_factory=Limits)


class Built(Protocol):
    """What a compiler made, as far as a run needs it. It is a stranger's: nothing but a jail may read more into it."""

    @property
    def size(self) -> int:
        """How many bytes it has."""
        ...

    def part(self, start: int, size: int) -> bytes:
        """Up to so many bytes of it. Blocks."""
        ...


class Work(msgspec.Struct, frozen=True):
    """What one jail does: run a program, or compile it.

    Attributes:
        language: The program's language.
        source: The whole source text.
        limits: What may be used.
        stdin: What can be read on the standard input.
        is_compiling: Leave what the compiler makes on stdout, and its messages on stderr.
        built: What was compiled before; None where the source itself is run.
    """

    language: Language
    source: str
    limits: Limits
    stdin: str = ""
    is_compiling: bool = False
    built: Built | None = None


class Result(msgspec.Struct, frozen=True):
    """What became of a program.

    Attributes:
        outcome: How it ended.
        exit_code: Set where it ended by itself, else None.
        signal: The number of the signal that ended it, else None.
        stdout: Decoded as UTF-8 with replacement characters; cut between two characters. It is a stranger's text:
            escape sequences and control characters are kept, whoever renders it must escape.
        stderr: The same for the other stream.
        stdout_truncated: The program wrote more than is kept here.
        stderr_truncated: The same for the other stream.
        duration_ms: Milliseconds from the start of the run itself to its end, without the jail and the compiler.
        level: Which walls stood around it: `docker`, `bubblewrap`, `unshare`, `landlock` or `rlimits`.
        cpu_ms: Milliseconds of CPU time that its processes used together; None where nobody could report it.
    """

    outcome: Outcome
    exit_code: int | None
    signal: int | None
    stdout: str
    stderr: str
    stdout_truncated: bool
    stderr_truncated: bool
    duration_ms: float
    level: str
    cpu_ms: float | None = None


class SandboxError(Exception):
    """Raised when the sandbox, not the program, is at fault. The program may have run in part."""


class NoSandbox(SandboxError):
    """Raised when no jail of this machine holds, so nothing is run. The text names each level tried and the cure."""


class EngineGone(NoSandbox):
    """Raised when the Docker engine does not answer, or not in time. Once it does again, programs are run again."""


class JailGoneError(SandboxError):
    """Raised when a jail has ended before its program was started: it is safe to try again in another one."""


class SandboxBusy(SandboxError):
    """Raised when as many runs wait as may wait. Nothing was run; try again later."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"All sandboxes are busy and {waiting} runs wait already. Try again in a few seconds.")
        self.waiting = waiting


class UnknownLanguage(SandboxError):
    """Raised when a program's language is not in the table, or its toolchain is not on this machine."""

    def __init__(self, language: str, available: tuple[str, ...]) -> None:
        names = ", ".join(available) or "none"
        super().__init__(f"The language {language!r} is not available in this sandbox. Available: {names}.")
        self.language = language
        self.available = available
