"""What others may know of the code executor."""

from typing import Annotated

from attrs import frozen
from msgspec import Meta

from fissile import Command, Contract, DeclaredError, Event, Query, Topic

contract = Contract("code-executor")

LanguageId = Annotated[str, Meta(max_length=32, description="One of `list-languages`.", examples=["python"])]
Text = Annotated[str, Meta(max_length=1 << 20)]
"""The most that an executor could be told to take; how many bytes it takes is a setting, and to exceed that is `SourceTooLarge`."""
RunId = Annotated[str, Meta(max_length=64)]

TimeS = Annotated[
    float,
    Meta(
        gt=0.0,
        le=1e6,
        description="How much CPU time it may use, in seconds, where that is less than the executor's limit.",
    ),
]
MemoryMib = Annotated[
    int,
    Meta(
        ge=16,
        le=1 << 30,
        description="How much memory it may use, in MiB, where that is less than the executor's limit.",
    ),
]


@frozen
class RunReport:
    """What became of a program.

    Attributes:
        run_id: The run.
        outcome: How it ended: `finished`, `killed`, `timeout`, `cpu_limit`, `memory_limit`, `output_limit`, `compile_error`, or `cancelled`
            where somebody has stopped it (`CancelRun`).
        exit_code: The program's own, if it ended by itself.
        stdout: What it wrote, up to the limit. It is a stranger's text: whoever shows it must escape it.
        stderr: The same for the other stream.
        duration_ms: How long it ran, in milliseconds.
        signal: The number of the signal that ended it, if one did.
        truncated: Whether it wrote more than is told.
        language: The language it was run as.
        sandbox: Which walls stood around it.
        cpu_ms: How much CPU time its processes used together, in milliseconds; None where the sandbox cannot tell.
    """

    run_id: str
    outcome: str
    exit_code: int | None
    stdout: str
    stderr: str
    duration_ms: float
    signal: int | None
    truncated: bool
    language: str
    sandbox: str
    cpu_ms: float | None = None


@frozen
class RunSummary:
    """A run in a list.

    Attributes:
        run_id: The run.
        language: The language.
        state: `queued`, `running`, `done`, or `failed` if the sandbox was at fault.
        outcome: How the program ended, once it has.
        started_at: When it was asked for, in seconds since 1970.
    """

    run_id: str
    language: str
    state: str
    outcome: str | None
    started_at: float


@frozen
class RunFailure:
    """Why a run could not be made; the program is not to blame.

    Attributes:
        kind: `busy` where too many programs waited, `no_sandbox` where nothing can contain a program now, `unknown_language`, or `error` for
            what is in the executor's log.
        reason: The same as a sentence for people.
    """

    kind: str
    reason: str


@frozen
class Run:
    """A run and, once it is over, its report, or why it could not be made."""

    summary: RunSummary
    report: RunReport | None
    failure: RunFailure | None = None


@frozen
class RunPage:
    """Some runs, the newest first.

    Attributes:
        runs: The runs.
        next: What to pass as `before` for the following page; None on the last one.
    """

    runs: tuple[RunSummary, ...]
    next: str | None


@frozen
class Language:
    """A language that this machine can run.

    Attributes:
        id: What to pass as `language`.
        sandbox: Which walls stand around its programs.
    """

    id: str
    sandbox: str


@frozen
class RunLimits:
    """What a program may use at most.

    Attributes:
        time_s: How much CPU time, in seconds; by the clock it has half as much again, and a second.
        memory_mib: How much memory, in MiB.
        input_bytes: How large a source, or an input, may be, in bytes of UTF-8.
        output_bytes: How much it may write, in bytes.
    """

    time_s: float
    memory_mib: int
    input_bytes: int
    output_bytes: int


@frozen
class RunAccepted:
    """A run that was begun.

    Attributes:
        run_id: The run; its events carry it as their key.
    """

    run_id: str


# --- what can go wrong -----------------------------------------------------------------------------------------------


@frozen
class UnknownLanguage(DeclaredError, detail="The language {language!r} cannot be run here."):
    """Raised when this machine cannot run the language."""

    language: str
    available: tuple[str, ...]


@frozen
class SourceTooLarge(
    DeclaredError, status=413, detail="The {field} has {size_bytes} bytes; {limit_bytes} are allowed."
):
    """Raised when the source or the input has more bytes than a run may have."""

    field: str
    size_bytes: int
    limit_bytes: int


@frozen
class LimitsNotKept(DeclaredError, detail="A program may use {time_s:g} s of CPU time and {memory_mib} MiB here."):
    """Raised when more time or memory is asked for than a program may use. Nothing was run."""

    time_s: float
    memory_mib: int


