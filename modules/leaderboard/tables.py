"""The tables of the leaderboard.

What is known is one row per submission. The two tables behind it are worked out from those rows, and are what is asked for.
"""

from typing import Any

from sqlalchemy import Column, Float, Index, Integer, MetaData, Table, Text, desc

metadata = MetaData()


def _verdict() -> list[Column[Any]]:  # Any: of several types
    """Return the columns of what `SubmissionJudged` says that matters here."""
    return [
        Column("submission_id", Text, primary_key=True),
        Column("author", Text, nullable=False),
        Column("challenge", Text, nullable=False),
        Column("language", Text, nullable=False),
        Column("verdict", Text, nullable=True),
        Column("duration_ms", Float, nullable=False),
        Column("submitted_at", Float, nullable=False),
        Column("judged_at", Float, nullable=False),
    ]


verdicts = Table(
    "verdicts",
    metadata,
    *_verdict(),
    # The number that the last rebuild had when the row was written: what came during a rebuild is told from what was there before.
    Column("round", Integer, nullable=False),
)
Index("verdicts_by_solution", verdicts.c.challenge, verdicts.c.author)

solutions = Table(
    "solutions",
    metadata,
    Column("challenge", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("language", Text, nullable=False),
    Column("duration_ms", Float, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("solved_at", Float, nullable=False),
)
Index("solutions_in_order", solutions.c.challenge, solutions.c.duration_ms, solutions.c.solved_at, solutions.c.name)
Index("solutions_by_name", solutions.c.name)

people = Table(
    "people",
    metadata,
    Column("name", Text, primary_key=True),
    Column("solved", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("last_solved_at", Float, nullable=False),
)
Index("people_in_order", desc(people.c.solved), people.c.last_solved_at, people.c.name)

state = Table(
    "state",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # there is one row, 1: whoever writes locks it
    Column("round", Integer, nullable=False),  # the number of the last rebuild that was begun
    Column("rebuilt", Integer, nullable=False),  # and of the last one that has taken effect
)

rebuilds = Table(
    "rebuilds",
    metadata,
    Column("round", Integer, primary_key=True, autoincrement=False),
    Column("alive_at", Float, nullable=False),
)

gathered = Table(
    "gathered",
    metadata,
    Column("round", Integer, primary_key=True, autoincrement=False),
    *_verdict(),
)
"""What a rebuild has read so far."""
