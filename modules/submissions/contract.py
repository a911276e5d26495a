"""What others may know of the submissions."""

from typing import Annotated

from attrs import frozen
from msgspec import Meta

from fissile import Command, Contract, DeclaredError, Event, Query, Topic

contract = Contract("submissions")

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
Language = Annotated[str, Meta(pattern=NO_NUL, min_length=1, max_length=32, examples=["python"])]
Source = Annotated[str, Meta(pattern=NO_NUL, min_length=1, max_length=64 * KIB, description="The program.")]
SubmissionId = Annotated[str, Meta(pattern=NO_NUL, min_length=1, max_length=64)]


@frozen
class CaseResult:
    """What a submission did with one case.

    Attributes:
        number: Which case, from 0: the examples come first, then the hidden ones.
        verdict: `accepted`, `wrong_answer`, `runtime_error`, `time_limit`, `memory_limit`, `output_limit` or `compile_error`.
        duration_ms: How much CPU time the program used, in milliseconds, which does not depend on who else runs one; how long it ran by the
            clock where it was ended, or the sandbox cannot tell.
        is_hidden: Whether nobody sees the case.
        detail: For a case that everybody sees, and for a program that does not compile: what went wrong. It is a stranger's text.
    """

    number: int
    verdict: str
    duration_ms: float
    is_hidden: bool
    detail: str = ""


@frozen
class SubmissionSummary:
    """A submission in a list.

    Attributes:
        id: The submission.
        challenge: The challenge it is for.
        language: Its language.
        state: `queued`, `judging`, or `judged`; `failed` if it could not be judged, which is not its author's fault.
        verdict: The verdict, once there is one: that of the first case that is not accepted.
        cases: How many cases the challenge has.
        passed: How many of them were accepted.
        submitted_at: When it came, in seconds since 1970.
        judged_at: When it was judged, in seconds since 1970.
    """

    id: str
    challenge: str
    language: str
    state: str
    verdict: str | None
    cases: int
    passed: int
    submitted_at: float
    judged_at: float | None


@frozen
class Submission:
    """A submission, as its author sees it.

    Attributes:
        summary: Where it stands.
        source: The program.
        results: What it did with each case that was run, in order.
    """

    summary: SubmissionSummary
    source: str
    results: tuple[CaseResult, ...]


@frozen
class SubmissionPage:
    """Some submissions of one author, the newest first.

    Attributes:
        submissions: The submissions.
        next: What to pass as `before` for the following page; None on the last one.
    """

    submissions: tuple[SubmissionSummary, ...]
    next: str | None


# --- what can go wrong -----------------------------------------------------------------------------------------------


@frozen
class UnknownSubmission(DeclaredError, status=404):
    """Raised when there is no such submission, or it is somebody else's."""

    id: str


@frozen
class NoSuchChallenge(DeclaredError, status=422):
    """Raised when a solution is for a challenge that there is not. Nothing was submitted."""

    challenge: str


@frozen
class ChallengeNotOpen(
    DeclaredError,
    status=410,
    detail="The challenge {challenge!r} was withdrawn and takes no more solutions. Nothing was submitted.",
):
    """Raised when a solution is for a challenge that was withdrawn. Nothing was submitted."""

    challenge: str


@frozen
class LanguageNotTaken(
    DeclaredError,
    status=422,
    detail="The challenge is not to be solved in {language!r}. Nothing was submitted.",
):
    """Raised when the challenge is not to be solved in that language. Nothing was submitted."""

    language: str
    taken: tuple[str, ...]


@frozen
class TooManySubmissions(
    DeclaredError,
    status=429,
    detail="{waiting} of your submissions wait to be judged, as many as may wait. Nothing was submitted.",
):
    """Raised when as many submissions of one author wait as may wait. Nothing was submitted."""

    waiting: int


@frozen
class NoAuthor(DeclaredError, status=403, detail="It is not known whose submissions are meant."):
    """Raised when it is not known whose submissions are meant: code outside of the modules acts as somebody, with `bus.acting_as`."""


@frozen
class CannotBeJudged(DeclaredError):
    """Raised when a submission cannot be judged, now or later. Its author is not to blame."""

    reason: str


# --- what can be asked for -------------------------------------------------------------------------------------------