@frozen
class NoSandbox(DeclaredError, status=503, detail="Nothing was run. {reason}"):
    """Raised when nothing can contain a program, or what does has failed, such as an engine that is gone; the reason has the cure."""

    reason: str


@frozen
class ExecutorBusy(
    DeclaredError, status=503, detail="Too many programs wait for their turn. Nothing was run; try again in a while."
):
    """Raised when as many runs wait as may wait, of all or of one caller. Nothing was run."""

    waiting: int


@frozen
class UnknownRun(DeclaredError, status=404):
    """Raised when there is no such run, or it was so long ago that it is no longer kept."""

    run_id: str


# --- what can be asked for -------------------------------------------------------------------------------------------


@frozen
class RunCode(Command[RunReport], raises=(UnknownLanguage, SourceTooLarge, NoSandbox, ExecutorBusy)):
    """Run one program and wait for its report."""

    language: LanguageId
    source: Text
    stdin: Text = ""
    time_s: TimeS | None = None
    memory_mib: MemoryMib | None = None


@frozen
class StartRun(Command[RunAccepted], raises=(UnknownLanguage, SourceTooLarge, NoSandbox, ExecutorBusy)):
    """Begin to run one program; its progress and its report are events of the topic `runs`."""

    language: LanguageId
    source: Text
    stdin: Text = ""


@frozen
class CancelRun(Command[None], raises=(UnknownRun,)):
    """Stop a run that was started. Who knows its id may: nobody can guess one.

    It ends soon after, as `cancelled`, with what it has written. One that has ended stays as it is.
    """

    run_id: RunId


@frozen
class PerformRun(Command[None], public=False):
    """Do what `StartRun` has accepted. The module sends it to itself."""

    run_id: str
    language: str
    source: str
    stdin: str
    asked_by: str = ""


@frozen
class RunCase(
    Command[RunReport],
    raises=(UnknownLanguage, SourceTooLarge, LimitsNotKept, NoSandbox, ExecutorBusy),
    public=False,
):
    """Run one program with an input that is nobody's to see, for a module that judges.

    Nothing of it is kept and no event tells of it: the report is for who asks, and for nobody else. It has exactly the limits that are asked
    for, or is refused (`GetLimits`).
    """

    language: str
    source: str
    stdin: str
    time_s: TimeS
    memory_mib: MemoryMib


@frozen
class GetRun(Query[Run], raises=(UnknownRun,)):
    """Tell where a run stands. Who knows its id may ask: nobody can guess one."""

    run_id: RunId


@frozen
class ListRuns(Query[RunPage], raises=(UnknownRun,), public=False):
    """List the runs that are kept, the newest first: for who looks after the executor, since an id opens a run.

    Attributes:
        limit: How many at most.
        before: Only runs older than this one.
    """

    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    before: RunId | None = None


@frozen
class ListLanguages(Query[tuple[Language, ...]], raises=(NoSandbox,)):
    """List what this machine can run."""


@frozen
class GetLimits(Query[RunLimits], max_age_s=60.0):
    """Tell what a program may use at most."""


# --- what happens ----------------------------------------------------------------------------------------------------


@frozen
class RunQueued(Event):
    """A run was accepted, and waits for its turn.

    Attributes:
        run_id: The run.
        language: The language.
        asked: A digest of the id of the command, so that a repeat of it is the same run on each replica.
    """

    run_id: str
    language: str
    asked: str


@frozen
class RunStarted(Event):
    """A program has begun to run."""

    run_id: str
    language: str


@frozen
class RunOutput(Event):
    """A program has written something.

    Attributes:
        run_id: The run.
        stream: `stdout` or `stderr`.
        text: What it wrote; a stranger's text.
    """

    run_id: str
    stream: str
    text: str


@frozen
class RunStopping(Event):
    """Somebody has asked to stop a run; where it runs, it is ended."""

    run_id: str


@frozen
class RunFinished(Event):
    """A program has ended."""

    run_id: str
    report: RunReport


@frozen
class RunFailed(Event):
    """A run could not be made; the program is not to blame.

    Attributes:
        run_id: The run.
        kind: What `RunFailure` names.
        reason: The same as a sentence for people.
    """

    run_id: str
    kind: str
    reason: str


RunEvent = RunQueued | RunStarted | RunOutput | RunStopping | RunFinished | RunFailed

runs: Topic[RunEvent] = Topic(
    "code-executor.runs",
    RunQueued,
    RunStarted,
    RunOutput,
    RunStopping,
    RunFinished,
    RunFailed,
    key=lambda event: event.run_id,
    retention_s=3600.0,
    public=False,
)
"""What people's programs do. The gateway shows one run to who knows its id, and the executor's replicas learn from it of each other's."""
