"""The submissions in the database: what is read and written, as functions of a connection."""

from typing import Any

import msgspec
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from fissile.database import insert_into
from modules.challenges.contract import Challenge

from .contract import (
    CaseResult,
    JudgingEnded,
    Submission,
    SubmissionJudged,
    SubmissionPage,
    SubmissionSummary,
    SubmitSolution,
    TooManySubmissions,
    UnknownSubmission,
)
from .tables import authors, results, submissions
from .verdicts import ACCEPTED, CHANGED, OVER, Limits

UNFINISHED = ("queued", "judging")
_SHOWN = tuple(column for column in submissions.c if column.name != "source")

_Row = Row[Any]  # Any: of the columns' types


class Task(msgspec.Struct, frozen=True):
    """A case that is to be run.

    Attributes:
        challenge: The challenge.
        version: Its version.
        language: The language of the submission.
        source: The program.
        limits: What it may use.
        is_hidden: Whether nobody sees the case.
        cases: How many cases there are.
    """

    challenge: str
    version: int
    language: str
    source: str
    limits: Limits
    is_hidden: bool
    cases: int


# --- for authors -----------------------------------------------------------------------------------------------------


def add(
    connection: Connection,
    submission_id: str,
    author: str,
    command: SubmitSolution,
    challenge: Challenge,
    submitted_at: float,
    may_wait: int,
) -> bool:
    """Store a submission, unless it is there; return whether it was not.

    Args:
        connection: The connection.
        submission_id: Its id.
        author: Whose it is.
        command: What was submitted.
        challenge: The challenge, as it is now.
        submitted_at: The time, in seconds since 1970.
        may_wait: How many of the author's submissions may be unfinished.

    Raises:
        TooManySubmissions: As many are.
    """
    number = _next_number(connection, author)  # first, since it lets the author's submissions take turns
    c = submissions.c
    if connection.execute(select(c.id).where(c.id == submission_id)).first() is not None:
        return False
    waiting = connection.execute(
        select(func.count()).select_from(submissions).where(c.author == author, c.state.in_(UNFINISHED))
    ).scalar_one()
    if waiting >= may_wait:
        raise TooManySubmissions(waiting)
    connection.execute(
        insert(submissions).values(
            id=submission_id,
            author=author,
            number=number,
            challenge=command.challenge,
            language=command.language,
            source=command.source.encode(),
            state="queued",
            passed=0,
            duration_ms=0.0,
            submitted_at=submitted_at,
            round=0,
            **_by(challenge),
        )
    )
    return True


def _next_number(connection: Connection, author: str) -> int:
    statement = insert_into(connection, authors).values(name=author, submitted=1)
    counted = statement.on_conflict_do_update(
        index_elements=[authors.c.name], set_={"submitted": authors.c.submitted + 1}
    )
    number: int = connection.execute(counted.returning(authors.c.submitted)).scalar_one()
    return number


def _by(challenge: Challenge) -> dict[str, object]:
    return {
        "version": challenge.version,
        "cases": len(challenge.examples) + challenge.cases,
        "examples": len(challenge.examples),
        "time_s": challenge.time_s,
        "memory_mib": challenge.memory_mib,
    }


def read(connection: Connection, submission_id: str, author: str) -> Submission:
    """Return a submission to its author.

    Raises:
        UnknownSubmission: The author has none of this id.
    """
    row = _of_author(connection, submission_id, author)
    source = connection.execute(select(submissions.c.source).where(submissions.c.id == submission_id)).scalar_one()
    c = results.c
    found = connection.execute(select(results).where(c.submission_id == submission_id).order_by(c.number))
    return Submission(
        _summary(row),
        bytes(source).decode(),
        tuple(CaseResult(each.number, each.verdict, each.duration_ms, each.is_hidden, each.detail) for each in found),
    )


def page(connection: Connection, author: str, challenge: str | None, limit: int, before: str | None) -> SubmissionPage:
    """Return a page of an author's list.

    Raises:
        UnknownSubmission: The author has no submission `before`.
    """
    c = submissions.c
    statement = select(*_SHOWN).where(c.author == author)
    if challenge is not None:
        statement = statement.where(c.challenge == challenge)
    if before is not None:
        statement = statement.where(c.number < _of_author(connection, before, author).number)
    rows = connection.execute(statement.order_by(c.number.desc()).limit(limit + 1)).all()
    shown = rows[:limit]
    return SubmissionPage(tuple(map(_summary, shown)), shown[-1].id if len(rows) > limit else None)


def _of_author(connection: Connection, submission_id: str, author: str) -> _Row:
    c = submissions.c
    is_id = submission_id.isascii() and submission_id.isalnum()  # PostgreSQL cannot even be asked for some texts
    row = is_id and connection.execute(select(*_SHOWN).where(c.id == submission_id, c.author == author)).one_or_none()
    if not row:
        raise UnknownSubmission(submission_id)
    return row


