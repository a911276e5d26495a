"""What the store promises: transactions as a whole or not at all, one hop each, whoever is cancelled."""

from __future__ import annotations

import stat
import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection, create_engine, func, insert, make_url, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError

from fissile.database import DatabaseUnavailable
from fissile.database import _migrations as migrations
from fissile.database._schema import Schema
from fissile.database._store import Store
from tests.database.conftest import SLOW, notes, store_of, tables, until

SCHEMA = Schema(tables, migrations=None)


@pytest.fixture
async def orders(store: Store) -> AsyncIterator[Store]:
    async with store:
        await migrations.migrate(store, SCHEMA)
        yield store


def put(connection: Connection, text: str) -> None:
    connection.execute(insert(notes), {"text": text})


def texts(connection: Connection) -> list[str]:
    return list(connection.execute(select(notes.c.text).order_by(notes.c.id)).scalars())


async def test_a_function_runs_in_a_transaction_that_commits(orders: Store) -> None:
    await orders.run(lambda connection: put(connection, "a"))
    assert await orders.read(texts) == ["a"]


async def test_a_function_that_fails_leaves_nothing(orders: Store) -> None:
    def fails(connection: Connection) -> None:
        put(connection, "a")
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        await orders.run(fails)
    assert await orders.read(texts) == []
    await orders.run(lambda connection: put(connection, "b"))
    assert await orders.read(texts) == ["b"]


async def test_an_error_of_a_statement_is_sqlalchemys_and_tells_no_values(orders: Store) -> None:
    await orders.run(lambda connection: put(connection, "a secret"))
    with pytest.raises(IntegrityError) as caught:
        await orders.run(lambda connection: put(connection, "a secret"))
    assert "parameters hidden" in str(caught.value)
    assert orders.check() is None


async def test_to_read_is_not_to_write(orders: Store) -> None:
    with pytest.raises(DBAPIError, match=r"read-?only"):
        await orders.read(lambda connection: put(connection, "a"))
    assert await orders.read(texts) == []
    await orders.run(lambda connection: put(connection, "b"))


async def test_steps_of_a_transaction_commit_together(orders: Store) -> None:
    transaction = await orders.begin()
    await transaction.run(lambda connection: put(connection, "a"))
    assert await orders.read(texts) == []

    def last(connection: Connection) -> list[str]:
        put(connection, "b")
        return texts(connection)

    assert await transaction.commit(last) == ["a", "b"]
    assert not transaction.is_open
    assert await orders.read(texts) == ["a", "b"]
    with pytest.raises(RuntimeError, match="has ended"):
        await transaction.run(texts)


async def test_a_transaction_is_rolled_back_once_and_again(orders: Store) -> None:
    transaction = await orders.begin()
    await transaction.run(lambda connection: put(connection, "a"))
    await transaction.rollback()
    await transaction.rollback()
    never_used = await orders.begin()
    await never_used.rollback()
    assert await orders.read(texts) == []
    await orders.run(lambda connection: put(connection, "b"))


async def test_a_last_step_that_fails_ends_the_transaction(orders: Store) -> None:
    transaction = await orders.begin()
    await transaction.run(lambda connection: put(connection, "a"))
    with pytest.raises(IntegrityError):
        await transaction.commit(lambda connection: put(connection, "a"))
    assert not transaction.is_open
    assert await orders.read(texts) == []


async def test_a_function_must_not_end_the_transaction_that_it_was_given(orders: Store) -> None:
    def ends(connection: Connection) -> None:
        connection.rollback()
        put(connection, "a")

    with pytest.raises(RuntimeError, match="ended the transaction"):
        await orders.run(ends)
    assert await orders.read(texts) == []


async def test_part_of_a_transaction_may_fail_in_a_savepoint(orders: Store) -> None:
    def work(connection: Connection) -> None:
        put(connection, "a")
        with pytest.raises(IntegrityError), connection.begin_nested():
            put(connection, "a")
        put(connection, "b")

    await orders.run(work)
    assert await orders.read(texts) == ["a", "b"]


