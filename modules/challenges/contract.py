"""What others may know of the challenges."""

from typing import Annotated

from attrs import frozen
from msgspec import Meta

from fissile import Command, Contract, DeclaredError, Event, Query, Topic

contract = Contract("challenges")

KIB = 1024
NO_NUL = r"^[^\x00]*$"
"""For text that is stored: PostgreSQL keeps no NUL, so SQLite is given none either."""

Slug = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*(?!\n)$",
        max_length=64,
        description="The name of a challenge in URLs.",
        examples=["sum-of-two"],
    ),
]
Title = Annotated[str, Meta(pattern=NO_NUL, min_length=1, max_length=120)]
Difficulty = Annotated[int, Meta(ge=1, le=5, description="From 1, simple, to 5, hard.")]
Tag = Annotated[str, Meta(pattern=NO_NUL, min_length=1, max_length=40)]
Tags = Annotated[tuple[Tag, ...], Meta(max_length=8)]
Statement = Annotated[
    str, Meta(pattern=NO_NUL, min_length=1, max_length=20_000, description="Plain text with paragraphs.")
]
Language = Annotated[str, Meta(pattern=NO_NUL, min_length=1, max_length=32)]
Languages = Annotated[tuple[Language, ...], Meta(max_length=32, description="None: every language that there is.")]
TimeS = Annotated[
    float,
    Meta(
        gt=0.0,
        le=10.0,
        description="How much CPU time a program may use for one case, in seconds. By the clock it has half as much again, and a second.",
    ),
]
MemoryMib = Annotated[int, Meta(ge=16, le=1024, description="How much memory it may use, in MiB.")]
Text = Annotated[str, Meta(pattern=NO_NUL, max_length=256 * KIB)]
Version = Annotated[int, Meta(ge=1, le=2**31 - 1)]


@frozen
class Case:
    """A test case.

    Attributes:
        stdin: What the program reads.
        stdout: What it has to write, but for white space at the ends of lines and of the whole.
    """

    stdin: Text
    stdout: Text


Examples = Annotated[tuple[Case, ...], Meta(max_length=5)]
Cases = Annotated[tuple[Case, ...], Meta(min_length=1, max_length=50)]


@frozen
class ChallengeSummary:
    """A challenge in a list."""

    slug: str
    title: str
    difficulty: int
    tags: tuple[str, ...]


@frozen
class ChallengePage:
    """Some challenges, the simple ones first.

    Attributes:
        challenges: The challenges.
        next: What to pass as `after` for the following page; None on the last one.
    """

    challenges: tuple[ChallengeSummary, ...]
    next: str | None


@frozen
class Challenge:
    """A challenge, as people see it.

    Attributes:
        slug: Its name in URLs.
        version: How often it was changed; a change has to name it.
        title: Its title.
        difficulty: From 1, simple, to 5, hard.
        tags: What it is about.
        statement: What is to be done: an author's text, so whoever shows it must escape it.
        examples: Cases that everybody sees.
        cases: How many hidden cases there are.
        languages: The languages that it takes; none means all.
        time_s: How much CPU time a program may use for one case, in seconds. By the clock it has half as much again, and a second.
        memory_mib: How much memory it may use, in MiB.
        is_withdrawn: Whether it is listed no more, and takes no submissions.
    """

    slug: str
    version: int
    title: str
    difficulty: int
    tags: tuple[str, ...]
    statement: str
    examples: tuple[Case, ...]
    cases: int
    languages: tuple[str, ...]
    time_s: float
    memory_mib: int
    is_withdrawn: bool = False


@frozen
class WholeChallenge:
    """A challenge, as its authors see it.

    Attributes:
        challenge: What everybody sees. Its version is what a change has to name.
        cases: The hidden cases.
    """

    challenge: Challenge
    cases: tuple[Case, ...]


# --- what can go wrong -----------------------------------------------------------------------------------------------


@frozen
class UnknownChallenge(DeclaredError, status=404):
    """Raised when there is no such challenge, or it has no such case."""

    slug: str


@frozen
class ChallengeExists(DeclaredError, status=409):
    """Raised when there is a challenge of that name already."""

    slug: str


@frozen
class ChallengeChanged(DeclaredError, status=409):
    """Raised when somebody has changed the challenge meanwhile, and the version that is named is no longer the current one."""

    slug: str
    version: int


@frozen
class CasesTooLarge(
    DeclaredError, status=413, detail="The cases have {size_bytes} bytes together; {limit_bytes} are allowed."
):
    """Raised when the cases of a challenge have more bytes together than a challenge may have."""

    size_bytes: int
    limit_bytes: int


