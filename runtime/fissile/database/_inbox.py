"""The inbox and the fence: what has taken effect, and who may still commit. SQL that runs inside a handler's last transaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection

from fissile._bus import Scheduled
from fissile._requests import DECLARED
from fissile.abc import Headers, Outgoing
from fissile.database._sqlite import execute

DONE = "done"
"""The outcome of an event, which has no reply."""

FORGOTTEN_ROWS = 1000
"""How many rows one statement forgets."""

_encode_headers = msgspec.msgpack.Encoder().encode
decode_headers = msgspec.msgpack.Decoder(Headers).decode


class Outcome(msgspec.Struct, frozen=True):
    """What a message came to: a row of the inbox.

    Attributes:
        digest: Of the message, to tell a repeat from another message of the same id; see `_digest.py`.
        name: `replied`, `declared:<error>` or `done`.
        body: The reply, or the error, encoded.
    """

    digest: bytes
    name: str
    body: bytes


class Repeated(Exception):
    """Raised inside a transaction whose message has been handled meanwhile."""


class Fenced(Exception):
    """Raised inside a transaction whose partition has gone to another process."""


class Statements:
    """The runtime's own statements, in the words of one database's driver: each runs in microseconds, without SQLAlchemy's compiler.

    Args:
        dialect: `sqlite` or `postgresql`.
    """

    def __init__(self, dialect: str) -> None:
        mark = "?" if dialect == "sqlite" else "%s"
        self._is_sqlite = dialect == "sqlite"
        self._execute: Callable[..., Any] = execute if self._is_sqlite else Connection.exec_driver_sql

        def sql(text: str) -> str:
            return text if mark == "?" else text.replace("%", "%%").replace("?", mark)

        self.find_outcome = sql("SELECT digest, outcome, body FROM fissile_inbox WHERE handler = ? AND message_id = ?")
        self.add_outcome = sql(
            "INSERT INTO fissile_inbox (handler, message_id, digest, outcome, body, at_ms) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (handler, message_id) DO NOTHING"
        )
        self._forget_error = sql(
            f"DELETE FROM fissile_inbox WHERE handler = ? AND message_id = ? AND outcome LIKE '{DECLARED}%'"  # noqa: S608 -- constants
        )
        self.forget_outcomes = sql(
            "DELETE FROM fissile_inbox WHERE (handler, message_id) IN "  # noqa: S608 -- constants
            f"(SELECT handler, message_id FROM fissile_inbox WHERE at_ms < ? ORDER BY at_ms LIMIT {FORGOTTEN_ROWS})"
        )
        self.add_outgoing = sql(
            "INSERT INTO fissile_outbox (topic, record_key, body, headers, due_ms) VALUES (?, ?, ?, ?, ?)"
        )
        # On PostgreSQL each statement is a round trip, so the commonest case, one event and the outcome, is one.
        self._add_both = None
        if dialect == "postgresql":
            self._add_both = (
                "WITH kept AS (INSERT INTO fissile_outbox (topic, record_key, body, headers, due_ms) VALUES (%s, %s, %s, %s, %s)) "  # noqa: S608 -- constants
                + self.add_outcome
            )
        self.claim = sql(
            'INSERT INTO fissile_fence ("partition", epoch) VALUES (?, 1) '
            'ON CONFLICT ("partition") DO UPDATE SET epoch = fissile_fence.epoch + 1 RETURNING epoch'
        )
        share = " FOR SHARE" if dialect == "postgresql" else ""
        self.epoch = sql(f'SELECT epoch FROM fissile_fence WHERE "partition" = ?{share}')  # noqa: S608 -- a constant

    def outcome(self, connection: Connection, handler: str, message_id: str) -> Outcome | None:
        """Return what a message has come to, if it has been handled."""
        row = self._execute(connection, self.find_outcome, (handler, message_id)).fetchone()
        return None if row is None else Outcome(bytes(row[0]), row[1], bytes(row[2]))

    def record(self, connection: Connection, handler: str, message_id: str, outcome: Outcome, now_ms: int) -> None:
        """Write what a message has come to.

        Raises:
            Repeated: It has been handled meanwhile.
        """
        row = (handler, message_id, outcome.digest, outcome.name, outcome.body, now_ms)
        if self._execute(connection, self.add_outcome, row).rowcount != 1:
            raise Repeated

    def forget_error(self, connection: Connection, handler: str, message_id: str) -> None:
        """Forget that a message has come to a declared error, to record what it comes to now."""
        self._execute(connection, self._forget_error, (handler, message_id))

    def finish(
        self,
        connection: Connection,
        outgoing: Sequence[Outgoing | Scheduled],
        handler: str,
        message_id: str,
        outcome: Outcome,
        now_ms: int,
    ) -> int | None:
        """Write what is to be sent, and what a message has come to; return as `keep` does.

        Raises:
            Repeated: It has been handled meanwhile.
        """
        if self._add_both is None or len(outgoing) != 1:
            first = self.keep(connection, outgoing)
            self.record(connection, handler, message_id, outcome, now_ms)
            return first
        row = (*_row(outgoing[0]), handler, message_id, outcome.digest, outcome.name, outcome.body, now_ms)
        if self._execute(connection, self._add_both, row).rowcount != 1:
            raise Repeated
        return None

    def keep(self, connection: Connection, outgoing: Sequence[Outgoing | Scheduled]) -> int | None:
        """Write what is to be sent.

        Returns:
            The number of the first row, where those of the others follow it: on SQLite, which has one writer at a time.
        """
        if not outgoing:
            return None
        if self._is_sqlite:
            numbers: list[int] = [
                self._execute(connection, self.add_outgoing, _row(each)).lastrowid for each in outgoing
            ]
            return numbers[0]
        rows = [_row(each) for each in outgoing]
        connection.exec_driver_sql(self.add_outgoing, rows[0] if len(rows) == 1 else rows)
        return None

    def raise_epoch(self, connection: Connection, partition: str) -> int:
        """Take a partition over from whoever had it; return the new epoch."""
        return int(connection.exec_driver_sql(self.claim, (partition,)).scalar_one())

    def check_epoch(self, connection: Connection, partition: str, epoch: int) -> None:
        """Make sure that a partition is still ours, until the end of the transaction.

        Raises:
            Fenced: It is another's.
        """
        row = self._execute(connection, self.epoch, (partition,)).fetchone()
        if row is None or row[0] != epoch:
            raise Fenced


def _row(outgoing: Outgoing | Scheduled) -> tuple[Any, ...]:
    if isinstance(outgoing, Scheduled):
        record, due_ms = outgoing.record, outgoing.due_ms
    else:
        record, due_ms = outgoing, None
    return (record.topic, record.key, record.value or b"", _encode_headers(record.headers), due_ms)