async def test_postgresql_never_takes_a_rollback_for_a_commit(postgres_database: str) -> None:
    """The server answers the COMMIT of a failed transaction with ROLLBACK, which is no error to a driver."""

    def swallows(connection: Connection) -> None:
        put(connection, "a")
        with pytest.raises(IntegrityError):
            put(connection, "a")

    async with store_of(postgres_database) as store:
        await migrations.migrate(store, SCHEMA)
        with pytest.raises(RuntimeError, match="nothing of it could be committed"):
            await store.run(swallows)
        transaction = await store.begin()
        with pytest.raises(RuntimeError, match="nothing of it could be committed"):
            await transaction.run(swallows)
        await transaction.rollback()


async def test_many_writers_lose_nothing(orders: Store) -> None:
    async def write(number: int) -> None:
        for step in range(5):
            await orders.run(partial(put, text=f"{number}-{step}"))

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(write, number)
    assert (
        await orders.read(lambda connection: connection.execute(select(func.count()).select_from(notes)).scalar())
        == 100
    )


async def test_sqlite_lets_writers_in_as_they_came_and_readers_at_once(tmp_path: Path) -> None:
    async with store_of(f"sqlite:///{tmp_path}") as store:
        await migrations.migrate(store, SCHEMA)
        first = await store.begin()
        await first.run(lambda connection: put(connection, "first"))

        async def write(number: int) -> None:
            await store.run(lambda connection: put(connection, str(number)))

        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(write, number)
                await anyio.wait_all_tasks_blocked()
            assert await store.read(texts) == []
            await first.commit()
        assert await store.read(texts) == ["first", "0", "1", "2", "3", "4"]


async def test_who_waits_too_long_for_a_connection_is_told_and_the_database_counts_as_well(tmp_path: Path) -> None:
    async with store_of(f"sqlite:///{tmp_path}", database_lock_s=0.05) as store:
        held = await store.begin()
        with pytest.raises(DatabaseUnavailable, match="FISSILE_DATABASE_LOCK_S"):
            await store.run(lambda _: None)
        assert store.check() is None
        await held.rollback()
        await store.run(lambda _: None)


# --- cancellation ----------------------------------------------------------------------------------------------------


async def test_a_statement_of_a_cancelled_caller_is_interrupted_and_rolled_back(orders: Store) -> None:
    has_begun = threading.Event()

    def slow(connection: Connection) -> None:
        put(connection, "a")
        has_begun.set()
        connection.exec_driver_sql(SLOW)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(orders.run, slow)
        while not has_begun.is_set():
            await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
    await orders.run(lambda connection: put(connection, "b"))
    assert await orders.read(texts) == ["b"]


async def test_a_step_of_a_cancelled_caller_is_interrupted_and_the_transaction_can_be_rolled_back(
    orders: Store,
) -> None:
    has_begun = threading.Event()

    def slow(connection: Connection) -> None:
        has_begun.set()
        connection.exec_driver_sql(SLOW)

    async def work() -> None:
        transaction = await orders.begin()
        try:
            await transaction.run(lambda connection: put(connection, "a"))
            await transaction.run(slow)
        finally:
            await transaction.rollback()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        while not has_begun.is_set():
            await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
    assert await orders.read(texts) == []
    await orders.run(lambda connection: put(connection, "b"))


async def test_a_commit_is_not_interrupted(orders: Store) -> None:
    transaction = await orders.begin()
    await transaction.run(lambda connection: put(connection, "a"))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await transaction.commit()
    assert not transaction.is_open
    assert await orders.read(texts) == ["a"]


async def test_what_the_cancelled_have_not_begun_is_never_done(orders: Store) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await orders.run(lambda connection: put(connection, "a"))
    assert scope.cancelled_caught
    assert await orders.read(texts) == []


