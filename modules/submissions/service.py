"""The submissions: programs that people submit, which are judged one after the other of each author."""

import hashlib
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import msgspec
from attrs import frozen

from fissile import Bus, Caller, CallError, Clock, InvalidMessage, Module, ModuleSettings, setting
from fissile.database import Database, Saga, Sagas, Schema, Transaction
from modules.challenges.contract import ChallengeChanged, GetCase, GetChallenge, UnknownChallenge
from modules.code_executor.contract import (
    ExecutorBusy,
    LimitsNotKept,
    NoSandbox,
    RunCase,
    SourceTooLarge,
    UnknownLanguage,
)

from . import store
from .contract import (
    BeginJudging,
    CannotBeJudged,
    CaseJudged,
    CaseResult,
    ChallengeNotOpen,
    GetSubmission,
    GiveUpJudging,
    HasStopped,
    JudgeCase,
    JudgeSubmission,
    LanguageNotTaken,
    ListSubmissions,
    NoAuthor,
    NoSuchChallenge,
    Submission,
    SubmissionPage,
    SubmitSolution,
    UnknownSubmission,
    contract,
    verdicts,
)
from .languages import KnownLanguages
from .tables import metadata
from .verdicts import ACCEPTED, CHANGED, LATER, OVER, detail_of, time_of, verdict_of

module = Module(contract, database=Schema(metadata))

ROUNDS = 5
"""How often judging begins anew because the challenge was changed meanwhile."""

_LONGEST_PAUSE_S = 30.0
_LONGEST_OVERDUE_S = 3600.0
_ASK_S = 10.0
"""How long a challenge is waited for, in seconds: less than the saga waits for who asks."""

_logger = logging.getLogger(__name__)


@frozen
class SubmissionsSettings(ModuleSettings):
    """How many submissions may wait, and how they are judged."""

    waiting: int = setting(20, "How many submissions of one author may wait or be judged.", at_least=1)
    judging: int = setting(4, "How many submissions are judged at a time in a process.", at_least=1)
    cases_at_once: int = setting(4, "How many cases of a submission are run at a time.", at_least=1)
    run_s: float = setting(120.0, "How long the executor may take for one case, its queue included, in seconds.")
    pause_s: float = setting(
        0.5, "After which time a case is tried again that could not be run, in seconds; it doubles each time."
    )
    patience_s: float = setting(
        600.0, "For how long cases may fail to be run before their submission is given up, in seconds."
    )
    overdue_s: float = setting(
        600.0, "After which time it is looked whether an earlier submission is still judged, in seconds."
    )
    languages_s: float = setting(2.0, "How long the executor may take to say which languages it has, in seconds.")
    languages_kept_s: float = setting(60.0, "How long that is remembered, in seconds.")
    detail_chars: int = setting(2000, "How much is shown of each text of a program, in characters.", at_least=0)


class Bench(msgspec.Struct, frozen=True):
    """Where submissions are judged.

    Attributes:
        places: How many there is room for. The executor would refuse what is too much, and others than we would notice.
    """

    places: anyio.Semaphore


@module.resource
@asynccontextmanager
async def bench(settings: SubmissionsSettings) -> AsyncGenerator[Bench]:
    """Make room for as many submissions as may be judged at a time."""
    yield Bench(anyio.Semaphore(settings.judging))


@module.resource
@asynccontextmanager
async def languages(settings: SubmissionsSettings, clock: Clock) -> AsyncGenerator[KnownLanguages]:
    """Remember which languages there are."""
    yield KnownLanguages(clock, settings.languages_kept_s, settings.languages_s)


# --- for authors -----------------------------------------------------------------------------------------------------


@module.command(SubmitSolution)
async def submit_solution(
    command: SubmitSolution,
    database: Database,
    bus: Bus,
    caller: Caller,
    clock: Clock,
    languages: KnownLanguages,
    settings: SubmissionsSettings,
) -> str:
    """Accept a program, and have it judged later."""
    author = _author(caller)
    itself = bus.acting_as(None)  # what a submission is compared with is our own business
    try:
        challenge = await itself.ask(GetChallenge(command.challenge))
    except UnknownChallenge:
        raise NoSuchChallenge(command.challenge) from None
    if challenge.is_withdrawn:
        raise ChallengeNotOpen(command.challenge)
    await _check_language(command.language, challenge.languages, languages, itself)
    # Of the command's id, so that a repeat gets the same one, even after the inbox has forgotten it; and not to be told from outside.
    submission_id = hashlib.blake2b(f"{author}\x00{caller.message_id}".encode(), digest_size=12).hexdigest()
    now = clock.now().timestamp()
    async with database.transaction() as tx:
        if await tx.run(
            lambda connection: store.add(
                connection, submission_id, author, command, challenge, now, may_wait=settings.waiting
            )
        ):
            tx.send(JudgeSubmission(submission_id, settings.cases_at_once, settings.pause_s, settings.patience_s))
    return submission_id


