"""How submissions are judged: the verdicts, the order, what is told, and what happens where a case cannot be run."""

from __future__ import annotations

from collections import Counter
from itertools import count as count_up
from itertools import groupby
from pathlib import Path
from typing import Any

import anyio
import pytest

from modules.challenges.contract import Case, ChangeChallenge, RestoreChallenge, WithdrawChallenge
from modules.code_executor.contract import ExecutorBusy, LimitsNotKept, NoSandbox, SourceTooLarge, UnknownLanguage
from modules.submissions.contract import (
    CaseJudged,
    ChallengeNotOpen,
    GetSubmission,
    JudgeCase,
    JudgingEnded,
    SubmissionJudged,
    progress,
    verdicts,
)

from .court import CASES, Court, court, program, settings_of

WRONG = ("wrong_answer", "runtime_error", "time_limit", "memory_limit", "output_limit", "compile_error")


async def test_a_program_that_is_right_is_accepted_and_every_case_is_told(opened: Court) -> None:
    async with opened.bus.tap(progress) as tap:
        submission_id = await opened.submit("ann", program(ms=7.5))
        told: list[CaseJudged | JudgingEnded] = []
        with anyio.fail_after(30):
            while not told or not isinstance(told[-1], JudgingEnded):
                told.append((await anext(tap)).event)
    judged = await opened.judged("ann", submission_id)
    assert told[-1] == JudgingEnded(submission_id, "judged", "accepted", CASES, CASES)
    assert sorted(told[:-1], key=lambda each: each.result.number) == [  # type: ignore[union-attr]  # all but the last
        CaseJudged(submission_id, CASES, result) for result in judged.results
    ]
    assert [(each.number, each.verdict, each.is_hidden) for each in judged.results] == [
        (number, "accepted", number >= 2) for number in range(CASES)
    ]
    assert (judged.summary.state, judged.summary.verdict, judged.summary.passed) == ("judged", "accepted", CASES)


async def test_the_verdict_is_told_once_with_what_a_leaderboard_needs(opened: Court) -> None:
    async with opened.bus.tap(verdicts) as tap:
        ids = [await opened.submit(name, program({"9": "no"}, ms=3.0)) for name in ("ann", "bob")]
        with anyio.fail_after(30):
            told = {(found := (await anext(tap)).event).submission_id: found for _ in ids}
        summary = (await opened.judged("ann", ids[0])).summary
    assert summary.judged_at is not None
    assert told[ids[0]] == SubmissionJudged(
        ids[0],
        "ann",
        "count",
        "python",
        "wrong_answer",
        CASES - 1,
        CASES,
        3.0,
        summary.submitted_at,
        summary.judged_at,
    )
    assert told[ids[1]].author == "bob"


async def test_every_outcome_has_its_verdict(opened: Court) -> None:
    outcomes = {**{verdict: verdict for verdict in WRONG}, "killed": "runtime_error", "timeout": "time_limit"}
    ids = {outcome: await opened.submit(outcome, program({"3": outcome})) for outcome in outcomes}
    found = {outcome: (await opened.judged(outcome, each)).summary.verdict for outcome, each in ids.items()}
    assert found == outcomes


async def test_it_is_the_verdict_of_the_first_case_and_nothing_is_run_behind_its_group(opened: Court) -> None:
    source = program({"5": "runtime_error", "6": "time_limit", "8": "memory_limit"})
    judged = await opened.judged("ann", await opened.submit("ann", source))
    assert judged.summary.verdict == "runtime_error"
    assert [each.number for each in judged.results] == list(range(8))
    assert judged.summary.passed == 6
    assert set(opened.executor.cases_of(source)) == {str(number) for number in range(8)}


async def test_white_space_at_the_ends_makes_no_difference_and_elsewhere_it_does(opened: Court) -> None:
    right = await opened.submit("ann", program({"0": "0 \t\r\n\n \n", "1": "1"}))
    wrong = await opened.submit("bob", program({"1": " 1"}))
    assert (await opened.judged("ann", right)).summary.verdict == "accepted"
    assert (await opened.judged("bob", wrong)).summary.verdict == "wrong_answer"


async def test_how_long_a_program_takes_is_its_cpu_time_and_not_how_busy_the_machine_is(opened: Court) -> None:
    async with opened.bus.tap(verdicts) as tap:
        submission_id = await opened.submit("ann", program({"3": "timeout"}, ms=900.0, cpu_ms=40.0))
        judged = await opened.judged("ann", submission_id)
        with anyio.fail_after(30):
            told = (await anext(tap)).event
    times = {each.number: each.duration_ms for each in judged.results}
    assert (times[0], times[3]) == (40.0, 900.0)  # what was ended is told by the clock
    assert told.duration_ms == 900.0
    right = await opened.judged("bob", await opened.submit("bob", program(ms=900.0, cpu_ms=40.0)))
    assert {each.duration_ms for each in right.results} == {40.0}


