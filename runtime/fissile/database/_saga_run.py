"""One run of a saga: its function from the start, through the history, up to where it has to wait or ends; or the undoing of what it did."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import anyio
import msgspec
from sqlalchemy import Connection

from fissile._contract import Topic
from fissile._errors import InvalidMessage
from fissile._handler import only_leaf
from fissile._isolation import run_isolated
from fissile._messages import Command
from fissile._retry import Retry
from fissile.database._errors import DatabaseUnavailable
from fissile.database._saga import Saga
from fissile.database._saga_codecs import may_have_happened
from fissile.database._saga_history import History
from fissile.database._saga_journal import Abandoned, End, Journal, SagaHost, Stuck, Suspended
from fissile.database._saga_rows import (
    LET_GO,
    Displaced,
    SagaRow,
    StepRow,
    clip,
    guard,
    lock_key,
    next_event,
    save_steps,
    steps_of,
)

_logger = logging.getLogger("fissile.sagas")


class SagaProgram(msgspec.Struct, frozen=True):
    """A saga's function, ready to run.

    Attributes:
        name: The saga's name.
        starts: The classes of the messages that start it, by their names.
        topics: The topics that it waits for.
        retry: When a step that failed is tried again.
        function: Takes what started it and the `Saga`.
    """

    name: str
    starts: Mapping[str, type]
    topics: tuple[Topic[Any], ...]
    retry: Retry
    function: Callable[[Any, Saga], Coroutine[Any, Any, None]]


async def run_saga(host: SagaHost, program: SagaProgram, row: SagaRow, drains: Callable[[], bool]) -> bool:
    """Let a saga that this process has taken go on as far as it can, and let go of it.

    Args:
        host: What sagas run with.
        program: Its function.
        row: Its row, as it was taken.
        drains: Tells whether the process drains.

    Returns:
        False if it could not be let go of, because somebody else has changed it meanwhile.

    Raises:
        DatabaseUnavailable: The database cannot be used; the saga goes on when it can.
    """
    steps = await host.store.read(lambda connection: steps_of(connection, row.name, row.saga_id))
    journal = Journal(host, row, History(steps, host.steps, row.started_ms), program.retry, drains)
    if not row.is_undoing:
        has_ended = await _forwards(journal, program)
        if has_ended is not None:
            return has_ended
        row = msgspec.structs.replace(row, is_undoing=True)
        journal = Journal(host, row, journal.history, program.retry, drains)
    with journal.scope:
        await _backwards(journal)
    return journal.end is None or await _let_go(journal, journal.end, "compensating")


async def _forwards(journal: Journal, program: SagaProgram) -> bool | None:
    """Run the function; return whether the saga was let go of, or None if the function has failed, and what it did is to be undone."""
    row, host, error = journal.row, journal.host, None
    saga = Saga(journal, program.topics)
    with journal.scope:
        try:
            message = host.codecs.message(program.starts[row.message]).decode(row.body)
        except (InvalidMessage, KeyError) as problem:
            journal.end = Stuck(f"the message {row.message} that started it cannot be read any more: {problem}")
        else:
            try:
                await run_isolated(host.context.copy(), program.function(message, saga))
            except Exception as raised:  # noqa: BLE001 -- the developer's function may raise anything
                error = only_leaf(raised)
    end = journal.end
    if end is None and journal.history.has_more:
        ended = "returns" if error is None else f"raises {type(error).__name__}: {error}"
        step = journal.history.steps[-1]
        end = Stuck(
            f"the program {ended} after step {journal.history.position}, and the history has {step.position + 1}: "
            f"the last one was `{step.kind} {step.label}`"
        )
    if end is not None:
        return await _let_go(journal, end, "waiting")
    now_ms = host.now_ms()
    if error is None:
        return await _change(journal, status="completed", step=None, error=None, due_ms=None, ended_ms=now_ms, **LET_GO)
    _logger.error("%s failed; what it did is being undone", journal.title, exc_info=error)
    text = clip(f"{type(error).__name__}: {error}")
    return None if await _change(journal, status="compensating", is_undoing=True, error=text) else False


async def _change(journal: Journal, **values: Any) -> bool:
    """Change the row of a saga if it is still ours; tell whether it was. Any: of the columns' types."""
    host, now_ms = journal.host, journal.host.now_ms()
    try:
        with anyio.CancelScope(shield=True):
            await host.store.run(lambda connection: guard(connection, journal.row, now_ms, **values))
    except Displaced:
        return False
    return True


