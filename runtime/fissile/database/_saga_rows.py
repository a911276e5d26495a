"""The rows of sagas: what is read and written of them, each function within a transaction of its caller's."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    func,
    insert,
    literal_column,
    or_,
    select,
    text,
    update,
)

from fissile.database._insert import insert_into
from fissile.database._tables import saga_events, saga_steps, sagas

SagaState = Literal["running", "waiting", "compensating", "completed", "compensated", "failed", "stuck"]
"""Where a saga stands. `running`: a process runs it, or is about to. `waiting`: for an event, for a time or for the next attempt of a
step. `compensating`: what it did is being undone. `completed`: its function has returned. `compensated`: it has failed, and what it did
is undone. `failed`: something could not be undone. `stuck`: the program no longer does what the history says."""

SAGA_STATES: tuple[SagaState, ...] = (
    "running",
    "waiting",
    "compensating",
    "completed",
    "compensated",
    "failed",
    "stuck",
)

GOES_ON = ("running", "waiting", "stuck")
_ERROR_LENGTH = 4000


class SagaRow(msgspec.Struct, frozen=True):
    """A row of `fissile_saga`; see there."""

    name: str
    saga_id: str
    run: str
    message: str
    body: bytes
    message_id: str
    status: SagaState
    is_undoing: bool
    step: str | None
    error: str | None
    owner: str | None
    until_ms: int | None
    epoch: int
    due_ms: int | None
    waits_topic: str | None
    waits_key: bytes | None
    first_seq: int
    started_ms: int
    updated_ms: int
    ended_ms: int | None


class StepRow(msgspec.Struct):
    """A row of `fissile_saga_step`; see there. `is_stored` tells whether the row is in the database."""

    position: int
    branch: int
    kind: str
    label: str
    digest: bytes
    outcome: str | None = None
    body: bytes | None = None
    seq: int | None = None
    attempts: int = 0
    is_uncertain: bool = False
    error: str | None = None
    due_ms: int | None = None
    undo_name: str | None = None
    undo_body: bytes | None = None
    undo_attempts: int = 0
    undo_error: str | None = None
    undone_ms: int | None = None
    began_ms: int = 0
    ended_ms: int | None = None
    is_stored: bool = False


class EventRow(msgspec.Struct, frozen=True):
    """An event that a saga may take."""

    seq: int
    message: str
    body: bytes


class Displaced(Exception):
    """Raised inside a transaction of a saga that another process runs by now, or that a person has changed."""


_STEP_COLUMNS = tuple(name for name in StepRow.__struct_fields__ if name != "is_stored")


def clip(error: str) -> str:
    """Return an error's text as it can be stored."""
    return error.replace("\x00", "\ufffd")[:_ERROR_LENGTH]


def is_it(row: SagaRow) -> ColumnElement[bool]:
    return and_(sagas.c.name == row.name, sagas.c.saga_id == row.saga_id)


def is_named(names: Collection[str]) -> ColumnElement[bool]:
    """Tell sagas by their names, but let no database look for them by that: nearly all sagas have one of a few names.

    SQLite has no statistics where nobody has asked for them, and would take the names for what tells most.
    """
    return sagas.c.name.concat("").in_(names)


def real_clock_ms(connection: Connection) -> ColumnElement[int]:
    """Return the database's own clock. Claims run on it, whatever clock the application has."""
    if connection.dialect.name == "sqlite":
        return literal_column("CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)")
    return literal_column("CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)")


# --- start and events ------------------------------------------------------------------------------------------------


def start(
    connection: Connection, name: str, saga_id: str, run: str, message: tuple[str, bytes, str], now_ms: int
) -> bool:
    """Add a saga, unless there is one of its name and id.

    Args:
        connection: The connection.
        name: The saga's name.
        saga_id: Its id.
        run: What the ids of its messages begin with.
        message: What starts it: the name, the body and the id of the message.
        now_ms: The time.

    Returns:
        Whether it was added.
    """
    before = connection.execute(select(func.coalesce(func.max(saga_events.c.seq), 0))).scalar_one()
    statement = insert_into(connection, sagas).values(
        name=name,
        saga_id=saga_id,
        run=run,
        message=message[0],
        body=message[1],
        message_id=message[2],
        status="running",
        is_undoing=False,
        epoch=0,
        due_ms=now_ms,
        first_seq=before,
        started_ms=now_ms,
        updated_ms=now_ms,
    )
    return connection.execute(statement.on_conflict_do_nothing()).rowcount == 1


