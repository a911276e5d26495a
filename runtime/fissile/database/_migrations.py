"""Migrations of a module's database: the runtime's own tables first, then the module's, in one transaction.

One transaction means that a migration that fails leaves everything as it was, and that of two processes one waits for the other and then finds
nothing to do. So a statement that cannot run in a transaction (`CREATE INDEX CONCURRENTLY`) has no place in a migration.
"""

from __future__ import annotations

import logging
from pathlib import Path

import anyio.to_thread
import msgspec
from sqlalchemy import Connection

from fissile._errors import Fault, StartupFailed
from fissile._names import place
from fissile.database import _declared, _versions
from fissile.database._chain import read_chain
from fissile.database._schema import Schema
from fissile.database._store import Store

_logger = logging.getLogger("fissile.database")


class State(msgspec.Struct, frozen=True):
    """What a module's database has and lacks.

    Attributes:
        module: The module.
        place: Where its database is.
        applied: The newest migration that it has; empty if none.
        pending: What it lacks, in the order of application.
        is_newer: Whether it has a migration that this program does not know.
        lacks_migrations: Whether tables are declared and no migration makes them.
    """

    module: str
    place: str
    applied: str
    pending: tuple[str, ...]
    is_newer: bool = False
    lacks_migrations: bool = False


async def migrate(store: Store, schema: Schema, *, grant_to: str | None = None) -> tuple[str, ...]:
    """Bring a module's database up to date; nothing happens where it is.

    Args:
        store: The module's database.
        schema: Its declaration.
        grant_to: The user of PostgreSQL who will run the module, where it is not the one who migrates.

    Returns:
        The migrations that were applied.

    Raises:
        StartupFailed: The migrations contradict each other, or the database has one that is not in the folder.
        DatabaseUnavailable: The database cannot be used; nothing was changed.
        PermissionError: The user may not make the schema, or not grant it.
        Exception: What a migration raised; nothing was changed.
    """

    def work(connection: Connection) -> tuple[str, ...]:
        done = _versions.upgrade(connection)
        if schema.folder is None:
            done += _declared.make(connection, schema.metadata)
        else:
            from fissile.database._revisions import Revisions  # it imports Alembic

            done += Revisions(store.module, schema, schema.folder).upgrade(connection)
        if grant_to is not None:
            store.grant(connection, grant_to)
        return done

    return await store.maintain(work)


async def state(store: Store, schema: Schema) -> State:
    """Look at what a module's database has and lacks; nothing is changed or made.

    Raises:
        StartupFailed: The migrations contradict each other.
        DatabaseUnavailable: The database cannot be used.
    """

    def work(connection: Connection | None) -> State:
        version = 0 if connection is None else _versions.read_version(connection)
        applied = () if connection is None else _versions.read_applied(connection)
        own = [_versions.name_of(number) for number in range(version + 1, _versions.newest() + 1)]
        if schema.folder is None:
            lacks = own[-1:] if version == 0 else own
            return State(store.module, str(store.target), "", (*lacks, *_declared.missing(connection, schema.metadata)))
        chain = read_chain(schema.folder)
        if chain is None:
            from fissile.database._revisions import Revisions

            chain = Revisions(store.module, schema, schema.folder).all
        numbers = [link.revision for link in chain]
        is_newer = not set(numbers).issuperset(applied)
        first = 1 + max((numbers.index(number) for number in applied), default=-1) if not is_newer else len(chain)
        return State(
            module=store.module,
            place=str(store.target),
            applied=", ".join(applied),
            pending=(*(own[-1:] if version == 0 else own), *map(str, chain[first:])),
            is_newer=is_newer,
            lacks_migrations=bool(schema.metadata.tables) and not chain,
        )

    if store.dialect == "sqlite" and not store.target.file.exists():
        return await anyio.to_thread.run_sync(work, None)  # to look makes no file
    return await store.read(work)


async def pending(store: Store, schema: Schema) -> tuple[Fault, ...]:
    """Return what keeps a module from starting on its database, each with the command that cures it.

    Raises:
        StartupFailed: The migrations contradict each other.
        DatabaseUnavailable: The database cannot be used.
    """
    found = await state(store, schema)
    where = place(*schema.place)
    faults: list[Fault] = []
    if found.lacks_migrations:
        what = f"The module {found.module} declares tables, but there is no migration in {schema.folder}."
        faults.append(Fault(what, where, f'Write it: fissile migrate new {found.module} "first tables".'))
    if found.pending:
        what = f"The database of {found.module} ({found.place}) lacks migrations: {', '.join(found.pending)}."
        faults.append(Fault(what, where, "Apply them: fissile migrate."))
    return tuple(faults)


async def prepare(store: Store, schema: Schema, *, applies: bool) -> None:
    """Make a database ready for its module, or refuse.

    Args:
        store: The module's database.
        schema: Its declaration.
        applies: Whether to apply what is missing, as for a developer. The tables are then compared with the migrations too.

    Raises:
        StartupFailed: Migrations are missing; it tells the command to run.
        DatabaseUnavailable: The database cannot be used.
    """
    if applies:
        for name in await migrate(store, schema):
            _logger.info("applied to the database of %s: %s", store.module, name)
        for difference in await drift(store, schema):
            _logger.warning(
                'the tables of %s are not as the migrations make them: %s. Write a migration: fissile migrate new %s "..."',
                store.module,
                difference,
                store.module,
            )
        return
    faults = await pending(store, schema)
    if faults:
        raise StartupFailed(faults)


async def new(store: Store, schema: Schema, message: str) -> Path | None:
    """Write the migration from the last one to the declared tables.

    It is found on an empty database, which gets all migrations and goes away again; that of the module is not touched.

    Returns:
        The file, or None where there is no difference.

    Raises:
        StartupFailed: The module has no folder for migrations, or they contradict each other.
        DatabaseUnavailable: The database cannot be used.
    """
    from fissile.database._revisions import Revisions

    folder = schema.folder
    if folder is None:
        what = f"The module {store.module} makes its tables as they are declared, without migrations."
        cure = "Give them a folder: leave out migrations=None. Tables that are there already need a fresh database."
        raise StartupFailed((Fault(what, place(*schema.place), cure),))
    return await store.scratch(lambda connection: Revisions(store.module, schema, folder).write(message, connection))


async def drift(store: Store, schema: Schema) -> tuple[str, ...]:
    """Return how the declared tables differ from what all migrations make, as lines for people; empty if they agree."""
    folder = schema.folder
    if folder is None:
        return ()
    from fissile.database._revisions import Revisions

    return await store.scratch(lambda connection: Revisions(store.module, schema, folder).drift(connection))