async def _let_go(journal: Journal, end: End, status: str) -> bool:
    """Write down why the function was stopped, and let go of the saga; return False if it is no longer as it was."""
    if isinstance(end, Abandoned):
        if end.error is not None:
            raise end.error
        return False
    if isinstance(end, Stuck):
        _logger.error("%s is stuck: %s", journal.title, end.why)
        return await _change(journal, status="stuck", error=clip(end.why), due_ms=None, **LET_GO)
    row, host, now_ms = journal.row, journal.host, journal.host.now_ms()
    if end.due_ms is not None and end.due_ms <= now_ms and end.event is None and status == "waiting":
        status = "running"

    def work(connection: Connection) -> None:
        due_ms, topic, key = end.due_ms, None, None
        if end.event is not None:
            topic, key, after, messages = end.event
            lock_key(connection, host.module, topic, key)
            if next_event(connection, row, topic, key, after, messages) is not None:
                due_ms = now_ms  # it came while the function was being stopped
        guard(connection, row, now_ms, status=status, due_ms=due_ms, waits_topic=topic, waits_key=key, **LET_GO)

    try:
        with anyio.CancelScope(shield=True):
            await host.store.run(work)
    except Displaced:
        return False
    return True


# --- undoing ---------------------------------------------------------------------------------------------------------


async def _backwards(journal: Journal) -> None:
    """Undo the steps of a saga, the last one first, each once."""
    host = journal.host
    for step in reversed(journal.history.steps):
        if step.undo_name is None or step.undone_ms is not None:
            continue
        if not step.is_stored or not may_have_happened(step.outcome, is_uncertain=step.is_uncertain):
            continue
        if journal.drains():
            await journal.stop(Suspended(host.now_ms()))
        problem = await _undo(journal, step)
        if problem is not None:
            _logger.error(
                "%s: %s could not be undone with %s: %s. It is kept: `fissile sagas show %s`, and `resume` when that has been seen to.",
                journal.title,
                step.label,
                step.undo_name,
                problem,
                journal.row.saga_id,
            )
            await journal.transact(
                lambda connection: save_steps(connection, journal.row, [step]),  # noqa: B023 -- called here
                status="failed",
                due_ms=None,
                **LET_GO,
            )
            return
    await journal.transact(_nothing, status="compensated", step=None, due_ms=None, ended_ms=host.now_ms(), **LET_GO)


def _nothing(_connection: Connection) -> None:
    """Change the row alone."""


async def _undo(journal: Journal, step: StepRow) -> str | None:
    """Undo one step; return what keeps it from being undone for good."""
    host, name = journal.host, step.undo_name or ""
    cls = host.commands.get(name)
    if cls is None:
        return f"no module of the application handles {name}"
    try:
        command: Command[Any] = host.codecs.message(cls).decode(step.undo_body or b"")
        await host.bus.execute(command, id=f"{journal.row.run}.{step.position}.{step.branch}.undo")
    except Exception as raised:  # noqa: BLE001 -- whatever an undo comes to is written down
        error = only_leaf(raised)
        if isinstance(error, DatabaseUnavailable) and error.module == host.module:
            await journal.stop(Abandoned(error))
        step.undo_attempts += 1
        step.undo_error = clip(f"{type(error).__name__}: {error}")
        is_declared = isinstance(error, cls.declared_errors) if cls.declared_errors else False
        if is_declared or isinstance(error, InvalidMessage) or journal.retry.is_over(step.undo_attempts, error):
            return step.undo_error
        pause_ms = int(journal.retry.pause_s(step.undo_attempts, host.random) * 1000)
        await journal.transact(
            lambda connection: save_steps(connection, journal.row, [step]), step=f"undo {step.label}"
        )
        await journal.stop(Suspended(host.now_ms() + pause_ms))
    step.undo_attempts += 1
    step.undo_error, step.undone_ms = None, host.now_ms()
    await journal.transact(lambda connection: save_steps(connection, journal.row, [step]), step=f"undo {step.label}")
    return None
