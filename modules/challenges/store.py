"""The challenges in the database: what is read and written, as functions of a connection."""

from collections.abc import Iterable
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, Row, and_, delete, func, insert, or_, select, update

from .contract import (
    Case,
    Challenge,
    ChallengeChanged,
    ChallengePage,
    ChallengeSummary,
    UnknownChallenge,
    WholeChallenge,
)
from .tables import cases, challenges


@frozen
class Draft:
    """A challenge as it is to be stored."""

    slug: str
    title: str
    difficulty: int
    statement: str
    examples: tuple[Case, ...]
    cases: tuple[Case, ...]
    tags: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    time_s: float = 2.0
    memory_mib: int = 128


def version_of(connection: Connection, slug: str) -> int | None:
    """Return the version of a challenge; None if there is none of that name."""
    return connection.execute(select(challenges.c.version).where(challenges.c.slug == slug)).scalar_one_or_none()


def is_withdrawn(connection: Connection, slug: str) -> bool:
    """Tell whether a challenge is listed no more."""
    found = connection.execute(select(challenges.c.is_withdrawn).where(challenges.c.slug == slug)).scalar_one_or_none()
    return bool(found)


def seeds(connection: Connection) -> dict[str, str | None]:
    """Return, for every challenge, the digest of the files it came from, unless an author has made or changed it."""
    found = connection.execute(select(challenges.c.slug, challenges.c.seed))
    return {row.slug: row.seed for row in found}


def read(connection: Connection, slug: str) -> Challenge:
    """Return a challenge.

    Raises:
        UnknownChallenge: There is none.
    """
    row = connection.execute(select(challenges).where(challenges.c.slug == slug)).one_or_none()
    if row is None:
        raise UnknownChallenge(slug)
    found = connection.execute(
        select(cases.c.stdin, cases.c.stdout).where(cases.c.slug == slug, cases.c.is_example).order_by(cases.c.number)
    )
    hidden = connection.execute(
        select(func.count()).select_from(cases).where(cases.c.slug == slug, ~cases.c.is_example)
    ).scalar_one()
    return _challenge(row, tuple(Case(stdin, stdout) for stdin, stdout in found), hidden)


def read_whole(connection: Connection, slug: str) -> WholeChallenge:
    """Return a challenge with its hidden cases.

    Raises:
        UnknownChallenge: There is none.
    """
    # One statement: a change between two would mix the versions.
    rows = connection.execute(
        select(challenges, cases.c.is_example, cases.c.stdin, cases.c.stdout)
        .select_from(challenges.outerjoin(cases, cases.c.slug == challenges.c.slug))
        .where(challenges.c.slug == slug)
        .order_by(cases.c.number)
    ).all()
    if not rows:
        raise UnknownChallenge(slug)
    examples = tuple(Case(row.stdin, row.stdout) for row in rows if row.is_example)
    hidden = tuple(Case(row.stdin, row.stdout) for row in rows if row.is_example is False)
    return WholeChallenge(_challenge(rows[0], examples, len(hidden)), hidden)


def _challenge(row: Row[Any], examples: tuple[Case, ...], hidden: int) -> Challenge:  # Any: of the columns
    return Challenge(
        slug=row.slug,
        version=row.version,
        title=row.title,
        difficulty=row.difficulty,
        tags=tuple(row.tags),
        statement=row.statement,
        examples=examples,
        cases=hidden,
        languages=tuple(row.languages),
        time_s=row.time_s,
        memory_mib=row.memory_mib,
        is_withdrawn=row.is_withdrawn,
    )


def case(connection: Connection, slug: str, number: int, version: int | None = None) -> Case:
    """Return one case of a challenge.

    Args:
        connection: The connection.
        slug: The challenge.
        number: The case.
        version: Which version of the challenge it has to be of; any if None.

    Raises:
        UnknownChallenge: There is none, or it has no such case.
        ChallengeChanged: It has another version by now.
    """
    # One statement: a change between two would mix the versions.
    row = connection.execute(
        select(challenges.c.version, cases.c.stdin, cases.c.stdout)
        .select_from(challenges.outerjoin(cases, and_(cases.c.slug == challenges.c.slug, cases.c.number == number)))
        .where(challenges.c.slug == slug)
    ).one_or_none()
    if row is not None and version not in (None, row.version):
        raise ChallengeChanged(slug, row.version)
    if row is None or row.stdin is None:
        raise UnknownChallenge(slug)
    return Case(row.stdin, row.stdout)


