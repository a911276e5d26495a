"""The rows of the outbox: SQL, in the words of one database's driver."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
from sqlalchemy import Connection

from fissile.abc import Outgoing
from fissile.database._inbox import decode_headers

BATCH_ROWS = 500
BATCH_BYTES = 4 * 1024 * 1024
"""How much of the outbox is in memory at a time; a single row may be larger."""

_REACHED = "SELECT seq FROM sqlite_sequence WHERE name = 'fissile_outbox'"


class Row(msgspec.Struct, frozen=True):
    """A row of the outbox.

    Attributes:
        seq: Its number.
        record: What is to be sent.
    """

    seq: int
    record: Outgoing


class Waiting(msgspec.Struct, frozen=True):
    """What is to be sent next.

    Attributes:
        rows: The rows, in order.
        reached: The last number that was given to a row by then, if these are all that wait; None if there are more, and on PostgreSQL,
            which gives numbers before a transaction commits, and commits in any order.
    """

    rows: list[Row]
    reached: int | None


class OutboxStatements:
    """What the relay says to the database.

    Args:
        dialect: `sqlite` or `postgresql`.
    """

    def __init__(self, dialect: str) -> None:
        if dialect == "sqlite":
            mark, any_of = "?", "IN (SELECT value FROM json_each(?))"
        else:
            mark, any_of = "%s", "= ANY(%s)"
        self._takes_json = dialect == "sqlite"
        self._waiting = f"SELECT seq, length(body) FROM fissile_outbox WHERE due_ms IS NULL ORDER BY seq LIMIT {mark}"  # noqa: S608 -- constants, as below
        self._due = (
            f"SELECT seq, length(body) FROM fissile_outbox WHERE due_ms <= {mark} ORDER BY due_ms, seq LIMIT {mark}"  # noqa: S608
        )
        self._rows = f"SELECT seq, topic, record_key, body, headers FROM fissile_outbox WHERE seq {any_of}"  # noqa: S608
        self._next_due = f"SELECT min(due_ms) FROM fissile_outbox WHERE due_ms > {mark}"  # noqa: S608
        self._delete = f"DELETE FROM fissile_outbox WHERE seq {any_of}"  # noqa: S608
        self._postpone = f"UPDATE fissile_outbox SET due_ms = {mark} WHERE seq {any_of}"  # noqa: S608

    def read(self, connection: Connection, known: Collection[int]) -> Waiting:
        """Read what is to be sent next, in order.

        Args:
            connection: The connection.
            known: Rows that are on their way, or sent and not deleted yet.
        """
        rows, are_all = self._read(connection, known, self._waiting, ())
        reached = connection.exec_driver_sql(_REACHED).scalar() or 0 if are_all and self._takes_json else None
        return Waiting(rows, reached)

    def read_due(self, connection: Connection, known: Collection[int], now_ms: int) -> tuple[list[Row], int | None]:
        """Read what was scheduled and is due.

        Args:
            connection: The connection.
            known: Rows that are on their way, or sent and not deleted yet.
            now_ms: The time.

        Returns:
            The rows, and when the next one after them is due.
        """
        rows, _ = self._read(connection, known, self._due, (now_ms,))
        return rows, connection.exec_driver_sql(self._next_due, (now_ms,)).scalar_one()

    def _read(
        self, connection: Connection, known: Collection[int], sql: str, parameters: tuple[int, ...]
    ) -> tuple[list[Row], bool]:
        """Read rows; tell whether there are no more."""
        # First the numbers and the sizes, so that not more is fetched than shall be in memory.
        found = connection.exec_driver_sql(sql, (*parameters, len(known) + BATCH_ROWS))
        wanted: list[int] = []
        size_bytes, are_all = 0, True
        for seq, length in found:
            if seq in known:
                continue
            size_bytes += length
            if wanted and (size_bytes > BATCH_BYTES or len(wanted) == BATCH_ROWS):
                are_all = False
                break
            wanted.append(seq)
        if not wanted:
            return [], are_all
        by_seq = {row[0]: row for row in connection.exec_driver_sql(self._rows, (self._list(wanted),))}
        return [_row(by_seq[seq]) for seq in wanted if seq in by_seq], are_all and len(wanted) < BATCH_ROWS

    def delete(self, connection: Connection, seqs: Sequence[int]) -> None:
        """Delete rows that were sent."""
        connection.exec_driver_sql(self._delete, (self._list(seqs),))

    def postpone(self, connection: Connection, seqs: Sequence[int], due_ms: int) -> None:
        """Try rows again later, that cannot be sent and must not hold up the others."""
        connection.exec_driver_sql(self._postpone, (due_ms, self._list(seqs)))

    def _list(self, seqs: Sequence[int]) -> str | list[int]:
        return msgspec.json.encode(list(seqs)).decode() if self._takes_json else list(seqs)


def _row(row: Sequence[object]) -> Row:
    seq, topic, key, body, headers = row
    assert isinstance(seq, int)
    assert isinstance(topic, str)
    return Row(
        seq,
        Outgoing(topic, None if key is None else bytes(key), bytes(body), decode_headers(bytes(headers))),  # type: ignore[call-overload]  # of the columns' types
    )
