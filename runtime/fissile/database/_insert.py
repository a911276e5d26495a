"""An INSERT that bears a row that is already there, in the dialect of the database at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, Table

if TYPE_CHECKING:
    from sqlalchemy.dialects.sqlite import Insert


def insert_into(connection: Connection, table: Table) -> Insert:
    """Return an INSERT with `on_conflict_do_nothing` and `on_conflict_do_update`, which SQLite and PostgreSQL have in the same words.

    SQLAlchemy has one of each dialect. To import the one of a database that is not used takes as long as a tenth of the start of a process.

    Args:
        connection: The connection that will execute it.
        table: The table.
    """
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)  # type: ignore[return-value]  # the methods that both have are called alike
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)
