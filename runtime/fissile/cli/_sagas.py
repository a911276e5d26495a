"""`fissile sagas`: where the long-running processes of the modules stand, and what to do about those that need a person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from attrs import frozen
from cyclopts import App, Parameter, validators
from sqlalchemy import Connection, inspect

from fissile._clock import SystemClock
from fissile.cli._context import Context, Whole
from fissile.cli._errors import did_you_mean
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._output import Output
from fissile.cli._serve import run_async
from fissile.cli._table import show_table
from fissile.database import DatabaseUnavailable, SagaState, SagaStatus, Schema
from fissile.database._dialect import Target
from fissile.database._saga_care import NEEDS_A_PERSON, find
from fissile.database._saga_care import resume as resume_row
from fissile.database._saga_care import undo as undo_row
from fissile.database._saga_rows import SagaRow, StepRow, steps_of
from fissile.database._sagas import status_of
from fissile.database._store import Store
from fissile.database._tables import sagas as saga_table

T = TypeVar("T")

sagas = App(name="sagas", help="Show where sagas stand; resume those that are stuck or failed, or undo what they did.")

Given = Context
_COLUMNS = ("module", "name", "id", "status", "step", "started", "updated", "error")
_STEP_COLUMNS = ("step", "kind", "label", "outcome", "attempts", "began", "took", "undo", "undone", "error")
_SHOWN_ERROR = 80
_OVER = ("completed", "compensated")
_WHY = "It was given up by hand (fissile sagas compensate)."


@frozen
class Found:
    """A saga in the database of a module.

    Attributes:
        module: The module.
        row: The saga.
        steps: Its history, where that is wanted.
    """

    module: str
    row: SagaRow
    steps: Sequence[StepRow] = ()

    @property
    def status(self) -> SagaStatus:
        """What a person is told of it."""
        return status_of(self.row, self.steps)


@sagas.command
def ls(
    *,
    status: SagaState | None = None,
    module: str | None = None,
    name: str | None = None,
    limit: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 100,
    context: Given,
) -> Exit:
    """List sagas: those that need a person (failed, stuck) first, then the newest of each module.

    Args:
        status: Only those that are running, waiting, compensating, completed, compensated, failed or stuck.
        module: Only those of this module.
        name: Only those of this name.
        limit: How many of each module at most.
        context: What all commands are given.
    """
    states = () if status is None else (status,)
    # One more than wanted tells that there are more.
    look = partial(_find, name=name, states=states, first=NEEDS_A_PERSON, limit=limit + 1)
    read = [Found(owner, row) for owner, row in _each(context, module, lambda connection: look(connection))]
    counts = Counter(each.module for each in read)
    found = [each for owner in counts for each in [one for one in read if one.module == owner][:limit]]
    found.sort(key=lambda each: each.row.status not in NEEDS_A_PERSON)
    if context.as_json:
        context.output.json([_told(each) for each in found])
    elif found:
        show_table(context.output, [_line(each) for each in found], _COLUMNS)
    else:
        context.output.say("There are no such sagas.")
    cut = sorted(owner for owner, count in counts.items() if count > limit)
    if cut:
        context.output.warn(
            f"There are more sagas of {', '.join(cut)} than the {limit} shown: --limit shows more, --status, --name and --module choose."
        )
    return Exit.OK


@sagas.command
def show(
    id: str,  # noqa: A002
    /,
    *,
    module: str | None = None,
    name: str | None = None,
    context: Given,
) -> Exit:
    """Show all that is known of a saga: its state, and its history step by step. Contents of messages are not shown.

    Args:
        id: Its id.
        module: Its module, where several have a saga of this id.
        name: Its name, likewise.
        context: What all commands are given.
    """
    found = _one(context, id, module, name)
    if context.as_json:
        context.output.json(_told(found))
    else:
        _tell(found, context.output)
    return Exit.OK


@sagas.command
def resume(
    id: str,  # noqa: A002
    /,
    *,
    module: str | None = None,
    name: str | None = None,
    context: Given,
) -> Exit:
    """Let a saga go on where it stopped, now, and with all attempts before it again. A running process takes it within a second.

    Args:
        id: Its id.
        module: Its module, where several have a saga of this id.
        name: Its name, likewise.
        context: What all commands are given.
    """
    found = _one(context, id, module, name)
    return _change(context, found, resume_row, "resumed", "goes on")


@sagas.command
def compensate(
    id: str,  # noqa: A002
    /,
    *,
    module: str | None = None,
    name: str | None = None,
    context: Given,
) -> Exit:
    """Give a saga up: what it did is undone, the last step first. A running process begins with that within a second.

    Args:
        id: Its id.
        module: Its module, where several have a saga of this id.
        name: Its name, likewise.
        context: What all commands are given.
    """
    found = _one(context, id, module, name)
    return _change(
        context,
        found,
        lambda connection, row, now_ms: undo_row(connection, row, _WHY, now_ms),
        "compensated",
        "is being undone",
    )


# --- the databases ---------------------------------------------------------------------------------------------------


def _each(
    context: Context, module: str | None, function: Callable[[Connection], Sequence[T]], *, writes: bool = False
) -> list[tuple[str, T]]:
    """Do something in the database of each module, or of one, and return all results with their modules.

    Raises:
        CommandFailed: There is no such module, or a database cannot be used.
    """
    application = context.application()
    modules = Whole.read(application, with_gateway=False).require().own
    if module is not None and module not in modules:
        raise CommandFailed(
            f"There is no module {module!r}.",
            *did_you_mean(module, modules),
            "`fissile ls` lists them.",
            code=Exit.UNKNOWN_NAME,
        )
    results: list[tuple[str, T]] = []
    for name, each in modules.items():
        if not isinstance(each.database, Schema) or module not in (None, name):
            continue
        target = Target.of(name, application.settings, folder=application.root, application=application.name)
        if target.dialect == "sqlite" and not target.file.exists():
            continue  # nothing has run yet, and to look makes no file
        try:
            done: Sequence[T] = run_async(
                _use, application.settings, target, application.settings, function, int(writes)
            )
        except DatabaseUnavailable as error:
            cure = "Where databases are is the setting FISSILE_DATABASE; `fissile config` shows it."
            raise CommandFailed(f"{str(error)[:1].upper()}{str(error)[1:]}.", cure, code=Exit.UNAVAILABLE) from error
        results += [(name, result) for result in done]
    return results


async def _use(
    target: Target, settings: Any, function: Callable[[Connection], Sequence[T]], writes: Literal[0, 1]
) -> Sequence[T]:
    # Any: the runtime's settings; `run_async` passes what it is given.
    async with Store(target, settings) as store:
        if not await store.read(lambda connection: inspect(connection).has_table(saga_table.name)):
            return ()
        return await (store.run(function) if writes else store.read(function))


def _find(connection: Connection, **wanted: Any) -> list[SagaRow]:  # Any: see `find`
    return find(connection, **wanted)


def _one(context: Context, saga_id: str, module: str | None, name: str | None) -> Found:
    """Return the one saga of an id.

    Raises:
        CommandFailed: There is none, or there are several.
    """

    def look(connection: Connection) -> list[tuple[SagaRow, list[StepRow]]]:
        return [
            (row, steps_of(connection, row.name, row.saga_id)) for row in find(connection, name=name, saga_id=saga_id)
        ]

    found = [Found(owner, *each) for owner, each in _each(context, module, look)]
    if not found:
        raise CommandFailed(
            f"There is no saga {saga_id!r}.",
            "`fissile sagas ls` lists them. One that has ended is forgotten after FISSILE_SAGA_RETENTION_S.",
            code=Exit.UNKNOWN_NAME,
        )
    if len(found) > 1:
        known = ", ".join(f"--module {each.module} --name {each.row.name}" for each in found)
        raise CommandFailed(
            f"There are {len(found)} sagas {saga_id!r}.", f"Say which: {known}.", code=Exit.UNKNOWN_NAME
        )
    return found[0]


def _change(
    context: Context, found: Found, change: Callable[[Connection, SagaRow, int], bool], done: str, goes_on: str
) -> Exit:
    row = found.row
    title = f"{found.module}.{row.name} {row.saga_id}"
    if row.status in _OVER:
        raise CommandFailed(f"{title} was not {done}: it is {row.status}, and has ended.", code=Exit.FAILED)
    now_ms = int(SystemClock().now().timestamp() * 1000)
    ((_, changed),) = _each(context, found.module, lambda connection: [change(connection, row, now_ms)], writes=True)
    if not changed:
        raise CommandFailed(
            f"{title} was not {done}: it has gone on meanwhile.",
            "`fissile sagas show` tells where it stands.",
            code=Exit.FAILED,
        )
    if context.as_json:
        context.output.json({"module": found.module, "name": row.name, "id": row.saga_id, "done": done})
    else:
        context.output.say(f"{title} {goes_on}: `fissile sagas show {row.saga_id}` tells how it fares.")
    return Exit.OK


# --- how it is told --------------------------------------------------------------------------------------------------


def _told(found: Found) -> dict[str, Any]:  # Any: what JSON holds
    status = found.status
    told = {"module": found.module, **{key: getattr(status, key) for key in status.__struct_fields__}}
    if not found.steps:
        del told["history"]
    return told


def _line(found: Found) -> dict[str, object]:
    status = found.status
    error = (status.error or "").partition("\n")[0]
    return {
        "module": found.module,
        "name": status.name,
        "id": status.id,
        "status": status.status,
        "step": status.step,
        "started": _shown(status.started),
        "updated": _shown(status.updated),
        "error": f"{error[: _SHOWN_ERROR - 1]}…" if len(error) > _SHOWN_ERROR else error,
    }


def _tell(found: Found, output: Output) -> None:
    status = found.status
    waits = f", waits for {status.waits_for}" if status.waits_for else ""
    due = f", goes on at {_shown(status.due)}" if status.due is not None and status.status == "waiting" else ""
    output.data(f"{found.module}.{status.name} {status.id}: {status.status}{waits}{due}")
    ended = f", ended {_shown(status.ended)}" if status.ended is not None else ""
    output.data(f"started {_shown(status.started)}, last did something {_shown(status.updated)}{ended}")
    if status.error:
        output.data(f"error: {status.error}")
    rows = [
        {
            "step": step.number,
            "kind": step.kind,
            "label": step.label,
            "outcome": step.outcome,
            "attempts": step.attempts or None,
            "began": _shown(step.began),
            "took": None if step.ended is None else f"{(step.ended - step.began).total_seconds():.3f} s",
            "undo": step.undo,
            "undone": None if step.undone is None else _shown(step.undone),
            "error": step.undo_error or step.error,
        }
        for step in status.history
    ]
    used = [column for column in _STEP_COLUMNS if any(row[column] for row in rows)]
    if rows:
        output.data("")
        show_table(output, rows, used)


def _shown(time: datetime | None) -> str:
    return "" if time is None else time.isoformat(sep=" ", timespec="milliseconds").replace("+00:00", "Z")
