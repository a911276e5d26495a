"""Records in the file: topics, storing, reading. Each function is part of a transaction of its caller."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from random import SystemRandom

import msgspec

from fissile._errors import CallError, Fault, StartupFailed
from fissile.abc import Headers, Outgoing, Partition, Record, Stored, TopicSpec
from fissile.transports._sqlite_file import OFFSET_BITS, OFFSETS

_Row = tuple[int, bytes | None, bytes | None, bytes, int]

_ROWS = 32
_INSERT = "INSERT INTO records VALUES (?, ?, ?, ?, ?)"
_INSERT_ROWS = _INSERT + ", (?, ?, ?, ?, ?)" * (_ROWS - 1)

encode_headers = msgspec.msgpack.Encoder().encode
decode_headers = msgspec.msgpack.Decoder(Headers).decode


class Topic(msgspec.Struct, frozen=True):
    """A topic of the file.

    Attributes:
        name: Its name.
        logs: The numbers of its logs, one per partition.
        is_compacted: Whether the last record of each key is kept.
    """

    name: str
    logs: tuple[int, ...]
    is_compacted: bool


class Append(msgspec.Struct, eq=False):
    """Records that go in together.

    Attributes:
        records: The records.
        places: The partition and the number of the log of each.
        compacted: The logs among them that are compacted.
        done: Called at home with what became of it.
        size_bytes: What it takes in memory.
        at: When it was asked for, on the monotonic clock.
    """

    records: Sequence[Outgoing]
    places: list[tuple[int, int]]
    compacted: Collection[int]
    done: Callable[[Stored | CallError], None]
    size_bytes: int
    at: float


# --- topics ----------------------------------------------------------------------------------------------------------


def find_topics(connection: sqlite3.Connection, names: Collection[str]) -> dict[str, Topic]:
    """Return those of the topics that are there."""
    found: dict[str, Topic] = {}
    for name in names:
        row = connection.execute("SELECT id, is_compacted FROM topics WHERE name = ?", (name,)).fetchone()
        if row is not None:
            logs = connection.execute("SELECT id FROM logs WHERE topic = ? ORDER BY partition", (row[0],))
            found[name] = Topic(name, tuple(log for (log,) in logs), bool(row[1]))
    return found


def incarnation_of(connection: sqlite3.Connection) -> str:
    """Return the name of the file among those that come and go at the same path; it is given one where it has none."""
    row = ("incarnation", SystemRandom().getrandbits(60))
    connection.execute("INSERT INTO numbers VALUES (?, ?) ON CONFLICT (name) DO NOTHING", row)
    (number,) = connection.execute("SELECT number FROM numbers WHERE name = 'incarnation'").fetchone()
    return f"{number:x}"


def ensure_topics(connection: sqlite3.Connection, specs: Sequence[TopicSpec], now_ms: int) -> None:
    """Make topics that are not there, and check those that are.

    Raises:
        StartupFailed: A topic has another number of partitions; nothing may be committed then.
    """
    faults: list[Fault] = []
    for spec in specs:
        row = connection.execute(
            "SELECT id, partitions, is_compacted FROM topics WHERE name = ?", (spec.name,)
        ).fetchone()
        if row is None:
            topic = connection.execute(
                "INSERT INTO topics (name, partitions, retention_s, is_compacted) VALUES (?, ?, ?, ?)",
                (spec.name, spec.partitions, spec.retention_s, spec.is_compacted),
            ).lastrowid
            connection.executemany(
                "INSERT INTO logs (topic, partition) VALUES (?, ?)",
                [(topic, number) for number in range(spec.partitions)],
            )
        elif row[1] != spec.partitions:
            what = f"The topic {spec.name} has {row[1]} partitions, not {spec.partitions}."
            cure = "Set it back; changing a count would break the order per key."
            faults.append(Fault(what, "FISSILE_PARTITIONS", cure))
        else:
            connection.execute(
                "UPDATE topics SET retention_s = ?, is_compacted = ? WHERE id = ?",
                (spec.retention_s, spec.is_compacted, row[0]),
            )
            if bool(row[2]) != spec.is_compacted:
                _change_compaction(connection, row[0], spec, now_ms)
    if faults:
        raise StartupFailed(tuple(faults))


def _change_compaction(connection: sqlite3.Connection, topic: int, spec: TopicSpec, now_ms: int) -> None:
    """Begin, or end, to keep the last record of each key."""
    for log, end in connection.execute("SELECT id, next_offset FROM logs WHERE topic = ?", (topic,)).fetchall():
        base = log << OFFSET_BITS
        bounds = (base, base | OFFSETS)
        if not spec.is_compacted:
            connection.execute("DELETE FROM latest WHERE log = ?", (log,))
            connection.execute("DELETE FROM superseded WHERE id BETWEEN ? AND ?", bounds)
            continue
        connection.execute(
            "INSERT INTO latest (log, key, id, forget_ms)"
            " SELECT ?, key, max(id), CASE WHEN value IS NULL THEN timestamp_ms + ? END"
            " FROM records WHERE id BETWEEN ? AND ? AND key IS NOT NULL GROUP BY key",
            (log, int(spec.retention_s * 1000), *bounds),
        )
        connection.execute(
            "INSERT INTO superseded (id, since_ms) SELECT id, ? FROM records WHERE id BETWEEN ? AND ?"
            " AND id NOT IN (SELECT id FROM latest WHERE log = ?)",
            (now_ms, base, (base | end) - 2, log),  # the newest record always stays
        )


# --- storing ---------------------------------------------------------------------------------------------------------


def store(
    connection: sqlite3.Connection, appends: Sequence[Append], now_ms: int
) -> tuple[list[Stored], dict[int, int]]:
    """Store records.

    Returns:
        Where the records of each append are, and the sizes of their logs.
    """
    logs: dict[int, list[int]] = {}  # per log: the next offset, and its size in bytes
    rows: list[_Row] = []
    stored: list[Stored] = []
    for append in appends:
        places: list[tuple[int, int]] = []
        for record, (partition, log) in zip(append.records, append.places, strict=True):
            state = logs.get(log)
            if state is None:
                query = "SELECT next_offset, size_bytes FROM logs WHERE id = ?"
                state = logs[log] = list(connection.execute(query, (log,)).fetchone())
            offset = state[0]
            state[0] = offset + 1
            number = log << OFFSET_BITS | offset
            rows.append((number, record.key, record.value, encode_headers(record.headers), now_ms))
            places.append((partition, offset))
            if log in append.compacted:
                _supersede(connection, log, number, record, now_ms)
            else:
                state[1] += len(record.value or b"")
        stored.append(places)
    _insert(connection, rows)
    connection.executemany(
        "UPDATE logs SET next_offset = ?, size_bytes = ? WHERE id = ?",
        [(state[0], state[1], log) for log, state in logs.items()],
    )
    return stored, {log: state[1] for log, state in logs.items()}


def _insert(connection: sqlite3.Connection, rows: Sequence[_Row]) -> None:
    """Insert records, in the order of the table, and many with one statement: each costs a change of the interpreter's lock."""
    rows = sorted(rows)
    done = 0
    while len(rows) - done >= _ROWS:
        connection.execute(_INSERT_ROWS, [value for row in rows[done : done + _ROWS] for value in row])
        done += _ROWS
    connection.executemany(_INSERT, rows[done:])


