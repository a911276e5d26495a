"""A database that goes away: what happens is told apart from what does not, readiness says so, and it is found again."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from contextlib import suppress

import anyio
import pytest
from sqlalchemy import Connection, insert

from fissile.database import CommitUnknown, DatabaseUnavailable, Schema
from fissile.database import _migrations as migrations
from fissile.database._store import Store
from tests.brokers.postgres import PostgresServer
from tests.database.conftest import notes, store_of, tables, until
from tests.database.test_store import put, texts

SCHEMA = Schema(tables, migrations=None)


@pytest.fixture
def own_database(own_postgres: PostgresServer) -> str:
    """The URL of a database in a server that the test may stop."""
    import psycopg

    with psycopg.connect(own_postgres.url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS away WITH (FORCE)")
        connection.execute("CREATE DATABASE away")
    return own_postgres.url.replace("/postgres", "/away")


async def test_a_server_that_is_not_there_is_told_without_its_password() -> None:
    with socket.socket() as listener:  # a port that is taken and that nobody listens on
        listener.bind(("127.0.0.1", 0))
        async with store_of(f"postgresql://app:hidden@127.0.0.1:{listener.getsockname()[1]}/shop") as store:
            with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1") as caught:
                await store.run(lambda _: None)
            told = store.check()
    assert caught.value.happened is False
    assert "hidden" not in f"{caught.value}{caught.value.args}"
    assert not {"\n", "\t"} & set(str(caught.value))
    # Anybody may ask for readiness: neither address nor user are told there.
    assert told == caught.value.told_outside() == "the database of orders cannot be used: Connection refused"


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (
            'connection failed: connection to server at "10.0.0.7", port 5432 failed: FATAL:  password authentication failed for user "shop"',
            'FATAL:  password authentication failed for user "…"',
        ),
        (
            'connection failed: could not translate host name "db.intern" to address: Name or service not known',
            'connection failed: could not translate host name "…" to address: Name or service not known',
        ),
        (
            'connection to server on socket "/run/postgresql/.s.PGSQL.5432" failed: No such file or directory\n\tIs the server running?',
            "No such file or directory",
        ),
        (
            "Permission denied: /srv/shop/data/orders.sqlite3 (SQLITE_CANTOPEN)",
            "Permission denied: … (SQLITE_CANTOPEN)",
        ),
        ("database or disk is full (SQLITE_FULL)", "database or disk is full (SQLITE_FULL)"),
    ],
)
def test_what_is_told_outside_names_no_address_no_user_and_no_path(reason: str, told: str) -> None:
    error = DatabaseUnavailable("orders", "postgresql://shop@db.intern/shop", reason)
    assert error.told_outside() == f"the database of orders cannot be used: {told}"


async def test_a_server_that_comes_back_is_used_again(
    own_postgres: PostgresServer, own_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "fissile.database")
    async with store_of(own_database) as store, anyio.create_task_group() as tasks:
        await migrations.migrate(store, SCHEMA)
        await store.run(lambda connection: put(connection, "before"))
        tasks.start_soon(store.watch)
        await anyio.to_thread.run_sync(own_postgres.stop, signal.SIGQUIT)
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                await store.run(lambda connection: put(connection, "while it is away"))
        assert "cannot be used" in (store.check() or "")
        await anyio.to_thread.run_sync(own_postgres.start)
        await until(lambda: store.check() is None)
        await store.run(lambda connection: put(connection, "after"))
        assert await store.read(texts) == ["before", "after"]
        await until(lambda: any("can be used again" in record.message for record in caplog.records))
        tasks.cancel_scope.cancel()


async def test_all_idle_connections_survive_a_restart_of_the_server(
    own_postgres: PostgresServer, own_database: str
) -> None:
    async with store_of(own_database, database_connections=4) as store:
        await migrations.migrate(store, SCHEMA)
        opened = [await store.begin() for _ in range(3)]
        for transaction in opened:
            await transaction.run(texts)
            await transaction.rollback()
        await store.read(texts)  # the fourth is for reading
        await anyio.to_thread.run_sync(own_postgres.stop)
        await anyio.to_thread.run_sync(own_postgres.start)
        with suppress(DatabaseUnavailable):  # the first one finds out; the others are asked before they are used
            await store.run(texts)
        await store.read(texts)
        for number in range(8):
            await store.run(lambda connection, number=number: put(connection, str(number)))  # type: ignore[misc]


async def test_a_transaction_whose_connection_is_lost_has_not_happened(
    own_postgres: PostgresServer, own_database: str
) -> None:
    async with store_of(own_database) as store:
        await migrations.migrate(store, SCHEMA)
        transaction = await store.begin()
        await transaction.run(lambda connection: put(connection, "a"))
        await anyio.to_thread.run_sync(own_postgres.stop, signal.SIGQUIT)
        with pytest.raises(DatabaseUnavailable) as caught:
            await transaction.run(lambda connection: put(connection, "b"))
        assert not isinstance(caught.value, CommitUnknown)
        await transaction.rollback()
        assert store.check() is not None
        await anyio.to_thread.run_sync(own_postgres.start)
        assert await _eventually(store) == []


async def test_a_connection_that_is_lost_during_the_commit_leaves_open_what_happened(
    own_postgres: PostgresServer, own_database: str
) -> None:
    async with store_of(own_database) as store:
        await migrations.migrate(store, SCHEMA)
        transaction = await store.begin()
        await transaction.run(lambda connection: put(connection, "a"))
        await anyio.to_thread.run_sync(own_postgres.stop, signal.SIGQUIT)
        with pytest.raises(CommitUnknown, match="as a whole or not at all") as caught:
            await transaction.commit()
        assert caught.value.happened is None
        assert not transaction.is_open
        await anyio.to_thread.run_sync(own_postgres.start)
        assert await _eventually(store) == []


async def _eventually(store: Store) -> list[str]:
    while True:
        with suppress(DatabaseUnavailable):
            return await store.read(texts)
        await anyio.sleep(0.01)


async def test_a_connection_that_is_ended_while_a_statement_runs_is_told(postgres_database: str) -> None:
    pids: list[int] = []
    has_begun = threading.Event()

    def waits(connection: Connection) -> None:
        put(connection, "a")
        pids.append(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
        has_begun.set()
        connection.exec_driver_sql("SELECT pg_sleep(60)")

    async def is_told() -> None:
        with pytest.raises(DatabaseUnavailable):
            await store.run(waits)

    async with store_of(postgres_database) as store:
        await migrations.migrate(store, SCHEMA)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(is_told)
            await until(has_begun.is_set)
            async with store_of(postgres_database, "billing") as other:
                await other.run(
                    lambda connection: connection.exec_driver_sql(f"SELECT pg_terminate_backend({pids[0]})")
                )
        assert await store.read(texts) == []


async def test_who_waits_too_long_for_a_row_is_told_and_the_database_counts_as_well(postgres_database: str) -> None:
    async with store_of(postgres_database, database_lock_s=0.05) as store:
        await migrations.migrate(store, SCHEMA)
        held = await store.begin()
        await held.run(lambda connection: connection.execute(insert(notes), {"id": 1, "text": "a"}))
        with pytest.raises(DatabaseUnavailable, match="lock") as caught:
            await store.run(lambda connection: connection.execute(insert(notes), {"id": 1, "text": "b"}))
        assert not caught.value.is_away
        assert store.check() is None
        await held.rollback()