def _summary(row: _Row) -> SubmissionSummary:
    return SubmissionSummary(
        id=row.id,
        challenge=row.challenge,
        language=row.language,
        state=row.state,
        verdict=row.verdict,
        cases=row.cases,
        passed=row.passed,
        submitted_at=row.submitted_at,
        judged_at=row.judged_at,
    )


# --- for judging -----------------------------------------------------------------------------------------------------


def unfinished_before(connection: Connection, submission_id: str) -> str | None:
    """Return the last of the submissions that its author has made before this one and that are not judged, if there is any."""
    c = submissions.c
    this = connection.execute(select(c.author, c.number).where(c.id == submission_id)).one_or_none()
    if this is None:
        return None
    earlier = (
        select(c.id)
        .where(c.author == this.author, c.state.in_(UNFINISHED), c.number < this.number)
        .order_by(c.number.desc())
        .limit(1)
    )
    return connection.execute(earlier).scalar_one_or_none()


def challenge_of(connection: Connection, submission_id: str) -> str | None:
    """Return the challenge of a submission that is to be judged; None if there is nothing to judge."""
    c = submissions.c
    return connection.execute(
        select(c.challenge).where(c.id == submission_id, c.state.in_(UNFINISHED))
    ).scalar_one_or_none()


def begin(connection: Connection, submission_id: str, round_: int, challenge: Challenge) -> bool:
    """Note by which state of its challenge a submission is judged; return whether there is anything to judge."""
    c = submissions.c
    begun = connection.execute(
        update(submissions)
        .where(c.id == submission_id, c.state.in_(UNFINISHED), c.round < round_)
        .values(state="judging", round=round_, passed=0, duration_ms=0.0, **_by(challenge))
    )
    if begun.rowcount != 1:
        return False
    connection.execute(delete(results).where(results.c.submission_id == submission_id))
    return True


def task(connection: Connection, submission_id: str, round_: int, number: int) -> Task | str:
    """Return a case that is to be run; or its verdict if it was run, or why it is not to be."""
    c = submissions.c
    row = connection.execute(select(submissions).where(c.id == submission_id)).one_or_none()
    if row is None or row.state != "judging":
        return OVER
    if row.round != round_:
        return CHANGED
    known: str | None = connection.execute(
        select(results.c.verdict).where(results.c.submission_id == submission_id, results.c.number == number)
    ).scalar_one_or_none()
    if known is not None:
        return known
    return Task(
        challenge=row.challenge,
        version=row.version,
        language=row.language,
        source=bytes(row.source).decode(),
        limits=Limits(row.time_s, row.memory_mib),
        is_hidden=number >= row.examples,
        cases=row.cases,
    )


def note_result(connection: Connection, submission_id: str, round_: int, result: CaseResult) -> str | None:
    """Store what a case came to, if nobody has; return what it came to before, or why it is no longer wanted.

    None: this is what it came to.
    """
    c = submissions.c
    # The lock lets those take turns who have run the same case, and who begins anew because the challenge has changed.
    row = connection.execute(select(c.state, c.round).where(c.id == submission_id).with_for_update()).one()
    if row.state != "judging":
        return OVER
    if row.round != round_:
        return CHANGED
    known: str | None = connection.execute(
        select(results.c.verdict).where(results.c.submission_id == submission_id, results.c.number == result.number)
    ).scalar_one_or_none()
    if known is not None:
        return known
    connection.execute(
        insert(results).values(
            submission_id=submission_id,
            number=result.number,
            verdict=result.verdict,
            duration_ms=result.duration_ms,
            is_hidden=result.is_hidden,
            detail=result.detail,
        )
    )
    is_accepted = int(result.verdict == ACCEPTED)
    longest = func.max if connection.dialect.name == "sqlite" else func.greatest
    connection.execute(
        update(submissions)
        .where(c.id == submission_id)
        .values(passed=c.passed + is_accepted, duration_ms=longest(c.duration_ms, result.duration_ms))
    )
    return None


def finish(
    connection: Connection, submission_id: str, verdict: str | None, judged_at: float
) -> tuple[SubmissionJudged, JudgingEnded] | None:
    """Note the verdict of a submission, once; return what is to be told of it, or None if it has ended before.

    Args:
        connection: The connection.
        submission_id: The submission.
        verdict: The verdict; None if it could not be judged.
        judged_at: The time, in seconds since 1970.
    """
    c = submissions.c
    state = "failed" if verdict is None else "judged"
    ended = connection.execute(
        update(submissions)
        .where(c.id == submission_id, c.state.in_(UNFINISHED))
        .values(state=state, verdict=verdict, judged_at=judged_at)
    )
    if ended.rowcount != 1:
        return None
    row = connection.execute(select(*_SHOWN).where(c.id == submission_id)).one()
    told = SubmissionJudged(
        submission_id=submission_id,
        author=row.author,
        challenge=row.challenge,
        language=row.language,
        verdict=verdict,
        passed=row.passed,
        cases=row.cases,
        duration_ms=row.duration_ms,
        submitted_at=row.submitted_at,
        judged_at=judged_at,
    )
    return told, JudgingEnded(submission_id, state, verdict, row.passed, row.cases)