async def test_the_caller_waits_until_the_thread_of_a_cancelled_function_has_ended(orders: Store) -> None:
    has_begun, may_end, has_ended = threading.Event(), threading.Event(), threading.Event()

    def works(connection: Connection) -> None:
        has_begun.set()
        may_end.wait(30)
        has_ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(orders.run, works)
        while not has_begun.is_set():
            await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
        may_end.set()
    assert has_ended.is_set()


# --- files -----------------------------------------------------------------------------------------------------------


async def test_files_of_sqlite_are_for_their_owner_only(tmp_path: Path) -> None:
    async with store_of(f"sqlite:///{tmp_path / 'a' / 'b'}") as store:
        await migrations.migrate(store, SCHEMA)
        await store.run(lambda connection: put(connection, "a"))
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "a" / "b").iterdir()}
        assert modes.pop("orders.sqlite3") == 0o600
        assert set(modes.values()) <= {0o600}


async def test_sqlite_is_durable_and_checks_foreign_keys(tmp_path: Path) -> None:
    def pragmas(connection: Connection) -> list[object]:
        return [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]

    async with store_of(f"sqlite:///{tmp_path}") as store:
        assert await store.run(pragmas) == ["wal", 2, 1]
        assert await store.read(pragmas) == ["wal", 2, 1]


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    async with store_of(f"sqlite:///{tmp_path / 'data'}") as store:
        with pytest.raises(DatabaseUnavailable, match="data"):
            await store.run(lambda _: None)
        assert store.check() is not None
        (tmp_path / "data").unlink()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(store.watch)
            await until(lambda: store.check() is None)
            tasks.cancel_scope.cancel()


async def test_a_postgresql_that_keeps_no_encoding_is_understood(postgres_database: str) -> None:
    url = make_url(postgres_database).set(drivername="postgresql+psycopg")
    engine = create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"client_encoding": "utf8"})
    name = f"{url.database}_ascii"
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(
                f"CREATE DATABASE \"{name}\" ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
            )
        store = store_of(url.set(drivername="postgresql", database=name).render_as_string(hide_password=False))
        async with store:
            await migrations.migrate(store, SCHEMA)
            await store.run(lambda connection: put(connection, "é"))
            assert await store.read(texts) == ["é"]
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        engine.dispose()


async def test_who_reads_within_a_transaction_waits_for_no_connection_that_others_like_it_hold(
    database_url: str,
) -> None:
    """Else as many at a time as there are connections would wait for each other."""
    async with store_of(database_url, database_connections=4, database_lock_s=2.0) as store:
        await migrations.migrate(store, SCHEMA)
        have_begun: list[int] = []
        read: list[int] = []

        async def write_and_read(number: int) -> None:
            transaction = await store.begin()
            await transaction.run(partial(put, text=f"{number}"))
            have_begun.append(number)
            with anyio.move_on_after(0.3):  # all that can have begun then
                while len(have_begun) < 4:
                    await anyio.sleep(0.01)
            read.append(len(await store.read(texts)))
            await transaction.commit()

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(write_and_read, number)
        assert len(read) == 4
        assert sorted(await store.read(texts)) == ["0", "1", "2", "3"]


async def test_who_holds_a_lock_finds_a_thread_however_many_wait_for_it(postgres_database: str) -> None:
    async with store_of(postgres_database, database_connections=4, database_threads=2, database_lock_s=5.0) as store:
        await migrations.migrate(store, SCHEMA)
        await store.run(lambda connection: connection.execute(insert(notes).values(text="one")))
        change = update(notes).values(text=notes.c.text + "!")
        holder = await store.begin()
        await holder.run(lambda connection: connection.execute(change))
        waiting = [0]

        async def wait_for_it() -> None:
            waiting[0] += 1
            await store.run(lambda connection: connection.execute(change))

        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(wait_for_it)
            await until(lambda: waiting[0] == 2)
            await anyio.sleep(0.1)  # both have asked for the row
            await holder.run(lambda connection: connection.execute(change))
            await holder.commit()
        assert await store.read(lambda connection: connection.execute(select(notes.c.text)).scalar_one()) == "one!!!!"