def _supersede(connection: sqlite3.Connection, log: int, number: int, record: Outgoing, now_ms: int) -> None:
    """Note that a record is the last one of its key, and that the one before may go."""
    before = connection.execute("SELECT id FROM latest WHERE log = ? AND key = ?", (log, record.key)).fetchone()
    if before is not None:
        connection.execute("INSERT OR IGNORE INTO superseded VALUES (?, ?)", (before[0], now_ms))
    forget = (
        "(SELECT ? + CAST(retention_s * 1000 AS INTEGER) FROM topics JOIN logs ON topic = topics.id WHERE logs.id = ?)"
    )
    connection.execute(
        f"INSERT OR REPLACE INTO latest VALUES (?, ?, ?, {forget if record.value is None else 'NULL'})",  # noqa: S608 -- ours
        (log, record.key, number, *((now_ms, log) if record.value is None else ())),
    )


# --- reading ---------------------------------------------------------------------------------------------------------


def ends_of(connection: sqlite3.Connection) -> dict[int, int]:
    """Return the next offset of each log."""
    return dict(connection.execute("SELECT id, next_offset FROM logs"))


def first_kept(connection: sqlite3.Connection, log: int, end: int) -> int:
    """Return the offset of the first record that a log keeps; its end, if it keeps none."""
    query = "SELECT id FROM records WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 1"
    row = connection.execute(query, (log << OFFSET_BITS, log << OFFSET_BITS | OFFSETS)).fetchone()
    return end if row is None else row[0] & OFFSETS


def fetch(
    connection: sqlite3.Connection, partition: Partition, log: int, position: int, count: int, room_bytes: int
) -> tuple[list[Record], int]:
    """Return the records from a position on: at most so many, and the last of them may exceed the bytes.

    Returns:
        The records, and what their values, keys and headers take, in bytes.
    """
    topic, number = partition
    query = "SELECT id, key, value, headers, timestamp_ms FROM records WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
    base = log << OFFSET_BITS
    records: list[Record] = []
    taken_bytes = 0
    rows = connection.execute(query, (base | position, base | OFFSETS, count))
    for identity, key, value, headers, timestamp_ms in rows:
        decoded = decode_headers(headers)
        records.append(Record(topic, number, identity & OFFSETS, key, value or b"", decoded, timestamp_ms))
        taken_bytes += len(value or b"") + len(key or b"") + len(headers)
        if taken_bytes >= room_bytes:
            rows.close()
            break
    return records, taken_bytes
