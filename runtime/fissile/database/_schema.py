"""The declaration of a module's database: its tables, and where their migrations are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from sqlalchemy import MetaData

    from fissile._errors import Fault
    from fissile._storage import OpenStorage, Schedule, StorageContext


class Schema:
    """The tables of one module, which no other module sees. Creating it reads nothing and opens nothing.

    Args:
        metadata: The tables, without a schema of their own: where they lie is configuration.
        migrations: The folder of their migrations, relative to the file that creates the schema. None: there are none, and tables are
            made as they are declared, without regard to later changes; for prototypes and tests.

    Raises:
        TypeError: The metadata is something else.

    Attributes:
        metadata: The tables.
        folder: The folder of their migrations, if there are any.
        place: The file and the line that created the schema.
    """

    __slots__ = ("folder", "metadata", "place")

    def __init__(self, metadata: MetaData, *, migrations: str | Path | None = "migrations") -> None:
        if not isinstance(metadata, _metadata_class()):
            raise TypeError(
                f"A Schema takes the MetaData that holds the tables of the module, not {metadata!r}: write Schema(MetaData()) and give it to "
                "each Table (from sqlalchemy import MetaData, Table)."
            )
        frame = sys._getframe(1)
        self.metadata = metadata
        self.place: tuple[str, int] = (frame.f_code.co_filename, frame.f_lineno)
        self.folder = None if migrations is None else Path(self.place[0]).parent / migrations

    @property
    def provides(self) -> tuple[type, ...]:
        """What handlers and workers of the module may name in their parameters."""
        from fissile.database._database import Database
        from fissile.database._sagas import Sagas

        return (Database, Sagas)

    def schedule_problem(self, schedule: Schedule) -> str | None:
        """Return what keeps a schedule from being understood, as a sentence."""
        from datetime import UTC, datetime

        from fissile.database._schedules import next_time

        try:
            next_time(schedule, datetime.now(UTC))
        except ValueError as error:
            return f"The schedule {schedule.name} cannot be understood: {schedule.expression!r} in {schedule.time_zone!r} ({error})."
        return None

    def open(self, context: StorageContext) -> AbstractAsyncContextManager[OpenStorage]:
        """Connect, and see to it that the tables are there.

        Raises:
            StartupFailed: The database cannot be reached, or migrations are missing.
        """
        from fissile.database._storage import open_storage

        return open_storage(self, context)

    def __repr__(self) -> str:
        return f"<Schema of {len(self.metadata.tables)} tables, {'without' if self.folder is None else self.folder} migrations>"

    def faults(self) -> tuple[Fault, ...]:
        """Return what keeps the tables from being a module's own: all faults, for the check at start."""
        from fissile._errors import Fault
        from fissile._names import place

        where = place(*self.place)
        found: list[Fault] = []
        if self.metadata.schema is not None:
            what = f"The MetaData names the schema {self.metadata.schema!r}, but a module's tables lie in the module's own."
            found.append(Fault(what, where, "Write MetaData() without a schema."))
        for table in self.metadata.tables.values():
            if table.schema is not None and table.schema != self.metadata.schema:
                what = f"The table {table.name!r} names the schema {table.schema!r}; a module sees only its own."
                found.append(
                    Fault(what, where, "Leave out schema=; ask the other module for what it knows with a query.")
                )
            if table.name.startswith(RESERVED):
                what = f"The table {table.name!r} begins with {RESERVED!r}, as those of the runtime do."
                found.append(Fault(what, where, "Give it another name."))
        return tuple(found)


def _metadata_class() -> type[MetaData]:
    from sqlalchemy import MetaData  # imported by whoever has one

    return MetaData


RESERVED = "fissile_"
"""What the names of the runtime's own tables begin with; they lie beside the module's."""