async def _check_language(language: str, taken: tuple[str, ...], languages: KnownLanguages, bus: Bus) -> None:
    """Refuse a language that the challenge does not take or the executor does not have.

    Where the executor cannot be asked, whatever the challenge takes is accepted: the program can wait until it is back.
    """
    available = await languages.names(bus, language)
    names = tuple(name for name in taken or available or () if available is None or name in available)
    if language not in names and not (available is None and not taken and language.isprintable()):
        raise LanguageNotTaken(language, names)


@module.query(GetSubmission)
async def get_submission(query: GetSubmission, database: Database, caller: Caller) -> Submission:
    """Show one submission to its author."""
    try:
        author = _author(caller)
    except NoAuthor:
        raise UnknownSubmission(query.id) from None
    return await database.run(lambda connection: store.read(connection, query.id, author))


@module.query(ListSubmissions)
async def list_submissions(query: ListSubmissions, database: Database, caller: Caller) -> SubmissionPage:
    """List what the caller has submitted."""
    author = _author(caller)
    return await database.run(
        lambda connection: store.page(connection, author, query.challenge, query.limit, query.before)
    )


def _author(caller: Caller) -> str:
    """Return who submits.

    Raises:
        NoAuthor: A module, a script that acts for nobody, or somebody who has not said who they are, but may submit.
    """
    identity = caller.identity
    if identity is None or not identity.is_authenticated or not identity.subject or "\x00" in identity.subject:
        raise NoAuthor
    return identity.subject


# --- judging ---------------------------------------------------------------------------------------------------------


@module.saga(JudgeSubmission, id=lambda command: command.submission_id, awaits=[verdicts])
async def judge(command: JudgeSubmission, saga: Saga, settings: SubmissionsSettings, bench: Bench) -> None:
    """Wait until what its author has submitted before is judged; judge a submission, and tell the verdict."""
    # Whatever ends this function, a fault in it or a person, its author's later submissions must not wait for ever.
    await saga.on_failure(GiveUpJudging(command.submission_id, "the saga has failed"))
    await _wait_for_turn(command.submission_id, saga, settings.overdue_s)
    async with bench.places:
        try:
            verdict = await _judge(command, saga)
        except CannotBeJudged as error:
            await saga.execute(GiveUpJudging(command.submission_id, error.reason))
        else:
            if verdict is not None:
                await saga.transaction(_finish, command.submission_id, verdict, saga.now().timestamp())


async def _wait_for_turn(submission_id: str, saga: Saga, overdue_s: float) -> None:
    # The table says what is to be waited for, and not the events: one that came before this saga began is seen by none.
    while (earlier := await saga.transaction(_unfinished_before, submission_id)) is not None:
        try:
            await saga.wait_for(verdicts, key=earlier, timeout_s=overdue_s)
        except TimeoutError:
            if await saga.ask(HasStopped(earlier)):
                await saga.execute(GiveUpJudging(earlier, "nobody judges it any more"))
            overdue_s = min(2.0 * overdue_s, _LONGEST_OVERDUE_S)  # in a long queue nothing is wrong


async def _unfinished_before(tx: Transaction, submission_id: str) -> str | None:
    return await tx.run(lambda connection: store.unfinished_before(connection, submission_id))


async def _finish(tx: Transaction, submission_id: str, verdict: str | None, judged_at: float) -> bool:
    """Note a verdict and tell it, once; return whether this was the time."""
    told = await tx.run(lambda connection: store.finish(connection, submission_id, verdict, judged_at))
    for event in told or ():
        tx.publish(event)
    return told is not None


async def _judge(command: JudgeSubmission, saga: Saga) -> str | None:
    """Return the verdict; None if the submission has been given up meanwhile.

    Raises:
        CannotBeJudged: There can be none.
    """
    for round_ in range(1, ROUNDS + 1):
        cases = await _begin(command, saga, round_)
        verdict = ACCEPTED if cases else OVER
        for first in range(0, cases, command.at_once):
            verdict = await _run_cases(command, saga, round_, range(first, min(first + command.at_once, cases)))
            if verdict != ACCEPTED:
                break
        if verdict != CHANGED:
            return None if verdict == OVER else verdict
    raise CannotBeJudged(f"its challenge was changed {ROUNDS} times while it was judged")


async def _begin(command: JudgeSubmission, saga: Saga, round_: int) -> int:
    """Begin a round; return how many cases there are."""
    patience = _Patience(command, saga)
    while (cases := await saga.execute(BeginJudging(command.submission_id, round_))) is None:
        await patience.pause("the challenges cannot be asked")
    return cases


