"""The leaderboard in the database: what each verdict changes, and what is shown, as functions of a connection.

What is worked out is worked out by the same statements from one solution and from all of them, so a rebuild cannot differ from what the
verdicts have made one by one.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Insert,
    Row,
    Select,
    Table,
    and_,
    bindparam,
    case,
    delete,
    desc,
    func,
    insert,
    select,
    true,
    update,
)

from fissile.database import insert_into
from modules.submissions.contract import SubmissionJudged

from .contract import Solver, Solvers, Standing, Standings
from .tables import people, solutions, state, verdicts

ACCEPTED = "accepted"

Rows = Select[*tuple[Any, ...]]
"""A statement that selects rows of some columns. Any: of their types."""

_THE_ROW = 1
_CONTENT = ("submitted_at", "author", "challenge", "language", "duration_ms")


class Change(msgspec.Struct, frozen=True):
    """What a verdict has changed.

    Attributes:
        is_first: Whether its author has solved the challenge with it, and had not before.
        is_faster: Whether their fastest solution is a faster one now.
    """

    is_first: bool
    is_faster: bool


# --- one after the other ---------------------------------------------------------------------------------------------


def lock(connection: Connection) -> Row[Any]:
    """Let nobody else write until the transaction ends; return the row `state`.

    Two verdicts of one author would not see each other's row otherwise, and whoever commits second would count wrongly.
    """
    statement = select(state).where(state.c.id == _THE_ROW).with_for_update()
    found = connection.execute(statement).one_or_none()
    if found is None:
        first = insert_into(connection, state).values(id=_THE_ROW, round=0, rebuilt=0)
        connection.execute(first.on_conflict_do_nothing())  # another process may make it at the same moment
        found = connection.execute(statement).one()
    return found


# --- verdicts --------------------------------------------------------------------------------------------------------


def columns_of(event: SubmissionJudged) -> dict[str, Any]:  # Any: of the columns
    """Return what is kept of a verdict."""
    return {
        "submission_id": event.submission_id,
        "author": event.author,
        "challenge": event.challenge,
        "language": event.language,
        "verdict": event.verdict,
        "duration_ms": event.duration_ms,
        "submitted_at": event.submitted_at,
        "judged_at": event.judged_at,
    }


def age(row: dict[str, Any]) -> tuple[object, ...]:  # Any: of the columns
    """Return by what the newer of two verdicts on one submission is told; equal ages have equal contents."""
    return (row["judged_at"], row["verdict"] or "", *(row[name] for name in _CONTENT))


def take(connection: Connection, event: SubmissionJudged) -> Change:
    """Take a verdict in. Verdicts may come again, and in any order: of several on one submission the newest counts."""
    round_ = lock(connection).round
    row = columns_of(event)
    this = verdicts.c.submission_id == event.submission_id
    found = connection.execute(select(verdicts).where(this)).mappings().one_or_none()
    if found is not None and age(dict(found)) >= age(row):
        return Change(is_first=False, is_faster=False)
    if found is None:
        connection.execute(insert(verdicts).values(**row, round=round_))
    else:
        connection.execute(update(verdicts).where(this).values(**row, round=round_))
        if (found["challenge"], found["author"]) != (event.challenge, event.author):
            _work_out(connection, found["challenge"], found["author"])
    return _work_out(connection, event.challenge, event.author)


def _work_out(connection: Connection, challenge: str, name: str) -> Change:
    """Work out anew how somebody has solved a challenge, and where they stand with it."""
    these = {"of_challenge": challenge, "of_name": name}
    before = connection.execute(_TIME, these).scalar_one_or_none()
    connection.execute(_FORGET_SOLUTION, these)
    connection.execute(_ADD_SOLUTION, these)
    after = connection.execute(_TIME, these).scalar_one_or_none()
    if before is not None or after is not None:
        connection.execute(_FORGET_PERSON, these)
        connection.execute(_ADD_PERSON, these)
    return Change(
        is_first=before is None and after is not None,
        is_faster=before is not None and after is not None and after < before,
    )


def work_all_out(connection: Connection) -> None:
    """Work everything out anew from the verdicts."""
    for statement in (delete(solutions), _filled(solutions, _solutions_from(true()))):
        connection.execute(statement)
    for statement in (delete(people), _filled(people, _people_from(true()))):
        connection.execute(statement)


def fill(connection: Connection, table: Table, source: Rows) -> None:
    """Insert what a statement selects, by the names of its columns."""
    connection.execute(_filled(table, source))


def _filled(table: Table, source: Rows) -> Insert:
    return insert(table).from_select([column.name for column in source.selected_columns], source)


def _solutions_from(which: ColumnElement[bool]) -> Rows:
    """Select the solutions that follow from verdicts: one for each challenge and author."""
    both = (verdicts.c.challenge, verdicts.c.author)
    in_order = (verdicts.c.submitted_at, verdicts.c.submission_id)
    # What could not be judged is no attempt: its author is not to blame.
    counted = (
        select(verdicts, func.row_number().over(partition_by=both, order_by=in_order).label("attempt"))
        .where(verdicts.c.verdict.is_not(None), which)
        .subquery("counted")
    )
    pair = (counted.c.challenge, counted.c.author)
    by_speed = (counted.c.duration_ms, counted.c.attempt)
    accepted = (
        select(
            counted,
            func.row_number().over(partition_by=pair, order_by=counted.c.attempt).label("by_time"),
            func.row_number().over(partition_by=pair, order_by=by_speed).label("by_speed"),
        )
        .where(counted.c.verdict == ACCEPTED)
        .subquery("accepted")
    )
    first, fastest = accepted.c.by_time == 1, accepted.c.by_speed == 1
    return select(
        accepted.c.challenge,
        accepted.c.author.label("name"),
        func.max(case((fastest, accepted.c.language))).label("language"),
        func.min(accepted.c.duration_ms).label("duration_ms"),
        func.max(case((first, accepted.c.attempt))).label("attempts"),
        func.max(case((first, accepted.c.submitted_at))).label("solved_at"),
    ).group_by(accepted.c.challenge, accepted.c.author)


def _people_from(which: ColumnElement[bool]) -> Rows:
    """Select where people stand, which follows from the solutions."""
    return (
        select(
            solutions.c.name,
            func.count().label("solved"),
            func.sum(solutions.c.attempts).label("attempts"),
            func.max(solutions.c.solved_at).label("last_solved_at"),
        )
        .where(which)
        .group_by(solutions.c.name)
    )


_challenge: BindParameter[str] = bindparam("of_challenge")
_name: BindParameter[str] = bindparam("of_name")
# Made once: putting them together takes longer than what they do.
_THIS = and_(solutions.c.challenge == _challenge, solutions.c.name == _name)
_TIME = select(solutions.c.duration_ms).where(_THIS)
_FORGET_SOLUTION = delete(solutions).where(_THIS)
_ADD_SOLUTION = _filled(
    solutions, _solutions_from(and_(verdicts.c.challenge == _challenge, verdicts.c.author == _name))
)
_FORGET_PERSON = delete(people).where(people.c.name == _name)
_ADD_PERSON = _filled(people, _people_from(solutions.c.name == _name))


# --- what is shown ---------------------------------------------------------------------------------------------------


def standings(connection: Connection, limit: int, offset: int) -> Standings:
    """Return some places overall."""
    order = (desc(people.c.solved), people.c.last_solved_at)
    rows, total = _places(connection, people, true(), order, limit, offset)
    places = (Standing(row.rank, row.name, row.solved, row.attempts, row.last_solved_at) for row in rows)
    return Standings(tuple(places), total)


def solvers(connection: Connection, challenge: str, limit: int, offset: int) -> Solvers:
    """Return some places of one challenge."""
    order = (solutions.c.duration_ms,)
    of_it = solutions.c.challenge == challenge
    rows, total = _places(connection, solutions, of_it, order, limit, offset, solutions.c.solved_at)
    places = (Solver(row.rank, row.name, row.language, row.duration_ms, row.attempts, row.solved_at) for row in rows)
    return Solvers(tuple(places), total)


def _places(
    connection: Connection,
    table: Table,
    which: ColumnElement[bool],
    order: Iterable[ColumnElement[Any]],
    limit: int,
    offset: int,
    *and_then: ColumnElement[Any],
) -> tuple[list[Row[Any]], int]:
    """Return some rows with their ranks, and how many rows there are.

    One statement, so that ranks and total are of one moment. Equals are those that the order does not tell apart; among them it goes on by
    what follows, and by name.
    """
    ordered = tuple(order)
    total = select(func.count()).select_from(table).where(which)
    statement = (
        select(table, func.rank().over(order_by=ordered).label("rank"), total.scalar_subquery().label("total"))
        .where(which)
        .order_by(*ordered, *and_then, table.c.name)
        .limit(limit)
        .offset(offset)
    )
    rows = list(connection.execute(statement))
    return rows, rows[0].total if rows else connection.execute(total).scalar_one()
