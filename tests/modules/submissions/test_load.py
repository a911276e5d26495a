"""Many submissions at once: all are judged, each author's in order, and what waits takes no memory to speak of."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from time import monotonic

import anyio
import pytest

from fissile.testing import placed
from modules.challenges.service import module as challenges
from modules.code_executor.contract import ListLanguages, NoSandbox
from modules.code_executor.service import ExecutorSettings
from modules.code_executor.service import module as code_executor
from modules.submissions.contract import ListSubmissions
from modules.submissions.service import SubmissionsSettings
from modules.submissions.service import module as submissions
from tests.figures import figure

from .court import Court, Executor, count, court, program, settings_of

IS_SOAK = os.environ.get("FISSILE_TEST_SOAK", "0") not in ("", "0")

AUTHORS = [f"author-{number}" for number in range(8)]
GROWTH_BOUND_MIB = 60.0
"""How much the process may grow by, what the tests and the interpreter keep for themselves included."""


def resident_mib() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def judge_all(
    opened: Court, many: int, write: Callable[[str, int], str]
) -> tuple[dict[str, list[str]], float, float]:
    """Have each author submit programs, one after the other; return their ids, how long it took, and what the process grew by."""
    opened.patience_s, opened.look_s = 500.0, 0.5  # looking is not what is measured
    before_mib, begun = resident_mib(), monotonic()
    submitted: dict[str, list[str]] = {}
    most_mib = before_mib

    async def one(author: str) -> None:
        nonlocal most_mib
        programs = [write(author, number) for number in range(many // len(AUTHORS))]
        submitted[author] = [await opened.submit(author, source) for source in programs]
        for submission_id in submitted[author]:
            assert (await opened.judged(author, submission_id)).summary.verdict == "accepted"
            most_mib = max(most_mib, resident_mib())

    async with anyio.create_task_group() as tasks:
        for author in AUTHORS:
            tasks.start_soon(one, author)
    return submitted, monotonic() - begun, most_mib - before_mib


@pytest.mark.timeout(600)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("many", [48, pytest.param(504, marks=pytest.mark.soak)])
async def test_many_submissions_are_all_judged_in_the_order_of_their_authors(
    tmp_path: Path, many: int, anyio_backend: str
) -> None:
    if many > 100 and not IS_SOAK:
        pytest.skip("takes a minute: set FISSILE_TEST_SOAK")
    async with court("local", settings_of(tmp_path), waiting=many) as opened:
        await opened.judged("warm", await opened.submit("warm", program()))
        submitted, took_s, grown_mib = await judge_all(
            opened, many, lambda author, number: program(author=author, number=number)
        )
        for author in AUTHORS:
            mine = [source for source, _ in opened.executor.runs if f'"{author}"' in source]
            assert [source for source, _ in groupby(mine)] == [
                program(author=author, number=number) for number in range(many // len(AUTHORS))
            ]
            page = await opened.as_(author).ask(ListSubmissions(limit=1))
            assert page.submissions[0].id == submitted[author][-1]
    sources_mib = sum(len(source) for source, _ in opened.executor.runs) / 2**20
    figure_of(many, "with an executor that runs nothing", took_s, grown_mib)
    assert grown_mib - sources_mib < GROWTH_BOUND_MIB


@pytest.mark.timeout(600)
@pytest.mark.soak
@pytest.mark.skipif(not IS_SOAK, reason="takes minutes: set FISSILE_TEST_SOAK")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_five_hundred_submissions_go_through_a_real_sandbox(tmp_path: Path, anyio_backend: str) -> None:
    overrides = {
        ExecutorSettings: ExecutorSettings(sandbox="local"),
        SubmissionsSettings: SubmissionsSettings(waiting=504),
    }
    modules = [submissions, challenges, code_executor]
    async with placed("local", modules, settings=settings_of(tmp_path), overrides=overrides) as bus:
        try:
            sandbox = next(each.sandbox for each in await bus.ask(ListLanguages()) if each.id == "python")
        except NoSandbox as error:
            pytest.skip(f"no sandbox of this machine holds: {error.reason}")
        await bus.execute(count())
        opened = Court(bus, Executor())
        submitted, took_s, grown_mib = await judge_all(
            opened, 504, lambda author, number: f"# {number} of {author}\nprint(input())\n"
        )
        for author in AUTHORS:
            found = [(await opened.judged(author, each)).summary for each in submitted[author]]
            judged_at = [each.judged_at for each in found if each.judged_at is not None]
            assert len(judged_at) == len(found)
            assert judged_at == sorted(judged_at)
    figure_of(504, f"two at a time in the sandbox {sandbox}", took_s, grown_mib)
    assert grown_mib < GROWTH_BOUND_MIB


def figure_of(many: int, how: str, took_s: float, grown_mib: float) -> None:
    """Print what was measured."""
    figure(
        f"submissions: {many} of {len(AUTHORS)} authors at once judged in {took_s:.1f} s, {many / took_s:.1f} a second, "
        f"ten cases each, {how}; the process grew by {grown_mib:.0f} MiB"
    )
