"""The runtime's own tables, which stand beside those of each module, in its schema or its file."""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    event,
)

runtime_tables = MetaData()

# A row number that grows with each insert, on both databases: SQLite knows only INTEGER as such.
_Sequence = BigInteger().with_variant(Integer(), "sqlite")

inbox = Table(
    "fissile_inbox",
    runtime_tables,
    # What was handled: the message's name, or for an event the subscriber's; and the message's id.
    Column("handler", String(200), primary_key=True),
    Column("message_id", String(600), primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    # What it came to: `replied`, or `declared:<error>`, as in a reply that goes through a log.
    Column("outcome", String(200), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Index("fissile_inbox_at", "at_ms"),
)
"""What has taken effect: a row commits with the effects of its message, so a repeat finds it."""

outbox = Table(
    "fissile_outbox",
    runtime_tables,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("topic", String(300), nullable=False),
    Column("record_key", LargeBinary),
    Column("body", LargeBinary, nullable=False),
    Column("headers", LargeBinary, nullable=False),
    # When it is due; null for what is to be sent at once, in the order of `seq`.
    Column("due_ms", BigInteger),
    Index("fissile_outbox_due", "due_ms"),
    sqlite_autoincrement=True,
)
"""What is to be published and sent: a row commits with the effects of the handler that wrote it, and goes when the log has it."""

# SQLite finds what is to be sent at once in the index on due_ms, whose entries of one due_ms are in the order of seq. This is no `Index` with
# `postgresql_where`: that imports the whole dialect in processes that have no PostgreSQL.
_outbox_next = DDL("CREATE INDEX fissile_outbox_next ON fissile_outbox (seq) WHERE due_ms IS NULL")  # type: ignore[no-untyped-call]  # as SQLAlchemy has it
event.listen(outbox, "after_create", _outbox_next.execute_if(dialect="postgresql"))

fence = Table(
    "fissile_fence",
    runtime_tables,
    Column("partition", String(320), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
)
"""Who handles a partition: each new owner raises the epoch, and a former one finds at its commit that it is another's."""

leases = Table(
    "fissile_lease",
    runtime_tables,
    Column("name", String(200), primary_key=True),
    Column("owner", String(100), nullable=False),
    Column("until_ms", BigInteger, nullable=False),
)
"""Which of the replicas does what only one may do, such as relaying the outbox in order."""

schedules = Table(
    "fissile_schedule",
    runtime_tables,
    Column("name", String(200), primary_key=True),
    Column("expression", Text, nullable=False),
    Column("next_ms", BigInteger, nullable=False),
)
"""When each schedule of the module is due next."""

sagas = Table(
    "fissile_saga",
    runtime_tables,
    Column("name", String(100), primary_key=True),
    Column("saga_id", String(200), primary_key=True),
    # Of this very run: the ids of what it sends begin with it, so that a saga of the same id, long after, is not taken for this one.
    Column("run", String(100), nullable=False),
    # What started it.
    Column("message", String(200), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("message_id", String(600), nullable=False),
    Column("status", String(20), nullable=False),
    Column("is_undoing", Boolean, nullable=False),
    Column("step", Text),
    Column("error", Text),
    # Who runs it, and until when; each one that takes it raises the epoch, and a former one finds at its commit that it is another's.
    Column("owner", String(100)),
    Column("until_ms", BigInteger),
    Column("epoch", BigInteger, nullable=False),
    # When it goes on; null where only an event, or a person, can make it.
    Column("due_ms", BigInteger),
    Column("waits_topic", String(300)),
    Column("waits_key", LargeBinary),
    # Events up to here came before it.
    Column("first_seq", BigInteger, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
    Index("fissile_saga_due", "due_ms"),
    Index("fissile_saga_waits", "waits_topic", "waits_key"),
    Index("fissile_saga_status", "status", "ended_ms"),
    Index("fissile_saga_started", "started_ms"),
)
"""Where each saga of the module stands."""

SAGA_OPEN = "CREATE INDEX fissile_saga_open ON fissile_saga (name, status) WHERE ended_ms IS NULL"
"""An index of those that have not ended. The others are kept for a week, and each event that may be awaited asks whether one goes on."""
event.listen(sagas, "after_create", DDL(SAGA_OPEN))  # type: ignore[no-untyped-call]  # as SQLAlchemy has it

saga_steps = Table(
    "fissile_saga_step",
    runtime_tables,
    Column("name", String(100), primary_key=True),
    Column("saga_id", String(200), primary_key=True),
    Column("position", Integer, primary_key=True),
    # Which of several that are done at a time.
    Column("branch", Integer, primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("label", String(300), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    # Null while it is not known; `replied`, `declared:<error>`, `failed:<error>`, `done` or `timed-out`.
    Column("outcome", String(200)),
    Column("body", LargeBinary),
    # Of the event that it took.
    Column("seq", BigInteger),
    Column("attempts", Integer, nullable=False),
    # Whether an attempt that failed may have had effects all the same.
    Column("is_uncertain", Boolean, nullable=False),
    Column("error", Text),
    Column("due_ms", BigInteger),
    # The command that undoes it.
    Column("undo_name", String(200)),
    Column("undo_body", LargeBinary),
    Column("undo_attempts", Integer, nullable=False),
    Column("undo_error", Text),
    Column("undone_ms", BigInteger),
    Column("began_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
)
"""What each saga has done: when its function runs again, its steps return what they returned."""

saga_events = Table(
    "fissile_saga_event",
    runtime_tables,
    Column("seq", _Sequence, primary_key=True, autoincrement=True),
    Column("topic", String(300), nullable=False),
    Column("record_key", LargeBinary, nullable=False),
    Column("message", String(200), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("message_id", String(600), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Index("fissile_saga_event_key", "topic", "record_key", "seq"),
    Index("fissile_saga_event_at", "at_ms"),
    sqlite_autoincrement=True,
)
"""The events that sagas may wait for, since the oldest saga that goes on began: one that comes before it is waited for is not lost."""
