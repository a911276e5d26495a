"""The code executor: runs programs of strangers in the strongest sandbox of this machine."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager, closing

import anyio

from fissile import Bus, Caller, Clock, FissileError, Ids, Lifespan, Module, Process

from . import sandbox as boxes
from .contract import (
    CancelRun,
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
    RunQueued,
    RunReport,
    RunStarted,
    RunStopping,
    SourceTooLarge,
    StartRun,
    UnknownLanguage,
    UnknownRun,
    contract,
)
from .endings import Written, failure_of
from .following import Follower
from .live import Live
from .places import Places, who_asks
from .runs import RunStore
from .sandbox import Sandbox
from .settings import ExecutorSettings as ExecutorSettings

module = Module(contract)

_logger = logging.getLogger(__name__)


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
async def places(settings: ExecutorSettings, clock: Clock) -> AsyncGenerator[Places]:
    """Share the places of the sandbox out."""
    yield Places(settings.at_once, settings.people_at_once, settings.waiting, settings.waiting_each, clock)


@module.resource
@asynccontextmanager
async def store(settings: ExecutorSettings, clock: Clock) -> AsyncGenerator[RunStore]:
    """Keep the newest runs in memory."""
    yield RunStore(clock, settings.runs_kept, settings.runs_bytes)


@module.resource
@asynccontextmanager
async def follower(store: RunStore, places: Places) -> AsyncGenerator[Follower]:
    """Make what learns of the runs of other replicas."""
    yield Follower(store, places)


@module.worker
async def follow(follower: Follower, bus: Bus, lifespan: Lifespan) -> None:
    """Learn of the runs of other replicas, and of those from before the start that the log still has."""
    await follower.follow(bus, lifespan)


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
    run_id, _ = store.run_of(caller.message_id)
    limits = settings.limits(command.time_s, command.memory_mib)
    program = boxes.Program(command.language, command.source, command.stdin, limits)
    async with places.one(places.people, who_asks(caller)):
        report = await _run(run_id, program, sandbox)
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
    command: StartRun,
    sandbox: Sandbox,
    places: Places,
    store: RunStore,
    settings: ExecutorSettings,
    caller: Caller,
    bus: Bus,
) -> RunAccepted:
    """Accept one program and return at once."""
    await _check(command.language, command.source, command.stdin, sandbox, settings)
    who = who_asks(caller)
    run_id, asked = store.run_of(caller.message_id)
    if not store.knows(run_id):
        places.accept(places.people, who, run_id)
        store.add(run_id, command.language)
    try:
        await bus.publish(RunQueued(run_id, command.language, asked))
        await bus.send(PerformRun(run_id, command.language, command.source, command.stdin, who))
    except BaseException:
        places.people.begun(run_id)  # it never will
        raise
    return RunAccepted(run_id)


@module.command(CancelRun, idempotent=True)
async def cancel_run(command: CancelRun, store: RunStore, follower: Follower, bus: Bus) -> None:
    """Stop a run, on whichever replica it is."""
    if not await follower.knows(command.run_id):
        raise UnknownRun(command.run_id)
    if not store.is_over(command.run_id):
        store.cancel(command.run_id)
        await bus.publish(RunStopping(command.run_id))


@module.command(PerformRun, idempotent=True)
async def perform_run(
    command: PerformRun,
    sandbox: Sandbox,
    places: Places,
    store: RunStore,
    settings: ExecutorSettings,
    clock: Clock,
    bus: Bus,
) -> None:
    """Run an accepted program, telling what it writes while it does."""
    run_id = command.run_id
    store.add(run_id, command.language)
    if store.is_over(run_id) or run_id in store.under_way:
        return  # a repeat of what has ended, or is at work: its output would be told twice at the same time
    program = boxes.Program(command.language, command.source, command.stdin, settings.limits())
    written = Written(clock)
    report: RunReport | None = None
    try:
        with anyio.CancelScope() as scope:
            store.under_way[run_id] = scope
            if store.is_cancelled(run_id):
                scope.cancel()
            async with places.one(places.people, command.asked_by, accepted=run_id):
                store.running(run_id)
                await bus.publish_now(RunStarted(run_id, command.language))
                written.begin()
                report = await _run_aloud(run_id, program, sandbox, bus, written)
    except FissileError:
        raise  # nothing can be told now; the run is tried again
    except Exception as error:  # noqa: BLE001 -- whatever it was, who watches is told that nothing more will come
        failure = failure_of(error)
        store.failed(run_id, failure)
        await bus.publish(RunFailed(run_id, failure.kind, failure.reason))
    else:
        report = report or written.report(run_id, program.language, sandbox.level)
        store.finished(report)
        await bus.publish(RunFinished(run_id, report))
    finally:
        store.under_way.pop(run_id, None)


async def _run_aloud(run_id: str, program: boxes.Program, sandbox: Sandbox, bus: Bus, written: Written) -> RunReport:
    """Run a program, and tell what it writes while it does."""
    live = Live()

    def note(stream: boxes.Stream, text: str) -> None:
        written.add(stream, text)
        live.add(stream, text)

    async def tell() -> None:
        async with aclosing(live.pieces()) as pieces:
            async for stream, text in pieces:
                await bus.publish_now(RunOutput(run_id, stream, text))

    report: RunReport | None = None
    failed: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tell)
        with closing(live):
            try:
                report = await _run(run_id, program, sandbox, note)
            except Exception as error:  # noqa: BLE001 -- raised below, so that no group is
                failed = error
    if report is None:
        assert failed is not None
        raise failed
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
async def get_run(query: GetRun, store: RunStore, follower: Follower) -> Run:
    """Tell where a run stands, on whichever replica it is."""
    await follower.knows(query.run_id)
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
