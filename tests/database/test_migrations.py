"""Migrations: what is missing is applied once, as a whole or not at all, and told with the command to run."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import anyio
import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    insert,
    inspect,
    select,
)

from fissile import StartupFailed
from fissile.database import Schema, _versions
from fissile.database import _migrations as migrations
from fissile.database._chain import read_chain
from fissile.database._store import Store
from fissile.database._tables import runtime_tables
from tests.database.conftest import store_of


def shop(*, is_wide: bool = False) -> MetaData:
    """Return the tables of a module, before and after a change to one that others refer to."""
    metadata = MetaData()
    length = 40 if is_wide else 20
    orders = Table(
        "orders", metadata, Column("id", Integer, primary_key=True), Column("sku", String(length), nullable=False)
    )
    if is_wide:
        orders.append_column(Column("quantity", Integer, nullable=False, server_default="1"))
        Index("orders_sku", orders.c.sku)
    Table(
        "lines",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("order_id", ForeignKey("orders.id", ondelete="CASCADE"), nullable=False),
    )
    return metadata


def names(connection: Connection) -> set[str]:
    return {name for name in inspect(connection).get_table_names() if not name.startswith("fissile_")}


async def test_a_fresh_database_gets_everything_and_then_nothing_more(store: Store, tmp_path: Path) -> None:
    schema = Schema(shop(), migrations=tmp_path / "migrations")
    async with store:
        assert [fault.cure for fault in await migrations.pending(store, schema)] == [
            'Write it: fissile migrate new orders "first tables".',
            "Apply them: fissile migrate.",
        ]
        path = await migrations.new(store, schema, "first tables")
        assert path == tmp_path / "migrations" / "0001_first_tables.py"
        assert not store.target.file.exists() or store.dialect == "postgresql"
        (fault,) = await migrations.pending(store, schema)
        assert "0001 first tables" in fault.what
        assert fault.cure == "Apply them: fissile migrate."
        with pytest.raises(StartupFailed, match="fissile migrate"):
            await migrations.prepare(store, schema, applies=False)
        assert await migrations.migrate(store, schema) == (f"fissile {_versions.newest()}", "0001 first tables")
        assert await migrations.migrate(store, schema) == ()
        await migrations.prepare(store, schema, applies=False)
        assert await store.read(names) == {"orders", "lines"}


async def test_a_changed_table_becomes_a_migration_that_keeps_the_rows(store: Store, tmp_path: Path) -> None:
    """On SQLite the table is rebuilt; what refers to it must survive that."""
    before, after = (Schema(shop(is_wide=is_wide), migrations=tmp_path / "migrations") for is_wide in (False, True))
    tables = after.metadata.tables
    async with store:
        await migrations.new(store, before, "first tables")
        await migrations.migrate(store, before)
        await store.run(
            lambda connection: connection.execute(insert(before.metadata.tables["orders"]), {"id": 1, "sku": "a"})
        )
        await store.run(lambda connection: connection.execute(insert(tables["lines"]), {"id": 7, "order_id": 1}))
        assert await migrations.drift(store, before) == ()
        assert any("quantity" in line for line in await migrations.drift(store, after))
        await migrations.new(store, after, "Count what is ordered!")
        assert [link.revision for link in read_chain(tmp_path / "migrations") or ()] == ["0001", "0002"]
        assert await migrations.migrate(store, after) == ("0002 Count what is ordered!",)
        assert await migrations.drift(store, after) == ()
        assert await migrations.new(store, after, "nothing") is None
        assert await store.read(
            lambda connection: [tuple(row) for row in connection.execute(select(tables["orders"]))]
        ) == [(1, "a", 1)]
        assert await store.read(
            lambda connection: [tuple(row) for row in connection.execute(select(tables["lines"]))]
        ) == [(7, 1)]


def write(folder: Path, number: str, follows: str | None, body: str) -> None:
    folder.mkdir(exist_ok=True)
    text = f"""
    \"\"\"migration {number}\"\"\"
    from alembic import op
    revision = {number!r}
    down_revision = {follows!r}

    def upgrade():
        {body}
    """
    (folder / f"{number}.py").write_text(dedent(text))


async def test_a_migration_that_fails_leaves_everything_as_it_was(store: Store, tmp_path: Path) -> None:
    schema = Schema(MetaData(), migrations=tmp_path / "m")
    write(tmp_path / "m", "0001", None, "op.execute('CREATE TABLE a (id INTEGER)')")
    async with store:
        await migrations.migrate(store, schema)
        write(tmp_path / "m", "0002", "0001", "op.execute('CREATE TABLE b (id INTEGER)')")
        write(tmp_path / "m", "0003", "0002", "op.execute('CREATE TABLE c (id INTEGER)'); raise KeyError('mine')")
        with pytest.raises(KeyError, match="mine"):
            await migrations.migrate(store, schema)
        assert await store.read(names) == {"a"}
        assert (await migrations.state(store, schema)).pending == ("0002 migration 0002", "0003 migration 0003")
        write(tmp_path / "m", "0003", "0002", "op.execute('CREATE TABLE c (id INTEGER)')")
        assert await migrations.migrate(store, schema) == ("0002 migration 0002", "0003 migration 0003")
        assert await store.read(names) == {"a", "b", "c"}


async def test_two_that_migrate_at_once_take_turns(database_url: str, tmp_path: Path) -> None:
    schema = Schema(shop(), migrations=tmp_path / "migrations")
    done: list[tuple[str, ...]] = []

    async def go() -> None:
        async with store_of(database_url) as store:
            done.append(await migrations.migrate(store, schema))

    async with store_of(database_url) as store:
        await migrations.new(store, schema, "first tables")
    for expected in (2, 1):
        done.clear()
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(go)
        assert sorted(map(len, done)) == [0, 0, 0, expected]
        write(tmp_path / "migrations", "0002", "0001", "op.execute('CREATE TABLE more (id INTEGER)')")


async def test_a_database_of_a_newer_program_is_left_alone(store: Store, tmp_path: Path) -> None:
    """A replica of the old program may start anew while the new one is being rolled out."""
    schema = Schema(MetaData(), migrations=tmp_path / "m")
    write(tmp_path / "m", "0001", None, "pass")
    write(tmp_path / "m", "0002", "0001", "pass")
    async with store:
        await migrations.migrate(store, schema)
        (tmp_path / "m" / "0002.py").unlink()
        assert await migrations.pending(store, schema) == ()
        assert (await migrations.state(store, schema)).is_newer
        with pytest.raises(StartupFailed, match="0002, which is not in the folder"):
            await migrations.migrate(store, schema)


async def test_migrations_that_fork_are_refused_with_the_cure(store: Store, tmp_path: Path) -> None:
    schema = Schema(MetaData(), migrations=tmp_path / "m")
    write(tmp_path / "m", "0001", None, "pass")
    write(tmp_path / "m", "0002", "0001", "pass")
    write(tmp_path / "m", "0003", "0001", "pass")
    async with store:
        with pytest.raises(StartupFailed, match="fork: 0002 and 0003") as caught:
            await migrations.migrate(store, schema)
        assert "down_revision" in caught.value.faults[0].cure
        with pytest.raises(StartupFailed, match="fork"):
            await migrations.pending(store, schema)
        (tmp_path / "m" / "0003.py").write_text("not Python at all")
        with pytest.raises(StartupFailed, match="cannot be read"):
            await migrations.migrate(store, schema)


async def test_tables_without_migrations_are_made_as_they_are_declared(store: Store) -> None:
    schema = Schema(shop(), migrations=None)
    async with store:
        assert "the table orders" in (await migrations.pending(store, schema))[0].what
        await migrations.migrate(store, schema)
        assert await migrations.pending(store, schema) == ()
        with pytest.raises(StartupFailed, match="as they are declared"):
            await migrations.new(store, schema, "first")


async def test_the_runtimes_tables_are_brought_from_one_version_to_the_next(store: Store) -> None:
    async with store:
        await store.maintain(lambda connection: _versions.upgrade(connection, ()))
        assert await store.read(_versions.read_version) == 1
        assert await store.read(lambda connection: set(inspect(connection).get_table_names())) >= set(
            runtime_tables.tables
        )

        names = await store.read(
            lambda connection: (
                connection.dialect.name,
                {index["name"] for index in inspect(connection).get_indexes("fissile_outbox")},
            )
        )
        assert ("fissile_outbox_next" in names[1]) == (names[0] == "postgresql")

        def add(operations: object) -> None:
            operations.add_column("fissile_lease", Column("more", BigInteger))  # type: ignore[attr-defined]  # Alembic's

        done = await store.maintain(lambda connection: _versions.upgrade(connection, (add,)))
        assert done == ("fissile 2",)
        columns = await store.read(
            lambda connection: {column["name"] for column in inspect(connection).get_columns("fissile_lease")}
        )
        assert "more" in columns
        assert await store.maintain(lambda connection: _versions.upgrade(connection, (add,))) == ()
        # A program of the version before it starts on such a database.
        assert await store.maintain(lambda connection: _versions.upgrade(connection, ())) == ()


async def test_migrations_that_leave_rows_without_what_they_refer_to_are_refused(tmp_path: Path) -> None:
    """SQLite does not check while tables are rebuilt, so it is done before the commit."""
    folder = tmp_path / "m"
    schema = Schema(MetaData(), migrations=folder)
    write(folder, "0001", None, "op.execute('CREATE TABLE a (id INTEGER PRIMARY KEY)')")
    write(
        folder,
        "0002",
        "0001",
        "op.execute('CREATE TABLE b (a INTEGER REFERENCES a (id))'); op.execute('INSERT INTO b VALUES (5)')",
    )
    async with store_of(f"sqlite:///{tmp_path}") as store:
        with pytest.raises(RuntimeError, match=r"row 1 of b \(to a\)"):
            await migrations.migrate(store, schema)
        assert await store.read(names) == set()


async def test_the_steps_lead_to_the_tables_as_they_are_declared(store: Store) -> None:
    def indexes(connection: Connection) -> dict[str, set[str]]:
        found = inspect(connection)
        return {
            table: {str(index["name"]) for index in found.get_indexes(table) if not index.get("duplicates_constraint")}
            for table in found.get_table_names()
        }

    def go_back(connection: Connection) -> None:
        """Make the tables those of version 1."""
        for name in ("fissile_saga_open", "fissile_saga_started"):
            connection.exec_driver_sql(f"DROP INDEX {name}")
        connection.exec_driver_sql("UPDATE fissile_version SET version = 1")

    async with store:
        await store.maintain(_versions.upgrade)
        declared = await store.read(indexes)
        await store.maintain(go_back)
        assert await store.read(indexes) != declared
        assert await store.maintain(_versions.upgrade) == tuple(
            _versions.name_of(version) for version in range(2, _versions.newest() + 1)
        )
        assert await store.read(indexes) == declared