def page(connection: Connection, limit: int, after: str | None, *, is_withdrawn: bool) -> ChallengePage:
    """Return a page of the list, or of what was withdrawn from it.

    Raises:
        UnknownChallenge: There is no challenge `after`.
    """
    statement = select(challenges.c.slug, challenges.c.title, challenges.c.difficulty, challenges.c.tags)
    statement = statement.where(challenges.c.is_withdrawn if is_withdrawn else ~challenges.c.is_withdrawn)
    if after is not None:
        difficulty = connection.execute(
            select(challenges.c.difficulty).where(challenges.c.slug == after)
        ).scalar_one_or_none()
        if difficulty is None:
            raise UnknownChallenge(after)
        statement = statement.where(
            or_(
                challenges.c.difficulty > difficulty,
                and_(challenges.c.difficulty == difficulty, challenges.c.slug > after),
            )
        )
    statement = statement.order_by(challenges.c.difficulty, challenges.c.slug).limit(limit + 1)
    rows = connection.execute(statement).all()
    shown = rows[:limit]
    return ChallengePage(
        tuple(ChallengeSummary(row.slug, row.title, row.difficulty, tuple(row.tags)) for row in shown),
        shown[-1].slug if len(rows) > limit else None,
    )


def add(connection: Connection, draft: Draft, seed: str | None = None) -> None:
    """Store a challenge that there was not."""
    connection.execute(insert(challenges).values(slug=draft.slug, version=1, seed=seed, **_columns(draft)))
    _add_cases(connection, draft)


def replace(connection: Connection, draft: Draft, version: int, seed: str | None = None) -> None:
    """Store a challenge in the place of what it was.

    Args:
        connection: The connection.
        draft: The challenge.
        version: Its new version.
        seed: The digest of its files, where it came with the application.
    """
    connection.execute(
        update(challenges).where(challenges.c.slug == draft.slug).values(version=version, seed=seed, **_columns(draft))
    )
    connection.execute(delete(cases).where(cases.c.slug == draft.slug))
    _add_cases(connection, draft)


def set_withdrawn(connection: Connection, slug: str, version: int, *, is_withdrawn: bool) -> Challenge | None:
    """Let a challenge be listed no more, or again; return what it was before, or None if it is so already.

    Raises:
        UnknownChallenge: There is none.
        ChallengeChanged: It has another version by now.
    """
    shown = read(connection, slug)
    if shown.version != version:
        raise ChallengeChanged(slug, shown.version)
    if shown.is_withdrawn == is_withdrawn:
        return None
    connection.execute(update(challenges).where(challenges.c.slug == slug).values(is_withdrawn=is_withdrawn))
    return shown


def draft_of(connection: Connection, slug: str) -> Draft:
    """Return a challenge with all of its cases, as it would be stored again.

    Raises:
        UnknownChallenge: There is none.
    """
    whole = read_whole(connection, slug)
    shown = whole.challenge
    return Draft(
        slug=slug,
        title=shown.title,
        difficulty=shown.difficulty,
        statement=shown.statement,
        examples=shown.examples,
        cases=whole.cases,
        tags=shown.tags,
        languages=shown.languages,
        time_s=shown.time_s,
        memory_mib=shown.memory_mib,
    )


def _columns(draft: Draft) -> dict[str, Any]:  # Any: of the columns
    return {
        "title": draft.title,
        "difficulty": draft.difficulty,
        "tags": list(draft.tags),
        "statement": draft.statement,
        "languages": list(draft.languages),
        "time_s": draft.time_s,
        "memory_mib": draft.memory_mib,
    }


def _add_cases(connection: Connection, draft: Draft) -> None:
    def rows(found: Iterable[Case], begin: int, *, is_example: bool) -> list[dict[str, object]]:
        return [
            {
                "slug": draft.slug,
                "number": number,
                "is_example": is_example,
                "stdin": each.stdin,
                "stdout": each.stdout,
            }
            for number, each in enumerate(found, start=begin)
        ]

    connection.execute(
        insert(cases),
        [
            *rows(draft.examples, 0, is_example=True),
            *rows(draft.cases, len(draft.examples), is_example=False),
        ],
    )
