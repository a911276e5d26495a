"""A handler that works with several tasks at once: its transactions are one, so the tasks take turns, and nothing of any of them is lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import attrs
import pytest
from attrs import frozen
from sqlalchemy import Connection, create_engine, insert, select, text

from fissile import App, Command, Contract, HandlerFailed, Module, Query, Retry, Settings
from fissile.database import Database, Schema, Transaction
from tests.effects.shop import metadata, orders


@frozen
class Work(Command[None]):
    pass


@frozen
class Names(Query[tuple[str, ...]]):
    pass


contract = Contract("tasks")


def make(body: Callable[[Database], Awaitable[None]], *, idempotent: bool = False) -> Module:
    module = Module(contract, database=Schema(metadata, migrations=None))

    @module.command(Work, idempotent=idempotent, retry=Retry(attempts=1))
    async def work(command: Work, database: Database) -> None:
        await body(database)

    @module.query(Names)
    async def names(query: Names, database: Database) -> tuple[str, ...]:
        return tuple((await database.read(select(orders.c.name).order_by(orders.c.name))).scalars())

    _ = work, names
    return module


@pytest.mark.parametrize("idempotent", [False, True])
async def test_statements_of_several_tasks_in_one_transaction_all_take_effect(
    settings: Settings, *, idempotent: bool
) -> None:
    async def body(database: Database) -> None:
        async with database.transaction() as tx, anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(tx.execute, insert(orders).values(name=f"{number:02}"))

    async with App([make(body, idempotent=idempotent)], settings=settings) as app:
        await app.bus.execute(Work())
        assert await app.bus.ask(Names()) == tuple(f"{number:02}" for number in range(20))


async def test_transactions_of_several_tasks_commit_together_and_one_that_fails_is_undone_alone(
    settings: Settings,
) -> None:
    async def one(database: Database, name: str) -> None:
        try:
            async with database.transaction() as tx:
                await tx.execute(insert(orders).values(name=f"{name} first"))
                await anyio.sleep(0.01)  # the others are asked for theirs
                async with database.transaction() as inner:
                    await inner.execute(insert(orders).values(name=f"{name} second"))
                if name == "b":
                    raise KeyError(name)
        except KeyError:
            pass

    async def body(database: Database) -> None:
        async with anyio.create_task_group() as tasks:
            for name in "abc":
                tasks.start_soon(one, database, name)

    async with App([make(body)], settings=settings) as app:
        await app.bus.execute(Work())
        assert await app.bus.ask(Names()) == ("a first", "a second", "c first", "c second")
        await app.bus.execute(Work())  # and no connection is held by what is over
        assert len(await app.bus.ask(Names())) == 8


async def test_what_another_task_writes_meanwhile_is_not_undone_with_an_inner_transaction(settings: Settings) -> None:
    async def give_up(database: Database, has_begun: anyio.Event) -> None:
        try:
            async with database.transaction() as inner:
                has_begun.set()
                await inner.execute(insert(orders).values(name="given up"))
                await anyio.sleep(0.01)
                raise KeyError
        except KeyError:
            pass

    async def body(database: Database) -> None:
        has_begun = anyio.Event()
        async with database.transaction() as tx, anyio.create_task_group() as tasks:
            tasks.start_soon(give_up, database, has_begun)
            await has_begun.wait()
            await tx.execute(insert(orders).values(name="kept"))

    async with App([make(body)], settings=settings) as app:
        await app.bus.execute(Work())
        assert await app.bus.ask(Names()) == ("kept",)


async def test_tasks_whose_transactions_wait_for_each_other_are_told_and_leave_nothing(settings: Settings) -> None:
    async def body(database: Database) -> None:
        is_open, is_done = anyio.Event(), anyio.Event()

        async def one() -> None:
            async with database.transaction() as tx:
                await tx.execute(insert(orders).values(name="waits"))
                is_open.set()
                await is_done.wait()

        async def other() -> None:
            await is_open.wait()
            async with database.transaction() as tx:
                await tx.execute(insert(orders).values(name="never"))
            is_done.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            tasks.start_soon(other)

    async with App([make(body)], settings=attrs.evolve(settings, database_lock_s=0.2)) as app:
        with pytest.raises(HandlerFailed, match="so its tasks take turns"):
            await app.bus.execute(Work())
        assert await app.bus.ask(Names()) == ()


async def test_a_database_that_is_lost_in_an_inner_transaction_is_no_failed_attempt(
    settings: Settings, postgres: str
) -> None:
    if not settings.database.startswith("postgres"):
        pytest.skip("SQLite has no connection that could be lost")
    admin = create_engine(postgres.replace("postgresql://", "postgresql+psycopg://"))
    attempts: list[int] = []

    def end_it(connection: Connection) -> None:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        with admin.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})

    async def write(tx: Transaction, name: str) -> Any:
        return await tx.execute(insert(orders).values(name=name))

    async def body(database: Database) -> None:
        attempts.append(len(attempts))
        async with database.transaction() as tx:
            await write(tx, "outer")
            async with database.transaction() as inner:
                if len(attempts) == 1:
                    await inner.run(end_it)
                await write(inner, "inner")

    try:
        async with App([make(body)], settings=settings) as app:
            await app.bus.send(Work())
            with anyio.fail_after(10):
                while await app.bus.ask(Names()) != ("inner", "outer"):
                    await anyio.sleep(0.01)
            assert await app.dead_letters() == ()
    finally:
        admin.dispose()
