"""The sagas of a module: how they are started and told of events, and where they stand."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import Connection

from fissile._bus import Bus, Queries
from fissile._contract import Topic
from fissile._module import SagaDeclaration
from fissile._process import Lifespan
from fissile.database._saga_care import find
from fissile.database._saga_codecs import Codecs
from fissile.database._saga_journal import SagaHost
from fissile.database._saga_rows import (
    SagaRow,
    SagaState,
    StepRow,
    add_event,
    goes_on,
    lock_key,
    start,
    steps_of,
)
from fissile.database._saga_run import SagaProgram
from fissile.database._saga_worker import SagaWorker

if TYPE_CHECKING:
    from fissile._storage import SagaContext, StorageContext
    from fissile.database._storage import ModuleStorage

_ID_LENGTH = 200


class SagaStep(msgspec.Struct, frozen=True):
    """One step of a saga.

    Attributes:
        number: Which step it is, from 1; those that were done at a time have one number.
        kind: What was done: `execute`, `gather`, `wait-for`, …
        label: With what: the name of a message or a topic, …
        outcome: `replied`, `declared:<error>`, `failed:<error>`, `done` or `timed-out`; None while it is not known.
        attempts: How often it was tried.
        error: What the last attempt that failed came to.
        began: When it began.
        ended: When its outcome was known.
        undo: The command that undoes it.
        undone: When that was done.
        undo_error: Why that could not be done.
    """

    number: int
    kind: str
    label: str
    outcome: str | None
    attempts: int
    error: str | None
    began: datetime
    ended: datetime | None
    undo: str | None
    undone: datetime | None
    undo_error: str | None


class SagaStatus(msgspec.Struct, frozen=True):
    """Where a saga stands.

    Attributes:
        name: The saga's name.
        id: Its id.
        status: `running`, `waiting`, `compensating`, `completed`, `compensated`, `failed` or `stuck`; see docs/sagas.md.
        step: The step it is at.
        error: Why it failed, or is stuck.
        started: When it was started.
        updated: When it did something last.
        ended: When it was completed or compensated.
        due: When it goes on, if that is a matter of time.
        waits_for: The topic that it waits for.
        history: Its steps, in order.
    """

    name: str
    id: str
    status: SagaState
    step: str | None
    error: str | None
    started: datetime
    updated: datetime
    ended: datetime | None
    due: datetime | None
    waits_for: str | None
    history: tuple[SagaStep, ...] = ()


class Sagas:
    """The sagas of a module. A handler, a query's too, or a worker names it in its parameters."""

    def __init__(self, storage: ModuleStorage, context: StorageContext) -> None:
        self._storage = storage
        self._context = context
        self._declarations = context.sagas
        self._codecs = Codecs(context.name_of, context.settings.max_message_bytes)
        self._worker: SagaWorker | None = None
        self._news: list[str] = []

    def __repr__(self) -> str:
        return f"<Sagas of {self._storage.module}>"

    async def find(self, saga: str | Callable[..., Coroutine[Any, Any, None]], id: str) -> SagaStatus | None:  # noqa: A002
        """Tell where a saga stands; None if none of this id was started, or it ended longer ago than the settings keep it.

        Args:
            saga: Its function, or its name.
            id: Its id.

        Raises:
            DatabaseUnavailable: The database cannot be reached.
        """
        name = self._name_of(saga)

        def read(connection: Connection) -> tuple[list[SagaRow], list[StepRow]]:
            rows = find(connection, name=name, saga_id=id)
            return rows, steps_of(connection, name, id) if rows else []

        rows, steps = await self._storage.store.read(read)
        return status_of(rows[0], steps) if rows else None

    async def list(
        self,
        saga: str | Callable[..., Coroutine[Any, Any, None]] | None = None,
        *,
        states: Collection[SagaState] = (),
        limit: int = 100,
    ) -> tuple[SagaStatus, ...]:
        """Tell where sagas stand, the newest first, without their histories.

        Args:
            saga: Only those of this function, or of this name.
            states: Only those in one of these states.
            limit: How many at most.

        Raises:
            DatabaseUnavailable: The database cannot be reached.
        """
        name = None if saga is None else self._name_of(saga)
        rows = await self._storage.store.read(
            lambda connection: find(connection, name=name, states=states, limit=limit)
        )
        return tuple(status_of(row, ()) for row in rows)

    def _name_of(self, saga: str | Callable[..., Any]) -> str:
        if isinstance(saga, str):
            return saga
        for declaration in self._declarations:
            if declaration.function is saga:
                return declaration.name
        raise ValueError(f"{saga!r} is no saga of {self._storage.module}")

    # --- what handlers do --------------------------------------------------------------------------------------------

    async def _start(self, declaration: SagaDeclaration, message: Any, message_id: str) -> str:
        """Start a saga in the transaction of the handler that runs, unless there is one of its id; return the id."""
        saga_id: object = message_id if declaration.id is None else declaration.id(message)
        if not isinstance(saga_id, str) or not 0 < len(saga_id) <= _ID_LENGTH or "\x00" in saga_id:
            raise ValueError(
                f"the id of the saga {declaration.name} is to be a text of 1 to {_ID_LENGTH} characters, and it is {saga_id!r}"
            )
        cls: type = message.__class__
        codec = self._codecs.message(cls)
        what = (codec.name, codec.encode(message), message_id)
        run, now_ms = self._context.environment.ids.new(), self._storage.now_ms()
        async with self._storage.database.transaction() as tx:
            await tx.run(lambda connection: start(connection, declaration.name, saga_id, run, what, now_ms))
        self._news.append(message_id)
        return saga_id

    async def _collect(self, topic: Topic[Any], event: Any, message_id: str) -> None:
        """Store an event for the sagas that wait for it, or may do so."""
        names = tuple(each.name for each in self._declarations if topic in each.awaits)
        cls: type = event.__class__
        codec, key = self._codecs.message(cls), topic.key(event).encode()
        what = (codec.name, codec.encode(event), message_id)
        now_ms, module = self._storage.now_ms(), self._storage.module

        def work(connection: Connection) -> bool:
            if not goes_on(connection, names):
                return False
            lock_key(connection, module, topic.name, key)
            return add_event(connection, topic.name, key, what, now_ms)

        async with self._storage.database.transaction() as tx:
            is_awaited = await tx.run(work)
        if is_awaited:
            self._news.append(message_id)

    def committed(self, bus: Queries) -> None:
        """Note that a handler has come to its end: what it did is committed, or undone."""
        if self._news and (message_id := bus._message_id()) in self._news:
            self._news.remove(message_id)
            self.wake()

    def wake(self) -> None:
        """Let sagas go on that are due."""
        if self._worker is not None:
            self._worker.wake()

    # --- running them ------------------------------------------------------------------------------------------------

    async def run(self, context: SagaContext, lifespan: Lifespan, owner: str) -> None:
        """Run them until the process drains; see `OpenStorage.run_sagas`."""
        environment, settings, codecs = self._context.environment, self._context.settings, self._codecs
        routes = self._context.routes
        host = SagaHost(
            module=self._storage.module,
            store=self._storage.store,
            statements=self._storage.statements,
            codecs=codecs,
            bus=Bus(routes),
            context=context.context,
            errors=codecs.errors_of(context.errors),
            commands={codecs.name_of(cls): cls for cls in routes.commands},
            random=environment.random,
            steps=settings.saga_steps,
            now_ms=self._storage.now_ms,
            sent=self._storage.wake,
        )
        self._worker = SagaWorker(
            host,
            {each.name: self._program(each, context.functions) for each in self._declarations},
            owner,
            environment.clock,
            running=settings.sagas_running,
            claim_s=settings.saga_claim_s,
            retention_s=settings.saga_retention_s,
        )
        try:
            await self._worker.run(lifespan)
        finally:
            self._worker = None

    def _program(self, declaration: SagaDeclaration, functions: Mapping[str, Callable[..., Any]]) -> SagaProgram:
        starts = {self._codecs.name_of(cls): cls for cls in declaration.starts}
        return SagaProgram(declaration.name, starts, declaration.awaits, declaration.retry, functions[declaration.name])


def status_of(row: SagaRow, steps: Collection[StepRow]) -> SagaStatus:
    """Return what a person is told of a saga."""
    is_over = row.status in ("completed", "compensated")
    return SagaStatus(
        row.name,
        row.saga_id,
        row.status,
        row.step,
        row.error,
        _time(row.started_ms),
        _time(row.updated_ms),
        _time_or_none(row.ended_ms),
        None if is_over else _time_or_none(row.due_ms),
        row.waits_topic if row.status == "waiting" else None,
        tuple(_step(step) for step in steps),
    )


def _step(step: StepRow) -> SagaStep:
    return SagaStep(
        step.position + 1,
        step.kind,
        step.label,
        step.outcome,
        step.attempts,
        step.error,
        _time(step.began_ms),
        _time_or_none(step.ended_ms),
        step.undo_name,
        _time_or_none(step.undone_ms),
        step.undo_error,
    )


def _time(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


def _time_or_none(ms: int | None) -> datetime | None:
    return None if ms is None else _time(ms)
