"""The tables of the challenges."""

from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Integer, MetaData, String, Table, Text, false

metadata = MetaData()

challenges = Table(
    "challenges",
    metadata,
    Column("slug", String(64), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("title", String(120), nullable=False),
    Column("difficulty", Integer, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("statement", Text, nullable=False),
    Column("languages", JSON, nullable=False),
    Column("time_s", Float, nullable=False),
    Column("memory_mib", Integer, nullable=False),
    # Of a challenge that came with the application and that no author has changed: the digest of its files.
    Column("seed", String(64), nullable=True),
    # The row stays, and with it the meaning of what was submitted to it; it is listed no more and takes nothing.
    Column("is_withdrawn", Boolean, nullable=False, server_default=false()),
)

cases = Table(
    "cases",
    metadata,
    Column("slug", String(64), ForeignKey("challenges.slug"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("is_example", Boolean, nullable=False),
    Column("stdin", Text, nullable=False),
    Column("stdout", Text, nullable=False),
)
