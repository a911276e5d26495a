"""Looking at sagas, and what people and time do with them: go on, undo, forget. Each function within a transaction of its caller's."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, case, delete, func, or_, select, update

from fissile.database._saga_rows import (
    GOES_ON,
    RUNNING_AGAIN,
    SagaRow,
    SagaState,
    is_it,
    is_named,
    real_clock_ms,
    saga_of,
)
from fissile.database._tables import saga_events, saga_steps, sagas

NEEDS_A_PERSON: tuple[SagaState, ...] = ("failed", "stuck")
"""Sagas that go on by themselves no more, or only when the program is changed."""


def find(
    connection: Connection,
    *,
    name: str | None = None,
    saga_id: str | None = None,
    states: Collection[SagaState] = (),
    first: Collection[SagaState] = (),
    limit: int = 1000,
) -> list[SagaRow]:
    """Return sagas, the newest first, but those in some states before all others."""
    if saga_id is not None:
        statement = select(sagas).where(sagas.c.saga_id == saga_id)
        if name is not None:
            statement = statement.where(sagas.c.name == name)
        if states:
            statement = statement.where(sagas.c.status.in_(states))
        return _newest(connection, statement, limit)
    statement = select(sagas) if name is None else select(sagas).where(is_named((name,)))
    if states:
        statement = statement.where(sagas.c.status.in_(states))
    if not first:
        return _newest(connection, statement, limit)
    found = _newest(connection, statement.where(sagas.c.status.in_(first)), limit)
    if len(found) < limit:
        found += _newest(connection, statement.where(sagas.c.status.not_in(first)), limit - len(found))
    return found


def _newest(connection: Connection, statement: Select[*tuple[Any, ...]], limit: int) -> list[SagaRow]:
    ordered = statement.order_by(sagas.c.started_ms.desc(), sagas.c.saga_id).limit(limit)
    return [saga_of(row) for row in connection.execute(ordered).mappings()]


def resume(connection: Connection, row: SagaRow, now_ms: int) -> bool:
    """Let a saga go on where it stopped, with all attempts before it again; return False if it has changed meanwhile.

    A process that runs it keeps it until it has come to the end of its step.
    """
    runs = sagas.c.until_ms > real_clock_ms(connection)
    changed = connection.execute(
        update(sagas)
        .where(is_it(row), sagas.c.epoch == row.epoch, sagas.c.status == row.status)
        .values(
            status="compensating" if row.is_undoing else "running",
            due_ms=now_ms,
            updated_ms=now_ms,
            epoch=case((runs, sagas.c.epoch), else_=sagas.c.epoch + 1),
            owner=case((runs, sagas.c.owner), else_=None),
        )
    )
    if changed.rowcount != 1:
        return False
    of_it = and_(saga_steps.c.name == row.name, saga_steps.c.saga_id == row.saga_id)
    connection.execute(update(saga_steps).where(of_it, saga_steps.c.outcome.is_(None)).values(attempts=0))
    connection.execute(
        update(saga_steps)
        .where(of_it, saga_steps.c.outcome.is_(None), saga_steps.c.error.is_not(None))
        .values(due_ms=None)  # the next attempt; the time of a timer stays
    )
    connection.execute(update(saga_steps).where(of_it, saga_steps.c.undone_ms.is_(None)).values(undo_attempts=0))
    return True


def undo(connection: Connection, row: SagaRow, why: str, now_ms: int) -> bool:
    """Let what a saga did be undone; return False if it has changed meanwhile."""
    # What a stuck one was stuck on is over, and would pass for the reason of the undoing.
    error: str | ColumnElement[str] = why if row.status == "stuck" else func.coalesce(sagas.c.error, why)
    changed = connection.execute(
        update(sagas)
        .where(is_it(row), sagas.c.epoch == row.epoch, sagas.c.status == row.status)
        .values(is_undoing=True, error=error)
    )
    return changed.rowcount == 1 and resume(connection, msgspec.structs.replace(row, is_undoing=True), now_ms)


def retry_stuck(connection: Connection, names: Collection[str], now_ms: int) -> int:
    """Let the stuck sagas of this program try again, once at its start; return how many there are."""
    statement = update(sagas).where(sagas.c.status == "stuck", sagas.c.name.in_(names), sagas.c.due_ms.is_(None))
    return connection.execute(statement.values(due_ms=now_ms, status=RUNNING_AGAIN)).rowcount


def unknown_names(connection: Connection, names: Collection[str]) -> list[str]:
    """Return the names of sagas that have not ended and that this program does not know."""
    statement = select(sagas.c.name).where(sagas.c.ended_ms.is_(None), sagas.c.name.not_in(names)).distinct()
    return sorted(connection.execute(statement).scalars())


def clean(connection: Connection, before_ms: int, *, limit: int = 500) -> bool:
    """Forget sagas that have ended before some time, with their steps, and events that nobody can wait for any more: so many at a time.

    Returns:
        Whether there may be more.
    """
    old = connection.execute(
        select(sagas.c.name, sagas.c.saga_id)
        .where(sagas.c.status.in_(("completed", "compensated")), sagas.c.ended_ms < before_ms)
        .limit(limit)
    ).all()
    if old:
        these = [{"its_name": name, "its_id": saga_id} for name, saga_id in old]
        for table in (saga_steps, sagas):
            this = (table.c.name == bindparam("its_name"), table.c.saga_id == bindparam("its_id"))
            connection.execute(delete(table).where(*this), these)
    going = and_(sagas.c.ended_ms.is_(None), sagas.c.status.in_(GOES_ON))
    oldest = connection.execute(select(func.min(sagas.c.first_seq)).where(going)).scalar()
    is_stale = saga_events.c.at_ms < before_ms
    condition = is_stale if oldest is None else or_(is_stale, saga_events.c.seq <= oldest)
    some = select(saga_events.c.seq).where(condition).limit(10 * limit)
    forgotten = connection.execute(delete(saga_events).where(saga_events.c.seq.in_(some))).rowcount
    return len(old) == limit or forgotten == 10 * limit
