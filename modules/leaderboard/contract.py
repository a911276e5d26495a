"""What others may know of the leaderboard."""

from typing import Annotated

from attrs import frozen
from msgspec import Meta

from fissile import Command, Contract, DeclaredError, Event, Query, Topic

contract = Contract("leaderboard")

Slug = Annotated[str, Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*(?!\n)$", max_length=64)]
Limit = Annotated[int, Meta(ge=1, le=100)]
Offset = Annotated[int, Meta(ge=0, le=100_000, description="How many places to leave out.")]


@frozen
class Standing:
    """One place on the leaderboard.

    Attributes:
        rank: The place, from 1; equals share one.
        name: Who.
        solved: How many challenges they have solved.
        attempts: How many submissions those took, the accepted ones counted.
        last_solved_at: When they solved the last one, in seconds since 1970: who was earlier is first.
    """

    rank: int
    name: str
    solved: int
    attempts: int
    last_solved_at: float


@frozen
class Solver:
    """One place on the leaderboard of a challenge.

    Attributes:
        rank: The place, from 1; equals share one.
        name: Who.
        language: The language of their fastest accepted solution.
        duration_ms: The most CPU time that it used for a case, in milliseconds: the least is first.
        attempts: How many submissions they made until the first accepted one.
        solved_at: When they solved it first, in seconds since 1970.
    """

    rank: int
    name: str
    language: str
    duration_ms: float
    attempts: int
    solved_at: float


@frozen
class Standings:
    """Some places overall.

    Attributes:
        places: The places.
        total: How many people have solved anything.
    """

    places: tuple[Standing, ...]
    total: int


@frozen
class Solvers:
    """Some places of one challenge.

    Attributes:
        places: The places.
        total: How many people have solved it.
    """

    places: tuple[Solver, ...]
    total: int


@frozen
class GetStandings(Query[Standings], max_age_s=2.0):
    """Show who has solved the most challenges."""

    limit: Limit = 50
    offset: Offset = 0


@frozen
class GetSolvers(Query[Solvers], max_age_s=2.0):
    """Show who has solved a challenge."""

    challenge: Slug
    limit: Limit = 50
    offset: Offset = 0


@frozen
class NoVerdictsKept(DeclaredError, status=409):
    """Raised when the log has no verdict, though the leaderboard has some, which stay. A log in memory is that of one process: ask the one
    that runs, through its gateway.
    """


@frozen
class RebuildLeaderboard(Command[int], raises=(NoVerdictsKept,), requires="leaderboard:rebuild"):
    """Make the leaderboard anew from the verdicts that are kept, and get their number. It can be asked meanwhile."""


@frozen
class LeaderboardChanged(Event):
    """Somebody has solved a challenge, for the first time or faster than before.

    Attributes:
        name: Who.
        challenge: The challenge.
    """

    name: str
    challenge: str


changes = Topic("leaderboard.changes", LeaderboardChanged, key=lambda event: event.challenge, retention_s=3600.0)
