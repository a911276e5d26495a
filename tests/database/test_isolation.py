"""A module sees its own tables only."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, text
from sqlalchemy.exc import DBAPIError

from fissile import Settings, StartupFailed
from fissile.database import Schema
from fissile.database import _migrations as migrations
from fissile.database._dialect import Target
from tests.database.conftest import store_of, tables
from tests.database.test_store import put, texts

SCHEMA = Schema(tables, migrations=None)


async def test_tables_of_one_name_in_two_modules_are_two_tables(database_url: str) -> None:
    async with store_of(database_url, "orders") as orders, store_of(database_url, "billing") as billing:
        for store in (orders, billing):
            await migrations.migrate(store, SCHEMA)
            await store.run(lambda connection, name=store.module: put(connection, f"of {name}"))  # type: ignore[misc]
        assert await orders.read(texts) == ["of orders"]
        assert await billing.read(texts) == ["of billing"]


async def test_applications_share_a_server_by_prefixes(database_url: str) -> None:
    async with store_of(database_url) as here, store_of(database_url, database_prefix="other_") as there:
        for store in (here, there):
            await migrations.migrate(store, SCHEMA)
        await here.run(lambda connection: put(connection, "here"))
        assert await there.read(texts) == []


async def test_a_name_of_another_modules_table_is_refused_however_it_is_written(postgres_database: str) -> None:
    def role(connection: Connection) -> str:
        return str(connection.exec_driver_sql("SELECT current_user").scalar())

    async with store_of(postgres_database, "orders") as orders, store_of(postgres_database, "billing") as billing:
        for store in (orders, billing):
            await migrations.migrate(store, SCHEMA)
        assert await orders.read(role) == "orders_owner"
        for statement in (
            "SELECT * FROM billing.notes",
            "INSERT INTO billing.notes (text) VALUES ('x')",
            "DROP TABLE billing.notes",
        ):
            with pytest.raises(DBAPIError, match=r"permission denied|must be owner"):
                await orders.run(lambda connection, statement=statement: connection.execute(text(statement)))  # type: ignore[misc]
        assert orders.check() is None


async def test_a_user_that_may_not_make_roles_is_warned_about(
    postgres_database: str, postgres: str, caplog: pytest.LogCaptureFixture
) -> None:
    import psycopg

    name = postgres_database.rpartition("/")[2]
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'".encode())
        connection.execute(f"GRANT CREATE ON DATABASE {name} TO {name}".encode())
    poor = postgres_database.replace(postgres_database.split("//")[1].split("@")[0], f"{name}:x")
    try:
        prefix = f"{name}_"
        async with store_of(poor, database_prefix=prefix) as store:
            await migrations.migrate(store, SCHEMA)
            await store.run(lambda connection: put(connection, "a"))
            assert any("--grant-to" in record.message for record in caplog.records)
        caplog.clear()
        async with store_of(postgres_database, database_prefix=prefix) as rich:
            await migrations.migrate(rich, SCHEMA, grant_to=name)
        async with store_of(poor, database_prefix=prefix) as store:
            assert await store.read(texts) == ["a"]
            assert (
                await store.read(lambda c: c.exec_driver_sql("SELECT current_user").scalar()) == f"{prefix}orders_owner"
            )
        assert caplog.records == []
    finally:
        with psycopg.connect(postgres_database, autocommit=True) as connection:
            for role in (f"{name}_orders_owner", name):
                connection.execute(f"DROP OWNED BY {role} CASCADE".encode())
                connection.execute(f"DROP ROLE {role}".encode())


def test_tables_that_name_a_schema_are_refused_with_the_cure() -> None:
    metadata = MetaData()
    Table("invoices", metadata, Column("id", Integer, primary_key=True), schema="billing")
    Table("fissile_inbox", metadata, Column("id", Integer, primary_key=True))
    faults = Schema(metadata).faults()
    assert ["billing" in str(fault) for fault in faults] == [True, False]
    assert "fissile_" in faults[1].what
    assert all("test_isolation.py" in fault.where and fault.cure for fault in faults)
    assert Schema(MetaData(schema="billing")).faults()
    assert not SCHEMA.faults()


@pytest.mark.parametrize(
    ("url", "prefix", "told"),
    [
        ("mysql://localhost/x", "", "mysql"),
        ("sqlite://", "", "folder"),
        ("sqlite:///:memory:", "", "folder"),
        ("what", "", "no URL"),
        ("postgresql://localhost/x", "pg_", "keeps the name"),
        ("postgresql://localhost/x", "a" * 60, "57"),
        ("postgresql://localhost/x", 'a"; --', "no name"),
        ("sqlite:///data", "../", "no name"),
    ],
)
def test_settings_that_name_no_database_are_refused_with_the_cure(url: str, prefix: str, told: str) -> None:
    with pytest.raises(StartupFailed, match=told) as caught:
        Target.of("orders", Settings(database=url, database_prefix=prefix), folder=Path())
    assert caught.value.faults[0].cure


def test_sqlite_files_lie_in_the_folder_of_the_application(tmp_path: Path) -> None:
    target = Target.of("code-executor", Settings(database="sqlite:///data"), folder=tmp_path)
    assert target.file == tmp_path / "data" / "code_executor.sqlite3"
    absolute = Target.of("orders", Settings(database="sqlite:////var/lib/shop"), folder=tmp_path)
    assert absolute.file == Path("/var/lib/shop/orders.sqlite3")
