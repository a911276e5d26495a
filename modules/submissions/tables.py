"""The tables of the submissions."""

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# How many submissions each author has made. Who adds one locks the row, so that one author's submissions have one order.
authors = Table(
    "authors",
    metadata,
    Column("name", Text, primary_key=True),
    Column("submitted", Integer, nullable=False),
)

submissions = Table(
    "submissions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("author", Text, ForeignKey("authors.name"), nullable=False),
    # Which of its author's submissions it is, from 1.
    Column("number", Integer, nullable=False),
    Column("challenge", String(64), nullable=False),
    Column("language", String(32), nullable=False),
    # As UTF-8: a text may hold a zero, which PostgreSQL's texts may not.
    Column("source", LargeBinary, nullable=False),
    Column("state", String(8), nullable=False),
    Column("verdict", String(16), nullable=True),
    Column("passed", Integer, nullable=False),
    Column("duration_ms", Float, nullable=False),
    Column("submitted_at", Float, nullable=False),
    Column("judged_at", Float, nullable=True),
    # The state of the challenge that it is judged by; of the time of the submission until judging begins.
    Column("version", Integer, nullable=False),
    Column("cases", Integer, nullable=False),
    Column("examples", Integer, nullable=False),
    Column("time_s", Float, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    # How often judging has begun: 0 before, more than 1 if the challenge was changed meanwhile.
    Column("round", Integer, nullable=False),
    UniqueConstraint("author", "number"),
    Index("ix_submissions_author_state", "author", "state", "number"),
    Index("ix_submissions_author_challenge", "author", "challenge", "number"),
)

results = Table(
    "results",
    metadata,
    Column("submission_id", String(64), ForeignKey("submissions.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("verdict", String(16), nullable=False),
    Column("duration_ms", Float, nullable=False),
    Column("is_hidden", Boolean, nullable=False),
    Column("detail", Text, nullable=False),
)