async def test_details_are_told_of_examples_and_of_what_does_not_compile_and_of_nothing_hidden(opened: Court) -> None:
    cases: dict[str, tuple[dict[str, Any], int, str]] = {
        "example": ({"1": "7"}, 1, "Expected:\n1\nGot:\n7"),
        "hidden": ({"2": "7"}, 2, ""),
        "hidden-crash": ({"3": "runtime_error", "stderr": "the secret input"}, 3, ""),
        "crash": ({"0": "runtime_error", "stderr": "Traceback"}, 0, "It ended with the exit code 1.\nTraceback"),
        "compiler": ({"*": "compile_error", "stderr": "line 1: no"}, 0, "line 1: no"),
        "time": ({"0": "time_limit"}, 0, "It used more than 2 s of CPU time."),
        "clock": (
            {"0": "timeout", "ms": 4000.0},
            0,
            "It was still running after 4.0 s by the clock. It may use 2 s of CPU time.",
        ),
        "memory": ({"0": "memory_limit"}, 0, "It used more than 128 MiB."),
    }
    ids = {name: await opened.submit(name, program(said)) for name, (said, _, _) in cases.items()}
    for name, (_, number, detail) in cases.items():
        judged = await opened.judged(name, ids[name])
        assert judged.results[number].detail == detail, name
        assert all(each.detail == "" or not each.is_hidden for each in judged.results) or name == "compiler"


async def test_a_strangers_text_is_cut_and_cannot_do_anything_to_who_looks_at_it(tmp_path: Path) -> None:
    async with court("local", settings_of(tmp_path), detail_chars=40) as opened:
        escapes = "\x1b[2J\x00\x07\u202eabc\u200b\x9bm"
        ids = [
            await opened.submit("ann", program({"0": escapes})),
            await opened.submit("ann", program({"0": "y" * 60_000})),
            await opened.submit("ann", program({"0": "runtime_error", "stderr": "x" * 5000 + "the end"})),
        ]
        shown, endless, crashed = [(await opened.judged("ann", each)).results[0].detail for each in ids]
    assert shown == "Expected:\n0\nGot:\n␛[2J␀␇\\u{202e}abc\\u{200b}\\u{9b}m"
    assert endless == f"Expected:\n0\nGot:\n{'y' * 40}\n… 59960 more characters"
    assert crashed.endswith("the end")
    assert len(crashed) < 100


async def test_submissions_of_one_author_are_judged_in_order_and_those_of_others_beside_them(opened: Court) -> None:
    programs = [program(number=number) for number in range(5)]
    opened.executor.holds.add(programs[0])
    ids = [await opened.submit("ann", source) for source in programs]
    assert (await opened.judged("bob", await opened.submit("bob", program()))).summary.state == "judged"
    for each in ids[1:]:
        assert (await opened.as_("ann").ask(GetSubmission(each))).summary.state == "queued"
    opened.executor.holds.clear()
    for each in ids:
        await opened.judged("ann", each)
    ran = [source for source, _ in opened.executor.runs if source != program()]
    assert [source for source, _ in groupby(ran)] == programs  # all of one before any of the next


async def test_a_busy_executor_is_asked_again(opened: Court) -> None:
    opened.executor.refusals = [ExecutorBusy(32), NoSandbox("not yet"), RuntimeError("out of order")]
    judged = await opened.judged("ann", await opened.submit("ann", program({"9": "no"})))
    assert (judged.summary.verdict, judged.summary.passed) == ("wrong_answer", CASES - 1)
    assert opened.executor.refusals == []


async def test_what_cannot_be_run_for_long_is_given_up_and_its_authors_next_one_goes_on(opened: Court) -> None:
    opened.executor.away = ExecutorBusy(32)
    first = await opened.submit("ann", program())
    second = await opened.submit("ann", program({"0": "no"}))
    failed = await opened.judged("ann", first)
    opened.executor.away = None
    assert (failed.summary.state, failed.summary.verdict, failed.results) == ("failed", None, ())
    assert (await opened.judged("ann", second)).summary.verdict == "wrong_answer"
    async with opened.bus.tap(verdicts, key=first) as tap:
        again = await opened.submit("ann", program({"0": "no"}))
        await opened.judged("ann", again)
        with anyio.move_on_after(0.1):
            raise AssertionError(f"told later: {await anext(tap)}")


@pytest.mark.parametrize(
    "refusal",
    [UnknownLanguage("python", ("bash",)), SourceTooLarge("stdin", 9, 1), LimitsNotKept(1.0, 64)],
    ids=["language", "size", "limits"],
)
async def test_what_the_executor_will_never_run_is_given_up_at_once(opened: Court, refusal: BaseException) -> None:
    opened.executor.refusals = [refusal] * 20
    failed = await opened.judged("ann", await opened.submit("ann", program()))
    assert (failed.summary.state, failed.summary.verdict) == ("failed", None)
    opened.executor.refusals.clear()
    judged = await opened.judged("ann", await opened.submit("ann", program()))
    assert judged.summary.verdict == "accepted"