@frozen
class SubmitSolution(
    Command[str],
    raises=(NoSuchChallenge, ChallengeNotOpen, LanguageNotTaken, TooManySubmissions, NoAuthor),
    requires="submissions:write",
):
    """Submit a program to a challenge, and get the submission's id at once. It is judged later, after what its author submitted before."""

    challenge: Slug
    language: Language
    source: Source


@frozen
class GetSubmission(Query[Submission], raises=(UnknownSubmission,), requires="submissions:write"):
    """Show one submission to its author."""

    id: SubmissionId


@frozen
class ListSubmissions(Query[SubmissionPage], raises=(UnknownSubmission, NoAuthor), requires="submissions:write"):
    """List what the caller has submitted, the newest first.

    Attributes:
        challenge: Only for this challenge.
        limit: How many at most.
        before: Only what was submitted before this one.
    """

    challenge: Slug | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    before: SubmissionId | None = None


# --- what the module asks itself for ---------------------------------------------------------------------------------


@frozen
class JudgeSubmission(Command[None], public=False):
    """Judge a submission: what `SubmitSolution` has accepted.

    Attributes:
        submission_id: The submission.
        at_once: How many of its cases are run at a time.
        pause_s: How long to wait before what could not be run is tried again, in seconds; it doubles each time.
        patience_s: How long to go on trying without any success, in seconds.
    """

    submission_id: str
    at_once: int
    pause_s: float
    patience_s: float


@frozen
class BeginJudging(Command[int | None], raises=(CannotBeJudged,), public=False):
    """Note by which state of its challenge a submission is judged, and get the number of cases.

    None: the challenges cannot be asked now. 0: there is nothing to judge any more.

    Attributes:
        submission_id: The submission.
        round: From 1; one more each time that its challenge was changed while it was judged.
    """

    submission_id: str
    round: int


@frozen
class JudgeCase(Command[str], raises=(CannotBeJudged,), public=False):
    """Run a submission with one case, and get its verdict; or `later`, `changed` or `over`, where there is none.

    Attributes:
        submission_id: The submission.
        round: See `BeginJudging`.
        number: Which case, from 0.
    """

    submission_id: str
    round: int
    number: int


@frozen
class GiveUpJudging(Command[None], public=False):
    """Note that a submission could not be judged, if it is not judged yet."""

    submission_id: str
    reason: str


@frozen
class HasStopped(Query[bool], public=False):
    """Tell whether nobody judges a submission any more, judged or not."""

    submission_id: str


# --- what happens ----------------------------------------------------------------------------------------------------


@frozen
class CaseJudged(Event):
    """A case of a submission was judged.

    Attributes:
        submission_id: The submission.
        cases: How many cases there are.
        result: What came of the case.
        round: From 1; one more each time that judging began anew, since the challenge was changed. What was told of earlier rounds is void.
    """

    submission_id: str
    cases: int
    result: CaseResult
    round: int = 1


@frozen
class SubmissionJudged(Event):
    """A submission has its verdict.

    Attributes:
        submission_id: The submission.
        author: Who submitted it.
        challenge: The challenge.
        language: Its language.
        verdict: The verdict; None if it could not be judged.
        passed: How many cases were accepted.
        cases: How many there are.
        duration_ms: The most CPU time that it used for a case, in milliseconds.
        submitted_at: When it came, in seconds since 1970.
        judged_at: When it was judged, in seconds since 1970.
    """

    submission_id: str
    author: str
    challenge: str
    language: str
    verdict: str | None
    passed: int
    cases: int
    duration_ms: float
    submitted_at: float
    judged_at: float


@frozen
class JudgingEnded(Event):
    """Judging a submission has come to its end: what `SubmissionJudged` says, for who has watched it.

    Attributes:
        submission_id: The submission.
        state: `judged` or `failed`.
        verdict: The verdict; None if it could not be judged.
        passed: How many cases were accepted.
        cases: How many there are.
    """

    submission_id: str
    state: str
    verdict: str | None
    passed: int
    cases: int


progress: Topic[CaseJudged | JudgingEnded] = Topic(
    "submissions.progress",
    CaseJudged,
    JudgingEnded,
    key=lambda event: event.submission_id,
    retention_s=86_400.0,
    public=False,
)
"""How judging goes on, for who watches one submission. The gateway shows it to the author only."""

verdicts = Topic(
    "submissions.verdicts",
    SubmissionJudged,
    key=lambda event: event.submission_id,
    retention_s=100 * 365 * 86_400.0,
    public=False,
)
"""Each verdict once, kept for ever: what the leaderboard is made of."""
