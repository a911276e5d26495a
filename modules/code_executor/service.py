"""The code executor: runs programs of strangers in the strongest sandbox of this machine."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, closing

import anyio
from attrs import frozen

from fissile import Bus, Caller, Clock, Ids, Module, ModuleSettings, Process, setting

from . import sandbox as boxes
from .contract import (
    ExecutorBusy,
    GetLimits,
    GetRun,
    Language,
    LimitsNotKept,
    ListLanguages,
    ListRuns,
    NoSandbox,
    PerformRun,
    Run,
    RunAccepted,
    RunCase,
    RunCode,
    RunFailed,
    RunFinished,
    RunLimits,
    RunOutput,
    RunPage,
    RunReport,
    RunStarted,
    SourceTooLarge,
    StartRun,
    UnknownLanguage,
    contract,
)
from .live import Live
from .places import Places
from .runs import RunStore
from .sandbox import Sandbox

module = Module(contract)

_logger = logging.getLogger(__name__)

MIB = 1024 * 1024
_WALL_TIMES, _WALL_MORE_S = 1.5, 1.0
"""How much longer than its CPU time a program may take: others run beside it, and what starts it takes time, too."""
_COMPILER_WALL_TIMES = 3.0
"""The same for compilers, which nobody waits for to be punctual."""


@frozen
class ExecutorSettings(ModuleSettings):
    """What a run may use, and where it runs."""

    sandbox: boxes.Kind = setting(
        "auto", "`docker`, `local`, or `auto`: Docker where an engine has the image, else local."
    )
    at_once: int = setting(3, "How many programs run at a time.", at_least=1)
    people_at_once: int = setting(
        2, "How many of them may be people's runs; the rest is for judging submissions.", at_least=1
    )
    waiting: int = setting(
        32, "How many of people's runs may wait for their turn, and how many cases of submissions.", at_least=0
    )
    spare: int = setting(2, "How many containers, or jails, are kept ready.")
    spare_age_s: float = setting(600.0, "When a container that nobody has used is replaced, in seconds.")
    wall_s: float = setting(10.0, "How long a program may run, in seconds.")
    cpu_s: float = setting(5.0, "How much CPU time a program may use, in seconds.")
    memory_bytes: int = setting(256 * MIB, "How much memory its processes may use together, in bytes.")
    processes: int = setting(64, "How many processes and threads it may have.")
    output_bytes: int = setting(64 * 1024, "How much it may write to each of stdout and stderr, in bytes.")
    file_bytes: int = setting(16 * MIB, "How large a file may be, in bytes.")
    disk_bytes: int = setting(16 * MIB, "How much its files may have together, in bytes.")
    compile_s: float = setting(20.0, "How much CPU time a compiler may use, in seconds.")
    compile_memory_bytes: int = setting(512 * MIB, "How much memory a compiler's processes may use together, in bytes.")
    compile_disk_bytes: int = setting(64 * MIB, "How much a compiler's files may have together, in bytes.")
    builds_kept: int = setting(128, "How many compiled programs are kept for further runs; each is an open file.")
    builds_bytes: int = setting(64 * MIB, "How many bytes they may have together.")
    source_bytes: int = setting(256 * 1024, "How large a source, or an input, may be, in bytes.")
    runs_kept: int = setting(1000, "How many runs can be looked up.")

    def limits(self, time_s: float | None = None, memory_mib: int | None = None) -> boxes.Limits:
        """Return the limits of one run: what is asked for, and no more than is allowed."""
        cpu_s = self.cpu_s if time_s is None else min(time_s, self.cpu_s)
        return boxes.Limits(
            wall_s=self.wall_s if time_s is None else min(_WALL_TIMES * cpu_s + _WALL_MORE_S, self.wall_s),
            cpu_s=cpu_s,
            memory_bytes=self.memory_bytes if memory_mib is None else min(memory_mib * MIB, self.memory_bytes),
            processes=self.processes,
            output_bytes=self.output_bytes,
            file_bytes=self.file_bytes,
            disk_bytes=self.disk_bytes,
        )

    @property
    def most(self) -> RunLimits:
        """What a program may use at most."""
        time_s = min(
            self.cpu_s, max(0.0, self.wall_s - _WALL_MORE_S) / _WALL_TIMES
        )  # so that the clock leaves room for it
        return RunLimits(time_s, self.memory_bytes // MIB, self.source_bytes, self.output_bytes)

    def compiling(self) -> boxes.Limits:
        """Return the limits of compilers."""
        return boxes.Limits(
            wall_s=_COMPILER_WALL_TIMES * self.compile_s + _WALL_MORE_S,
            cpu_s=self.compile_s,
            memory_bytes=self.compile_memory_bytes,
            processes=self.processes,
            output_bytes=self.output_bytes,
            file_bytes=self.compile_disk_bytes,
            disk_bytes=self.compile_disk_bytes,
        )


@module.resource
@asynccontextmanager
async def sandbox(settings: ExecutorSettings, process: Process) -> AsyncGenerator[Sandbox]:
    """Open the sandbox, and attack it in the background: the first run waits for the verdict, the start does not."""
    opening = boxes.choose(
        settings.sandbox,
        at_once=settings.at_once,
        waiting=settings.waiting,
        allow_weak=process.is_dev,
        spare=settings.spare,
        spare_age_s=settings.spare_age_s,
        usual=settings.limits(),
        compiling=settings.compiling(),
        builds=boxes.Builds(settings.builds_kept, settings.builds_bytes),
    )
    async with opening as opened, anyio.create_task_group() as tasks:
        tasks.start_soon(_probe, opened)
        yield opened
        tasks.cancel_scope.cancel()


async def _probe(opened: Sandbox) -> None:
    try:
        level = await opened.probe()
    except boxes.SandboxError as error:
        _logger.critical("nothing will be run: %s", error)
    else:
        _logger.info("programs run in the sandbox %r", level, extra={"languages": opened.languages()})


@module.resource
@asynccontextmanager
async def places(settings: ExecutorSettings) -> AsyncGenerator[Places]:
    """Share the places of the sandbox out."""
    yield Places(settings.at_once, settings.people_at_once, settings.waiting)


@module.resource
@asynccontextmanager
async def store(settings: ExecutorSettings, clock: Clock) -> AsyncGenerator[RunStore]:
    """Keep the newest runs in memory."""
    yield RunStore(clock, settings.runs_kept)


# --- commands --------------------------------------------------------------------------------------------------------


@module.command(RunCode, idempotent=True)
async def run_code(
    command: RunCode,
    sandbox: Sandbox,
    places: Places,
    store: RunStore,
    settings: ExecutorSettings,
    caller: Caller,
    bus: Bus,
) -> RunReport:
    """Run one program and return its report. A program has no effects outside of its sandbox, so it may be run again."""
    await _check(command.language, command.source, command.stdin, sandbox, settings)
    run_id = store.run_id(caller.message_id)
    limits = settings.limits(command.time_s, command.memory_mib)
    program = boxes.Program(command.language, command.source, command.stdin, limits)
    store.add(run_id, command.language)
    try:
        async with places.one(places.people):
            store.running(run_id)
            report = await _run(run_id, program, sandbox)
    except BaseException:
        store.failed(run_id)
        raise
    store.finished(report)
    await bus.publish(RunFinished(run_id, report))
    return report


@module.command(RunCase, idempotent=True)
async def run_case(
    command: RunCase, sandbox: Sandbox, places: Places, settings: ExecutorSettings, ids: Ids
) -> RunReport:
    """Run one program for who judges it, and tell nobody else."""
    most = settings.most
    if command.time_s > most.time_s or command.memory_mib > most.memory_mib:
        raise LimitsNotKept(most.time_s, most.memory_mib)
    await _check(command.language, command.source, command.stdin, sandbox, settings)
    limits = settings.limits(command.time_s, command.memory_mib)
    async with places.one(places.judging):
        program = boxes.Program(command.language, command.source, command.stdin, limits)
        return await _run(ids.new(), program, sandbox)


@module.command(StartRun, idempotent=True)
async def start_run(
    command: StartRun, sandbox: Sandbox, store: RunStore, settings: ExecutorSettings, caller: Caller, bus: Bus
) -> RunAccepted:
    """Accept one program and return at once."""
    await _check(command.language, command.source, command.stdin, sandbox, settings)
    run_id = store.run_id(caller.message_id)
    store.add(run_id, command.language)
    await bus.send(PerformRun(run_id, command.language, command.source, command.stdin))
    return RunAccepted(run_id)


@module.command(PerformRun, idempotent=True)
async def perform_run(
    command: PerformRun, sandbox: Sandbox, places: Places, store: RunStore, settings: ExecutorSettings, bus: Bus
) -> None:
    """Run an accepted program, telling what it writes while it does."""
    store.add(command.run_id, command.language)
    if store.get(command.run_id).summary.state in ("done", "failed") or command.run_id in store.under_way:
        return  # a repeat of what has ended, or is at work: its output would be told twice at the same time
    program = boxes.Program(command.language, command.source, command.stdin, settings.limits())
    store.under_way.add(command.run_id)
    try:
        async with places.one(places.people):
            store.running(command.run_id)
            await bus.publish_now(RunStarted(command.run_id, command.language))
            report = await _run_aloud(command.run_id, program, sandbox, bus)
    except (ExecutorBusy, NoSandbox, UnknownLanguage) as error:
        store.failed(command.run_id)
        await bus.publish(RunFailed(command.run_id, str(error)))
    else:
        store.finished(report)
        await bus.publish(RunFinished(command.run_id, report))
    finally:
        store.under_way.discard(command.run_id)


async def _run_aloud(run_id: str, program: boxes.Program, sandbox: Sandbox, bus: Bus) -> RunReport:
    """Run a program, and tell what it writes while it does."""
    live = Live()

    async def tell() -> None:
        async with aclosing(live.pieces()) as pieces:
            async for stream, text in pieces:
                await bus.publish_now(RunOutput(run_id, stream, text))

    report: RunReport | None = None
    refused: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tell)
        with closing(live):
            try:
                report = await _run(run_id, program, sandbox, live.add)
            except (ExecutorBusy, NoSandbox, UnknownLanguage) as error:
                refused = error  # raised below, so that no group is
    if report is None:
        assert refused is not None
        raise refused
    return report


async def _check(language: str, source: str, stdin: str, sandbox: Sandbox, settings: ExecutorSettings) -> None:
    for name, text in (("source", source), ("stdin", stdin)):
        size = len(text.encode(errors="replace"))
        if size > settings.source_bytes:
            raise SourceTooLarge(name, size, settings.source_bytes)
    available = await _available(sandbox)
    if language not in available:
        raise UnknownLanguage(language, available)


async def _available(sandbox: Sandbox) -> tuple[str, ...]:
    try:
        await sandbox.probe()
    except boxes.SandboxError as error:
        raise NoSandbox(str(error)) from None
    return sandbox.languages()


async def _run(
    run_id: str, program: boxes.Program, sandbox: Sandbox, on_output: boxes.OnOutput | None = None
) -> RunReport:
    try:
        result = await sandbox.run(program, on_output=on_output)
    except boxes.SandboxBusy as error:
        raise ExecutorBusy(error.waiting) from None
    except boxes.UnknownLanguage as error:
        raise UnknownLanguage(error.language, error.available) from None
    except boxes.SandboxError as error:
        raise NoSandbox(str(error)) from None
    return RunReport(
        run_id=run_id,
        outcome=result.outcome.value,
        exit_code=result.exit_code,
        stdout=result.stdout,
        stderr=result.stderr,
        duration_ms=round(result.duration_ms, 1),
        signal=result.signal,
        truncated=result.stdout_truncated or result.stderr_truncated,
        language=program.language,
        sandbox=result.level,
        cpu_ms=None if result.cpu_ms is None else round(result.cpu_ms, 1),
    )


# --- queries ---------------------------------------------------------------------------------------------------------


@module.query(GetRun)
async def get_run(query: GetRun, store: RunStore) -> Run:
    """Tell where a run stands."""
    return store.get(query.run_id)


@module.query(ListRuns)
async def list_runs(query: ListRuns, store: RunStore) -> RunPage:
    """List the runs that are kept, the newest first."""
    return store.page(query.limit, query.before)


@module.query(GetLimits)
async def get_limits(_query: GetLimits, settings: ExecutorSettings) -> RunLimits:
    """Tell what a program may use at most."""
    return settings.most


@module.query(ListLanguages)
async def list_languages(_query: ListLanguages, sandbox: Sandbox) -> tuple[Language, ...]:
    """List what this machine can run."""
    return tuple(Language(name, sandbox.level) for name in await _available(sandbox))
