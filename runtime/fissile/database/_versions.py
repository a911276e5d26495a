"""The versions of the runtime's own tables, in each module's schema or file.

A new database gets the tables as they are declared, and the newest version; an older one gets the steps that it lacks. So a version is a
function here beside the changed declaration in `_tables.py`. Alembic's revisions would be a chain that every new database has to walk, with
tables that are written down a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Column, Connection, Integer, MetaData, String, Table, inspect, select

from fissile.database._tables import SAGA_OPEN, runtime_tables

if TYPE_CHECKING:
    from alembic.operations import Operations

    Step = Callable[[Operations], None]


def _index_sagas(operations: Operations) -> None:
    operations.execute(SAGA_OPEN)
    operations.create_index("fissile_saga_started", "fissile_saga", ["started_ms"])


STEPS: Sequence[Step] = (_index_sagas,)
"""The step at position n leads from version n + 1 to version n + 2. A step must leave programs of the version before it working: they run on
while the new ones start."""

_version = Table("fissile_version", MetaData(), Column("version", Integer, nullable=False))

applied_table = Table("fissile_migration", MetaData(), Column("version_num", String(32), nullable=False))
"""Where Alembic notes which of the module's own migrations a database has. Alembic makes it."""


def read_version(connection: Connection) -> int:
    """Return the version of a database, 0 if it has none of the tables."""
    if not inspect(connection).has_table(_version.name):
        return 0
    return connection.execute(select(_version.c.version)).scalar() or 0


def read_applied(connection: Connection) -> tuple[str, ...]:
    """Return the newest of the module's own migrations that a database has: one, or none."""
    if not inspect(connection).has_table(applied_table.name):
        return ()
    return tuple(connection.execute(select(applied_table.c.version_num)).scalars())


def newest(steps: Sequence[Step] = STEPS) -> int:
    """Return the version that this program knows."""
    return len(steps) + 1


def upgrade(connection: Connection, steps: Sequence[Step] = STEPS) -> tuple[str, ...]:
    """Bring the tables up to date, within the transaction of the caller, who sees to it that nobody else does the same.

    Args:
        connection: The connection.
        steps: The steps.

    Returns:
        What was done, one name for each version.
    """
    found, last = read_version(connection), newest(steps)
    if found >= last:
        return ()  # of a newer program, perhaps; its steps leave this one working
    if found == 0:
        _version.create(connection)
        runtime_tables.create_all(connection, checkfirst=False)
        connection.execute(_version.insert().values(version=last))
        return (name_of(last),)
    from fissile.database._revisions import operations_on  # it imports Alembic

    operations = operations_on(connection)
    for step in steps[found - 1 :]:
        step(operations)
    connection.execute(_version.update().values(version=last))
    return tuple(name_of(version) for version in range(found + 1, last + 1))


def name_of(version: int) -> str:
    """Return how people call a version."""
    return f"fissile {version}"
