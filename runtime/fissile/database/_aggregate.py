"""Aggregates: objects that decide, and record what they decided as events (Evans, Domain-Driven Design, 2003).

An aggregate knows no database and no bus, so a test makes one, calls it and looks at what it has recorded. A repository loads and saves it, one
row per aggregate, and publishes what it recorded through the outbox when the transaction commits.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import attrs
from attrs import define, field
from sqlalchemy import Column, Connection, Select, Table, select, update

from fissile._messages import Event
from fissile.database._database import Transaction
from fissile.database._insert import insert_into

A = TypeVar("A", bound="Aggregate")


class ConcurrentChange(Exception):
    """Raised when an aggregate was changed by somebody else since it was loaded. Load it again and decide anew.

    A handler that lets it pass has failed: an event, or a command that nobody waits for, is tried again, and finds the new state.

    Attributes:
        aggregate: The name of its class.
        id: Its id.
        version: The version that it was loaded with.
    """

    def __init__(self, aggregate: str, id: Any, version: int) -> None:  # noqa: A002 -- Any: whatever the table has as its key
        self.aggregate = aggregate
        self.id = id
        self.version = version
        super().__init__(aggregate, id, version)

    def __str__(self) -> str:
        return f"{self.aggregate} {self.id!r} is no longer at version {self.version}: somebody else has changed it; load it again"


@define(kw_only=True, eq=False)
class Aggregate:
    """The base of an aggregate: an attrs class whose fields are columns of a table.

    ```python
    @define(eq=False)
    class Order(Aggregate):
        id: str
        total: int = 0

        def add(self, price: int) -> None:
            if self.total + price > LIMIT:
                raise LimitReached(self.id)
            self.total += price
            self.record(ItemAdded(self.id, price))
    ```

    Attributes:
        version: How often it was saved; 0 for one that is new.
    """

    version: int = 0
    _recorded: list[Event] = field(factory=list[Event], init=False, repr=False)

    def record(self, event: Event) -> None:
        """Note what was decided. It is published when the aggregate is saved and the transaction commits."""
        self._recorded.append(event)

    @property
    def recorded(self) -> tuple[Event, ...]:
        """What was decided since it was loaded or saved."""
        return tuple(self._recorded)


class Repository(Generic[A]):
    """Loads and saves the aggregates of one class, each in a row of a table.

    The table has a column for each field, one of them its primary key, and an integer column `version`, by which a change of somebody else is
    noticed (optimistic concurrency).

    Args:
        aggregate: The class.
        table: The table.

    Raises:
        TypeError: The table does not fit the class.
    """

    def __init__(self, aggregate: type[A], table: Table) -> None:
        keys = [column.name for column in table.primary_key.columns]
        self._names = tuple(each.name for each in attrs.fields(aggregate) if each.name != "_recorded")
        lacking = [name for name in self._names if name not in table.columns]
        if len(keys) != 1 or keys[0] not in self._names or lacking:
            raise TypeError(
                f"The table {table.name} does not fit {aggregate.__name__}: it needs one primary key, which is a field, "
                f"and a column for each field; {', '.join(lacking) or 'the key'} is not there."
            )
        self._aggregate = aggregate
        self._table = table
        self._key = keys[0]

    async def find(self, transaction: Transaction, id: Any) -> A | None:  # noqa: A002 -- Any: whatever the table has as its key
        """Load an aggregate, or return None if there is none.

        Args:
            transaction: Where.
            id: The value of the primary key.
        """
        columns: list[Column[Any]] = [
            self._table.c[name] for name in self._names
        ]  # Any: of whatever types the fields have
        statement: Select[*tuple[Any, ...]] = select(*columns).where(self._table.c[self._key] == id)
        row = (await transaction.execute(statement)).one_or_none()
        return None if row is None else self._aggregate(**dict(zip(self._names, row, strict=True)))

    async def save(self, transaction: Transaction, aggregate: A) -> None:
        """Write an aggregate, and have what it recorded published when the transaction commits.

        Args:
            transaction: Where.
            aggregate: It has the next version then.

        Raises:
            ConcurrentChange: Somebody else has changed it, or made one of the same id, since it was loaded.
        """
        version = aggregate.version
        values: dict[str, Any] = {name: getattr(aggregate, name) for name in self._names}
        values["version"] = version + 1
        key = values[self._key]
        if version == 0:
            is_there = not await transaction.run(lambda connection: self._add(connection, values))
        else:
            of_this_version = (self._table.c[self._key] == key) & (self._table.c.version == version)
            changed = await transaction.execute(update(self._table).where(of_this_version).values(**values))
            is_there = changed.rowcount != 1
        if is_there:
            raise ConcurrentChange(self._aggregate.__name__, key, version)
        aggregate.version = version + 1
        recorded, aggregate._recorded = aggregate._recorded, []
        for event in recorded:
            transaction.publish(event)

    def _add(self, connection: Connection, values: dict[str, Any]) -> bool:
        """Write the row of a new aggregate; return False if there is one of its id, which another transaction may be about to commit."""
        statement = (
            insert_into(connection, self._table).values(**values).on_conflict_do_nothing(index_elements=[self._key])
        )
        return connection.execute(statement.execution_options(preserve_rowcount=True)).rowcount == 1