@frozen
class CannotBeSolved(
    DeclaredError, status=422, detail="No program could solve the challenge. {field}: {reason} Nothing was stored."
):
    """Raised when no program could solve the challenge, since the executor does not have what it wants. Nothing was stored."""

    field: str
    reason: str


@frozen
class CannotBeChecked(DeclaredError, status=503):
    """Raised when the executor does not say what programs may use, so that nobody knows whether one could solve the challenge. Try again."""

    slug: str


# --- what can be asked for -------------------------------------------------------------------------------------------


@frozen
class CreateChallenge(
    Command[None],
    raises=(ChallengeExists, CasesTooLarge, CannotBeSolved, CannotBeChecked),
    key="slug",
    requires="challenges:write",
):
    """Add a challenge."""

    slug: Slug
    title: Title
    difficulty: Difficulty
    statement: Statement
    cases: Cases
    examples: Examples = ()
    tags: Tags = ()
    languages: Languages = ()
    time_s: TimeS = 2.0
    memory_mib: MemoryMib = 128


@frozen
class ChangeChallenge(
    Command[int],
    raises=(UnknownChallenge, ChallengeChanged, CasesTooLarge, CannotBeSolved, CannotBeChecked),
    key="slug",
    requires="challenges:write",
):
    """Change a challenge, and get its new version. What is left out stays as it is, and one that is withdrawn stays withdrawn.

    Attributes:
        slug: Which.
        version: The version that the change is made to.
    """

    slug: Slug
    version: Version
    title: Title | None = None
    difficulty: Difficulty | None = None
    statement: Statement | None = None
    cases: Cases | None = None
    examples: Examples | None = None
    tags: Tags | None = None
    languages: Languages | None = None
    time_s: TimeS | None = None
    memory_mib: MemoryMib | None = None


@frozen
class WithdrawChallenge(
    Command[None], raises=(UnknownChallenge, ChallengeChanged), key="slug", requires="challenges:write"
):
    """List a challenge no more, and take no submissions to it. Those that there are keep their verdicts, or get them.

    Attributes:
        slug: Which.
        version: Its version, which stays the same.
    """

    slug: Slug
    version: Version


@frozen
class RestoreChallenge(
    Command[None], raises=(UnknownChallenge, ChallengeChanged), key="slug", requires="challenges:write"
):
    """List a challenge that was withdrawn, and take submissions to it again.

    Attributes:
        slug: Which.
        version: Its version, which stays the same.
    """

    slug: Slug
    version: Version


@frozen
class GetWholeChallenge(Query[WholeChallenge], raises=(UnknownChallenge,), requires="challenges:write"):
    """Show a challenge to an author, with its hidden cases; also one that is withdrawn."""

    slug: Slug


@frozen
class GetChallenge(Query[Challenge], raises=(UnknownChallenge,), max_age_s=5.0):
    """Show a challenge, without its hidden cases; also one that is withdrawn, since old submissions are to it."""

    slug: Slug


@frozen
class ListChallenges(Query[ChallengePage], raises=(UnknownChallenge,), max_age_s=5.0):
    """List challenges, the simple ones first, and none that is withdrawn.

    Attributes:
        limit: How many at most.
        after: Only challenges behind this one.
    """

    limit: Annotated[int, Meta(ge=1, le=100)] = 50
    after: Slug | None = None


@frozen
class ListWithdrawnChallenges(Query[ChallengePage], raises=(UnknownChallenge,), requires="challenges:write"):
    """List the challenges that are withdrawn to an author, the simple ones first.

    Attributes:
        limit: How many at most.
        after: Only challenges behind this one.
    """

    limit: Annotated[int, Meta(ge=1, le=100)] = 50
    after: Slug | None = None


@frozen
class GetCase(Query[Case], raises=(UnknownChallenge, ChallengeChanged), public=False):
    """Show one case to a module that judges: the examples come first, then the hidden ones.

    Attributes:
        slug: Which challenge.
        number: Which case, from 0.
        version: Which version of the challenge it has to be of; any unless told.
    """

    slug: Slug
    number: int
    version: int | None = None


# --- what happens ----------------------------------------------------------------------------------------------------


@frozen
class ChallengePublished(Event):
    """A challenge was added, changed or restored, and is listed."""

    slug: str
    version: int
    title: str
    difficulty: int


@frozen
class ChallengeWithdrawn(Event):
    """A challenge is listed no more, and takes no submissions."""

    slug: str
    version: int


changes: Topic[ChallengePublished | ChallengeWithdrawn] = Topic(
    "challenges.changes", ChallengePublished, ChallengeWithdrawn, key=lambda event: event.slug
)
