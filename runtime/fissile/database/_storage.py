"""A module's database in a running process: what joins the store, the inbox, the outbox and the fence to the runtime."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from sqlalchemy import Connection

from fissile._bus import Bus, Queries, Scheduled
from fissile._delivery.lifecycle import State
from fissile._errors import PartitionLost
from fissile._forbidden_calls import ForbiddenCalls
from fissile._handler import Handler
from fissile._process import Lifespan
from fissile._storage import Call, Committed, Effects, RelayStatistics, SagaContext, StorageContext
from fissile.abc import Outgoing, Transport
from fissile.database._database import Database, Transaction
from fissile.database._dialect import Target
from fissile.database._fences import Epoch, Fences
from fissile.database._inbox import Fenced, Statements
from fissile.database._lease import open_lease
from fissile.database._migrations import migrate, prepare
from fissile.database._relay import Relay
from fissile.database._sagas import Sagas
from fissile.database._schedules import Schedules
from fissile.database._schema import Schema
from fissile.database._store import Store
from fissile.database._unit import Once, each, encode, none

if TYPE_CHECKING:
    from fissile._delivery.lifecycle import Delivery


class ModuleStorage:
    """The database of one module, open.

    Args:
        context: What it was opened with.
        store: The connections.
    """

    def __init__(self, context: StorageContext, store: Store) -> None:
        self.module = context.module
        self.store = store
        self.statements = Statements(store.dialect)
        self.fences = Fences(store, self.statements)
        self.database = Database(self)
        self.sagas = Sagas(self, context)
        self._context = context
        self._relay = Relay(
            store,
            open_lease(store, "relay", uuid.uuid4().hex),
            context.environment.clock,
            Schedules(store, context.module, context.schedules, context.routes, since=context.environment.clock.now()),
            context.settings.inbox_retention_s,
        )

    @property
    def values(self) -> Mapping[Any, Any]:
        """What handlers and workers take as parameters."""
        return {Database: self.database, Sagas: self.sagas}

    def now_ms(self) -> int:
        """Return the time in milliseconds since 1970."""
        return int(self._context.environment.clock.now().timestamp() * 1000)

    def around(self, handler: Handler, name: str, effects: Effects, call: Call) -> Call:
        """See `OpenStorage`."""
        if effects == "once":
            once = Once(self, handler, name, call)
            return self._telling(once) if self._context.sagas else once
        return each(self, handler, call) if effects == "each" else none(self, call)

    def _telling(self, call: Call) -> Call:
        """Let the sagas know when a handler's effects have been committed."""

        async def handle(message: Any, bus: Queries) -> Any:
            try:
                return await call(message, bus)
            finally:
                self.sagas.committed(bus)

        return handle

    async def keep(
        self, records: list[Outgoing | Scheduled], bus: Queries | None = None, epoch: Epoch | None = None
    ) -> None:
        """See `OpenStorage`; of a handler, if its partition is still under the epoch that it began with."""
        with self._fencing(bus, epoch) as check:

            def work(connection: Connection) -> int | None:
                check(connection)
                return self.statements.keep(connection, records)

            first = await self.store.run(work)
        self.wake(records, first)

    def wake(self, outgoing: Sequence[Outgoing | Scheduled] = (), first: int | None = None) -> None:
        """Tell the relay that something was committed; see `Relay.wake`."""
        self._relay.wake(outgoing, first)

    @asynccontextmanager
    async def transaction(self, bus: Queries | None = None, epoch: Epoch | None = None) -> AsyncGenerator[Transaction]:
        """Open a transaction that commits at the end of its block.

        Args:
            bus: The bus of the handler that opens it; one of the module's own where there is none.
            epoch: Under which the partition of the handler's message has to be at the commit.

        Raises:
            PartitionLost: It is another's by then; nothing was changed.
        """
        sender = bus or Bus(self._context.routes)
        outgoing: list[Outgoing | Scheduled] = []
        opened = await self.store.begin()
        forbids = ForbiddenCalls(f"a transaction of {self.module} is open")
        try:
            try:
                yield Transaction(opened.run, lambda *what: outgoing.append(encode(sender, *what)))
            finally:
                forbids.end()
        except BaseException:
            await opened.rollback()
            raise
        with anyio.CancelScope(shield=True), self._fencing(bus, epoch) as check:
            if outgoing or epoch is not None:

                def last(connection: Connection) -> int | None:
                    check(connection)
                    return self.statements.keep(connection, outgoing)

                first = await opened.commit(last)
                if outgoing:
                    self.wake(outgoing, first)
            else:
                await opened.commit()

    # --- the fence ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _fencing(self, bus: Queries | None, epoch: Epoch | None) -> Generator[Callable[[Connection], None]]:
        """Give what checks, within a transaction, that the partition of a handler's message is still ours."""
        delivery = None if bus is None else bus._delivery

        def check(connection: Connection) -> None:
            if epoch is None or delivery is None:
                return
            if delivery.state is State.ABANDONED:
                raise Fenced
            self.statements.check_epoch(connection, *epoch)

        try:
            yield check
        except Fenced:
            assert delivery is not None
            raise self.fenced(delivery) from None

    def fenced(self, delivery: Delivery) -> PartitionLost:
        """Return what a handler gets whose partition was found to be another's: the next message claims it anew, if it comes here after all."""
        self.fences.forget(delivery.owner)
        return self.lost(delivery)

    def lost(self, delivery: Delivery) -> PartitionLost:
        """Return what a handler gets whose partition is another's."""
        record, name = delivery.record, delivery.subscription.handler.name
        return PartitionLost(
            f"{record.topic}[{record.partition}] has gone to another process, which handles {name}; nothing was changed here"
        )

    async def relay(self, transport: Transport, topics: Collection[str], committed: Committed | None) -> None:
        """See `OpenStorage`."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.store.watch)
            await self._relay.run(transport, topics, committed)

    async def run_sagas(self, context: SagaContext, lifespan: Lifespan) -> None:
        """See `OpenStorage`."""
        await self.sagas.run(context, lifespan, uuid.uuid4().hex)

    def relay_statistics(self) -> RelayStatistics:
        """See `OpenStorage`."""
        return self._relay.statistics()

    def check(self) -> str | None:
        """See `OpenStorage`."""
        return self.store.check() or self._relay.check()


@asynccontextmanager
async def open_storage(schema: Schema, context: StorageContext) -> AsyncGenerator[ModuleStorage]:
    """Open a module's database; see `Schema.open`."""
    target = Target.of(context.module, context.settings, folder=context.root or Path(), application=context.application)
    async with Store(target, context.settings) as store:
        await _prepare(store, schema, context)
        yield ModuleStorage(context, store)


async def _prepare(store: Store, schema: Schema, context: StorageContext) -> None:
    if context.settings.database_migrate and not context.is_dev:
        await migrate(store, schema)
    else:
        await prepare(store, schema, applies=context.is_dev)