async def _run_cases(command: JudgeSubmission, saga: Saga, round_: int, numbers: range) -> str:
    """Run some cases at a time; return the verdict of the first one that is not accepted, or `accepted`."""
    patience = _Patience(command, saga)
    known: dict[int, str] = {}
    left = list(numbers)
    while True:
        cases = [JudgeCase(command.submission_id, round_, number) for number in left]
        # The executor's patience is kept by the handler, once for each case: the limit here is for what goes wrong besides.
        found = dict(zip(left, await saga.gather(cases, limit=len(cases), timeout_s=3600.0), strict=True))
        for stop in (OVER, CHANGED):
            if stop in found.values():
                return stop
        known |= {number: verdict for number, verdict in found.items() if verdict != LATER}
        left = [number for number in numbers if number not in known]
        before = numbers if not left else range(numbers.start, left[0])
        decided = [known[number] for number in before if known[number] != ACCEPTED]
        if decided or not left:
            return decided[0] if decided else ACCEPTED
        if len(left) < len(found):
            patience = _Patience(command, saga)
        await patience.pause("its cases cannot be run")


class _Patience:
    """How long something is tried again that cannot be done now."""

    def __init__(self, command: JudgeSubmission, saga: Saga) -> None:
        self._command = command
        self._saga = saga
        self._since = saga.now()
        self._pause_s = command.pause_s

    async def pause(self, why: str) -> None:
        """Wait until the next attempt.

        Raises:
            CannotBeJudged: It has been tried for long enough.
        """
        saga, tried_s = self._saga, (self._saga.now() - self._since).total_seconds()
        if tried_s >= self._command.patience_s:
            raise CannotBeJudged(f"{why}; that was tried for {tried_s:.0f} s")
        await saga.sleep(round(self._pause_s * saga.random.uniform(0.8, 1.2), 3))
        self._pause_s = min(2.0 * self._pause_s, _LONGEST_PAUSE_S)


@module.command(BeginJudging)
async def begin_judging(command: BeginJudging, database: Database, bus: Bus) -> int | None:
    """Note by which state of its challenge a submission is judged."""
    submission_id = command.submission_id
    slug = await database.run(lambda connection: store.challenge_of(connection, submission_id))
    if slug is None:
        return 0
    try:
        with anyio.fail_after(_ASK_S):
            challenge = await bus.ask(GetChallenge(slug))
    except UnknownChallenge:
        raise CannotBeJudged(f"there is no challenge {slug!r} any more") from None
    except (CallError, TimeoutError) as error:
        _logger.warning("the submission %s has to wait for its challenge: %s", submission_id, error)
        return None
    async with database.transaction() as tx:
        is_begun = await tx.run(lambda connection: store.begin(connection, submission_id, command.round, challenge))
    return len(challenge.examples) + challenge.cases if is_begun else 0


@module.command(JudgeCase, idempotent=True)
async def judge_case(command: JudgeCase, database: Database, bus: Bus, settings: SubmissionsSettings) -> str:
    """Run a submission with one case. A case that was run is not run again; one that two have run has the result of the first."""
    submission_id, number = command.submission_id, command.number
    task = await database.run(lambda connection: store.task(connection, submission_id, command.round, number))
    if isinstance(task, str):
        return task
    found = await _run(task, number, bus, settings)
    if isinstance(found, str):
        return found

    async with database.transaction() as tx:
        known = await tx.run(lambda connection: store.note_result(connection, submission_id, command.round, found))
        if known is None:
            tx.publish(CaseJudged(submission_id, task.cases, found, command.round))
    return known or found.verdict


async def _run(task: store.Task, number: int, bus: Bus, settings: SubmissionsSettings) -> CaseResult | str:
    """Run a case; return what it came to, or why it could not be run."""
    try:
        with anyio.fail_after(settings.run_s):
            case = await bus.ask(GetCase(task.challenge, number, task.version))
            program = RunCase(task.language, task.source, case.stdin, task.limits.time_s, task.limits.memory_mib)
            report = await bus.execute(program)
    except (ChallengeChanged, UnknownChallenge):
        return CHANGED
    except (UnknownLanguage, SourceTooLarge, LimitsNotKept, InvalidMessage) as error:
        raise CannotBeJudged(f"the executor refuses it: {error}") from None
    except (ExecutorBusy, NoSandbox, CallError, TimeoutError) as error:
        _logger.info("case %s of a submission to %s has to wait: %r", number, task.challenge, error)
        return LATER
    verdict = verdict_of(report, case)
    is_told = not task.is_hidden or verdict == "compile_error"
    detail = detail_of(verdict, report, case, task.limits, settings.detail_chars) if is_told else ""
    return CaseResult(number, verdict, time_of(report), task.is_hidden, detail)


@module.command(GiveUpJudging)
async def give_up_judging(command: GiveUpJudging, database: Database, clock: Clock) -> None:
    """Note that a submission could not be judged."""
    async with database.transaction() as tx:
        if await _finish(tx, command.submission_id, None, clock.now().timestamp()):
            _logger.error("the submission %s was not judged: %s", command.submission_id, command.reason)


@module.query(HasStopped)
async def has_stopped(query: HasStopped, sagas: Sagas) -> bool:
    """Tell whether nobody judges a submission any more."""
    status = await sagas.find(judge, query.submission_id)
    return status is None or status.status in ("completed", "compensated", "failed", "stuck")