def lock_key(connection: Connection, module: str, topic: str, key: bytes) -> None:
    """Let whoever stores an event of a key and whoever begins to wait for it take turns; SQLite has one writer anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
            {"name": f"{module}/{topic}/{key.hex()}"},
        )


def goes_on(connection: Connection, names: Collection[str]) -> bool:
    """Tell whether there is a saga of one of these names that may still wait for an event."""
    goes = (sagas.c.ended_ms.is_(None), sagas.c.status.in_(GOES_ON))  # the first lets it look at those alone
    # In the order of their index: else PostgreSQL may hope to find one soon among all that there are.
    found = (
        select(sagas.c.saga_id).where(sagas.c.name.in_(names), *goes).order_by(sagas.c.name, sagas.c.status).limit(1)
    )
    return connection.execute(found).first() is not None


def add_event(connection: Connection, topic: str, key: bytes, message: tuple[str, bytes, str], now_ms: int) -> bool:
    """Store an event, and let the sagas go on that wait for it; return whether there are any."""
    connection.execute(
        insert(saga_events).values(
            topic=topic, record_key=key, message=message[0], body=message[1], message_id=message[2], at_ms=now_ms
        )
    )
    woken = connection.execute(
        update(sagas)
        .where(sagas.c.waits_topic == topic, sagas.c.waits_key == key)
        .where(sagas.c.status.concat("") == "waiting")  # as in `is_named`: most of them wait
        .values(due_ms=now_ms)
    )
    return woken.rowcount > 0


def next_event(
    connection: Connection, row: SagaRow, topic: str, key: bytes, after: int, messages: Sequence[str]
) -> EventRow | None:
    """Return the first event of a key that a saga has not seen."""
    c = saga_events.c
    found = connection.execute(
        select(c.seq, c.message, c.body)
        .where(c.topic == topic, c.record_key == key, c.seq > after, c.message.in_(messages))
        .where(c.message_id != row.message_id)  # what started it is no news
        .order_by(c.seq)
        .limit(1)
    ).first()
    return None if found is None else EventRow(found[0], found[1], bytes(found[2]))


# --- claims ----------------------------------------------------------------------------------------------------------


def next_due(connection: Connection, names: Collection[str], now_ms: int) -> tuple[bool, int | None]:
    """Tell whether a saga can be taken now, and when the next one is due otherwise."""
    free = or_(sagas.c.until_ms.is_(None), sagas.c.until_ms < real_clock_ms(connection))
    ours = select(sagas.c.due_ms).where(is_named(names))
    ready = connection.execute(ours.where(sagas.c.due_ms <= now_ms, free).limit(1)).first() is not None
    later = ours.where(sagas.c.due_ms > now_ms).order_by(sagas.c.due_ms).limit(1)
    return ready, connection.execute(later).scalar()


def claim(
    connection: Connection, names: Collection[str], owner: str, claim_ms: int, now_ms: int, count: int
) -> list[SagaRow]:
    """Take sagas that are due and that nobody runs."""
    real_ms = real_clock_ms(connection)
    due = (
        select(sagas.c.name, sagas.c.saga_id)
        .where(is_named(names), sagas.c.due_ms <= now_ms)
        .where(or_(sagas.c.until_ms.is_(None), sagas.c.until_ms < real_ms))
        .order_by(sagas.c.due_ms)
        .limit(count)
        .with_for_update(skip_locked=True)
    )
    taken: list[SagaRow] = []
    for name, saga_id in connection.execute(due).all():
        key = and_(sagas.c.name == name, sagas.c.saga_id == saga_id)
        connection.execute(
            update(sagas)
            .where(key)
            .values(
                owner=owner,
                until_ms=real_ms + claim_ms,
                epoch=sagas.c.epoch + 1,
                status=RUNNING_AGAIN,
            )
        )
        taken.append(saga_of(connection.execute(select(sagas).where(key)).mappings().one()))
    return taken


RUNNING_AGAIN: ColumnElement[str] = literal_column(
    "CASE WHEN status NOT IN ('waiting', 'stuck') THEN status WHEN is_undoing THEN 'compensating' ELSE 'running' END"
)


def renew(connection: Connection, owner: str, claim_ms: int, names: Collection[tuple[str, str]]) -> None:
    """Keep sagas that an owner has taken, given by their names and ids.

    Not all that bear its name: one that it could not let go of, since the database was away, is to be taken again.
    """
    # One at a time: SQLite looks through the whole table for a list of pairs.
    this = (sagas.c.name == bindparam("its_name"), sagas.c.saga_id == bindparam("its_id"), sagas.c.owner == owner)
    connection.execute(
        update(sagas).where(*this).values(until_ms=real_clock_ms(connection) + claim_ms),
        [{"its_name": name, "its_id": saga_id} for name, saga_id in names],
    )


def guard(connection: Connection, row: SagaRow, now_ms: int, **values: Any) -> None:
    """Make sure that a saga is still ours, until the end of the transaction, and change its row.

    Raises:
        Displaced: It is not.
    """
    still = and_(is_it(row), sagas.c.epoch == row.epoch, sagas.c.is_undoing.is_(row.is_undoing))
    if connection.execute(update(sagas).where(still).values(updated_ms=now_ms, **values)).rowcount != 1:
        raise Displaced


def guard_outcome(connection: Connection, row: SagaRow, now_ms: int, **values: Any) -> bool:
    """Like `guard`, for what has happened whether or not the saga was given up meanwhile; tell whether it was.

    Raises:
        Displaced: Another process has it.
    """
    still = and_(is_it(row), sagas.c.epoch == row.epoch)
    changed = connection.execute(
        update(sagas).where(still).values(updated_ms=now_ms, **values).returning(sagas.c.is_undoing)
    ).first()
    if changed is None:
        raise Displaced
    return bool(changed[0]) is not row.is_undoing


def release(connection: Connection, row: SagaRow, owner: str) -> None:
    """Let go of a saga, whatever has become of it, if it is still ours: somebody can go on with it at once."""
    connection.execute(
        update(sagas).where(is_it(row), sagas.c.epoch == row.epoch, sagas.c.owner == owner).values(**LET_GO)
    )


LET_GO: dict[str, Any] = {"owner": None, "until_ms": None}
"""What a row gets when nobody runs the saga any more. Any: of the columns' types."""


