"""Submitting programs, and looking at what became of them: who may, what is refused, and what a repeat comes to."""

from __future__ import annotations

from pathlib import Path

import pytest

from fissile import Forbidden, Identity, InvalidMessage, Unauthenticated
from fissile.testing import user
from modules.challenges.contract import Case, CreateChallenge
from modules.code_executor.contract import NoSandbox
from modules.submissions.contract import (
    GetSubmission,
    LanguageNotTaken,
    ListSubmissions,
    NoAuthor,
    NoSuchChallenge,
    SubmissionPage,
    SubmitSolution,
    TooManySubmissions,
    UnknownSubmission,
)

from .court import CASES, Court, count, court, program, settings_of


async def test_a_submission_is_taken_at_once_and_shown_to_its_author(opened: Court) -> None:
    source = program({"0": "hold"})
    opened.executor.holds.add(source)
    submission_id = await opened.submit("ann", source)
    waits = await opened.until("ann", submission_id, lambda found: found.summary.state == "judging")
    assert (waits.source, waits.results, waits.summary.verdict) == (source, (), None)
    assert (waits.summary.challenge, waits.summary.language, waits.summary.cases) == ("count", "python", CASES)
    opened.executor.holds.clear()
    judged = await opened.judged("ann", submission_id)
    assert judged.summary.verdict == "wrong_answer"
    assert judged.summary.judged_at is not None
    assert judged.summary.judged_at >= judged.summary.submitted_at == waits.summary.submitted_at


async def test_a_repeat_gets_the_same_submission_and_another_command_another_one(opened: Court) -> None:
    command = SubmitSolution("count", "python", program())
    ann = opened.as_("ann")
    first = await ann.execute(command, id="a-key")
    assert await ann.execute(command, id="a-key") == first
    assert await ann.execute(command) != first
    with pytest.raises(InvalidMessage, match="used before"):
        await ann.execute(SubmitSolution("count", "bash", program()), id="a-key")
    page = await ann.ask(ListSubmissions())
    assert len(page.submissions) == 2
    for each in page.submissions:
        await opened.judged("ann", each.id)
    assert opened.executor.cases_of(program()).total() >= 2 * CASES


@pytest.mark.split
async def test_another_authors_submission_is_as_unknown_as_none_at_all(opened: Court) -> None:
    submission_id = await opened.submit("ann", program())
    await opened.judged("ann", submission_id)
    bob = opened.as_("bob")
    for wrong in (submission_id, "nothing", "no/id", "ü"):
        with pytest.raises(UnknownSubmission) as unknown:
            await bob.ask(GetSubmission(wrong))
        assert unknown.value == UnknownSubmission(wrong)
        with pytest.raises(UnknownSubmission):
            await bob.ask(ListSubmissions(before=wrong))
    assert await bob.ask(ListSubmissions()) == SubmissionPage((), None)
    with pytest.raises(UnknownSubmission):  # neither is a module shown anything
        await opened.bus.ask(GetSubmission(submission_id))


async def test_who_may_not_submit_is_refused_and_so_is_who_acts_for_nobody(opened: Court) -> None:
    command = SubmitSolution("count", "python", program())
    with pytest.raises(Forbidden):
        await opened.bus.acting_as(user("ann", "challenges:write")).execute(command)
    with pytest.raises(Unauthenticated):
        await opened.bus.acting_as(Identity("", kind="anonymous")).execute(command)
    everybody = Identity("", frozenset({"submissions:write"}), kind="anonymous")
    with pytest.raises(NoAuthor):
        await opened.bus.acting_as(everybody).execute(command)
    with pytest.raises(NoAuthor):
        await opened.bus.execute(command)
    with pytest.raises(NoAuthor):
        await opened.bus.ask(ListSubmissions())
    assert opened.executor.runs == []


async def test_what_no_challenge_takes_is_refused(opened: Court) -> None:
    opened.executor.known = ("bash", "cobol")
    await opened.bus.execute(count("bashed", languages=("bash", "cobol")))
    opened.executor.known = ("python", "bash")
    ann = opened.as_("ann")
    with pytest.raises(NoSuchChallenge) as nothing:
        await ann.execute(SubmitSolution("nothing", "python", program()))
    assert nothing.value == NoSuchChallenge("nothing")
    with pytest.raises(LanguageNotTaken) as not_taken:
        await ann.execute(SubmitSolution("bashed", "python", program()))
    assert not_taken.value == LanguageNotTaken("python", ("bash",))  # and COBOL is nothing that the executor has
    with pytest.raises(LanguageNotTaken) as unheard_of:
        await ann.execute(SubmitSolution("count", "cobol", program()))
    assert unheard_of.value == LanguageNotTaken("cobol", ("python", "bash"))
    for wrong in ("", "x" * (64 * 1024 + 1)):
        with pytest.raises(InvalidMessage):
            await ann.execute(SubmitSolution("count", "python", wrong))
    assert (await ann.ask(ListSubmissions())).submissions == ()


async def test_without_the_executor_whatever_a_challenge_takes_is_accepted(opened: Court) -> None:
    await opened.bus.execute(count("bashed", languages=("bash",)))
    opened.executor.away = NoSandbox("it is being built")
    with pytest.raises(LanguageNotTaken) as not_taken:
        await opened.submit("ann", program(), "bashed", "python")
    assert not_taken.value == LanguageNotTaken("python", ("bash",))
    accepted = await opened.submit("ann", program(), "bashed", "bash")
    unchecked = await opened.submit("ann", program(), "count", "bash")
    opened.executor.away = None
    assert (await opened.judged("ann", accepted)).summary.verdict == "accepted"
    assert (await opened.judged("ann", unchecked)).summary.verdict == "accepted"


async def test_as_many_of_an_author_wait_as_may_wait(tmp_path: Path) -> None:
    async with court("local", settings_of(tmp_path), waiting=2) as opened:
        source = program(held=1)
        opened.executor.holds.add(source)
        held = [await opened.submit("ann", source) for _ in range(2)]
        with pytest.raises(TooManySubmissions) as too_many:
            await opened.submit("ann", program())
        assert too_many.value == TooManySubmissions(2)
        await opened.judged("bob", await opened.submit("bob", program()))  # it is nobody else's business
        opened.executor.holds.clear()
        await opened.judged("ann", held[0])
        await opened.judged("ann", await opened.submit("ann", program()))


async def test_the_list_comes_in_pages_the_newest_first_also_of_one_challenge(opened: Court) -> None:
    await opened.bus.execute(CreateChallenge("other", "Other", 1, "Echo.", (Case("1", "1"),)))
    ann = opened.as_("ann")
    made = [
        await opened.submit("ann", program(number=number), "other" if number % 3 else "count") for number in range(7)
    ]
    found: list[str] = []
    before: str | None = None
    while True:
        page = await ann.ask(ListSubmissions(limit=3, before=before))
        found += [each.id for each in page.submissions]
        before = page.next
        if before is None:
            break
    assert found == made[::-1]
    only = await ann.ask(ListSubmissions("count", limit=2))
    assert ([each.id for each in only.submissions], only.next) == ([made[6], made[3]], made[3])
    rest = await ann.ask(ListSubmissions("count", before=only.next))
    assert ([each.id for each in rest.submissions], rest.next) == ([made[0]], None)