async def test_a_challenge_that_is_changed_meanwhile_is_the_one_that_counts(opened: Court) -> None:
    """The submission was right before, and is wrong by the new cases: it is judged by these alone."""
    source = program({"4": "slow"}, held=1)
    opened.executor.holds.add(source)
    async with opened.bus.tap(progress) as tap:
        submission_id = await opened.submit("ann", source)
        await opened.until("ann", submission_id, lambda found: found.summary.state == "judging")
        cases = tuple(Case(str(number), f"{number}\n") for number in (5, 6, 7))
        await opened.bus.execute(ChangeChallenge("count", 1, examples=(Case("4", "4"),), cases=cases))
        opened.executor.holds.clear()
        judged = await opened.judged("ann", submission_id)
        told: list[CaseJudged | JudgingEnded] = []
        with anyio.fail_after(30):
            while not told or not isinstance(told[-1], JudgingEnded):
                told.append((await anext(tap)).event)
    # What is told of the second round says so: whoever has shown the first one begins anew.
    second = [each for each in told if isinstance(each, CaseJudged) and each.round == 2]
    assert {each.result.number for each in second} == {0, 1, 2, 3}
    assert {each.cases for each in second} == {4}
    assert judged.summary.cases == 4
    assert [(each.number, each.verdict) for each in judged.results] == [
        (0, "wrong_answer"),
        *((number, "accepted") for number in (1, 2, 3)),
    ]
    assert judged.results[0].detail == "Expected:\n4\nGot:\nslow"


async def test_a_challenge_that_is_withdrawn_meanwhile_takes_no_more_and_what_it_has_taken_is_judged(
    opened: Court,
) -> None:
    source, waits = program({"4": "slow"}, held=1), program()
    opened.executor.holds.add(source)
    first = await opened.submit("ann", source)
    second = await opened.submit("ann", waits)
    await opened.until("ann", first, lambda found: found.summary.state == "judging")
    await opened.bus.execute(WithdrawChallenge("count", 1))
    with pytest.raises(ChallengeNotOpen) as refused:
        await opened.submit("bob", waits)
    assert refused.value == ChallengeNotOpen("count")
    opened.executor.holds.clear()
    assert (await opened.judged("ann", first)).summary.verdict == "wrong_answer"
    assert (await opened.judged("ann", second)).summary.verdict == "accepted"
    await opened.bus.execute(RestoreChallenge("count", 1))
    assert (await opened.judged("bob", await opened.submit("bob", waits))).summary.verdict == "accepted"


async def test_a_case_that_two_run_at_the_same_time_counts_once_and_is_told_once(tmp_path: Path) -> None:
    """As a process and the one that has taken its place may, or two replicas."""
    async with court("local", settings_of(tmp_path)) as opened, opened.bus.tap(progress) as tap:
        source = program(held=1)
        opened.executor.holds.add(source)
        submission_id = await opened.submit("ann", source)
        await opened.until("ann", submission_id, lambda found: found.summary.state == "judging")
        replies: list[str] = []

        async def again(number: int) -> None:
            replies.append(await opened.bus.execute(JudgeCase(submission_id, 1, number)))

        async with anyio.create_task_group() as tasks:
            for number in (0, 1):
                tasks.start_soon(again, number)
            with anyio.fail_after(30):
                while opened.executor.cases_of(source) < Counter({"0": 2, "1": 2}):
                    await anyio.sleep(0.01)
            opened.executor.holds.clear()
        assert replies == ["accepted", "accepted"]
        assert (await opened.judged("ann", submission_id)).summary.passed == CASES
        told: list[int] = []
        with anyio.fail_after(30):
            while isinstance(event := (await anext(tap)).event, CaseJudged):
                told.append(event.result.number)
        assert sorted(told) == list(range(CASES))


async def test_a_challenge_that_changes_all_the_time_ends_in_a_failure(tmp_path: Path) -> None:
    async with court("local", settings_of(tmp_path), cases_at_once=1) as opened:
        versions = count_up(1)

        async def change() -> None:
            version = next(versions)
            await opened.bus.execute(ChangeChallenge("count", version, title=f"Count {version}"))

        opened.executor.on_run = change
        failed = await opened.judged("ann", await opened.submit("ann", program()))
        assert (failed.summary.state, failed.summary.verdict) == ("failed", None)
        opened.executor.on_run = None
        assert (await opened.judged("ann", await opened.submit("ann", program()))).summary.verdict == "accepted"


async def test_no_more_is_run_at_a_time_than_the_settings_say(tmp_path: Path) -> None:
    async with court("local", settings_of(tmp_path), judging=2, cases_at_once=3) as opened:
        ids = {name: await opened.submit(name, program()) for name in map(str, range(8))}
        for name, each in ids.items():
            assert (await opened.judged(name, each)).summary.verdict == "accepted"
        assert 2 <= opened.executor.most <= 6
        assert Counter(case for _, case in opened.executor.runs) == {str(number): 8 for number in range(CASES)}