# --- steps -----------------------------------------------------------------------------------------------------------


def steps_of(connection: Connection, name: str, saga_id: str) -> list[StepRow]:
    """Return the history of a saga, in order."""
    c = saga_steps.c
    found = select(*(c[column] for column in _STEP_COLUMNS)).where(c.name == name, c.saga_id == saga_id)
    rows = connection.execute(found.order_by(c.position, c.branch)).mappings()
    return [StepRow(**{key: _plain(value) for key, value in row.items()}, is_stored=True) for row in rows]


def save_steps(connection: Connection, row: SagaRow, steps: Sequence[StepRow]) -> None:
    """Write steps of a saga, new ones and changed ones."""
    c = saga_steps.c
    for step in steps:
        values = {column: getattr(step, column) for column in _STEP_COLUMNS}
        if step.is_stored:
            key = (c.name == row.name, c.saga_id == row.saga_id, c.position == step.position, c.branch == step.branch)
            connection.execute(update(saga_steps).where(*key).values(values))
        else:
            connection.execute(insert(saga_steps).values(name=row.name, saga_id=row.saga_id, **values))


def saga_of(row: Any) -> SagaRow:  # Any: a mapping of SQLAlchemy's
    return SagaRow(**{key: _plain(row[key]) for key in SagaRow.__struct_fields__})


def _plain(value: Any) -> Any:  # Any: of a column
    return bytes(value) if type(value) is memoryview else value
