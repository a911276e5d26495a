"""Tables without migrations: made as they are declared, for prototypes and tests. A later change to one of them is not applied."""

from __future__ import annotations

from sqlalchemy import Connection, MetaData, inspect


def missing(connection: Connection | None, metadata: MetaData) -> tuple[str, ...]:
    """Return the tables that a database lacks, as names for people.

    Args:
        connection: The connection; None where there is no database yet.
        metadata: The tables.
    """
    there = [] if connection is None else inspect(connection).get_table_names()
    return tuple(f"the table {name}" for name in metadata.tables if name not in there)


def make(connection: Connection, metadata: MetaData) -> tuple[str, ...]:
    """Make the tables that a database lacks; return what was made."""
    made = missing(connection, metadata)
    metadata.create_all(connection)
    return made
