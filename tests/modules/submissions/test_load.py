"""Many submissions at once: all are judged, each author's in order, and what waits takes no memory to speak of."""

from __future__ import annotations

import os
from itertools import groupby
from pathlib import Path
from time import monotonic

import anyio
import pytest

from modules.submissions.contract import ListSubmissions
from tests.figures import figure

from .court import Court, court, program, settings_of

AUTHORS = [f"author-{number}" for number in range(8)]
GROWTH_BOUND_MIB = 60.0
"""How much the process may grow by, what the tests and the interpreter keep for themselves included."""


def resident_mib() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def queue(opened: Court, author: str, each: int) -> list[str]:
    """Submit so many programs of one author, one after the other."""
    return [await opened.submit(author, program(author=author, number=number)) for number in range(each)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("many", [48, pytest.param(504, marks=pytest.mark.soak)])
async def test_many_submissions_are_all_judged_in_the_order_of_their_authors(
    tmp_path: Path, many: int, anyio_backend: str
) -> None:
    if many > 100 and os.environ.get("FISSILE_TEST_SOAK", "0") in ("", "0"):
        pytest.skip("takes a minute: set FISSILE_TEST_SOAK")
    each = many // len(AUTHORS)
    async with court("local", settings_of(tmp_path), waiting=many) as opened:
        await opened.judged("warm", await opened.submit("warm", program()))
        opened.patience_s, opened.look_s = 500.0, 0.5  # looking is not what is measured
        before_mib, begun = resident_mib(), monotonic()
        submitted: dict[str, list[str]] = {}
        most_mib = before_mib

        async def one(author: str) -> None:
            nonlocal most_mib
            submitted[author] = await queue(opened, author, each)
            for submission_id in submitted[author]:
                assert (await opened.judged(author, submission_id)).summary.verdict == "accepted"
                most_mib = max(most_mib, resident_mib())

        async with anyio.create_task_group() as tasks:
            for author in AUTHORS:
                tasks.start_soon(one, author)
        took_s = monotonic() - begun
        for author in AUTHORS:
            mine = [source for source, _ in opened.executor.runs if f'"{author}"' in source]
            assert [source for source, _ in groupby(mine)] == [
                program(author=author, number=number) for number in range(each)
            ]
            page = await opened.as_(author).ask(ListSubmissions(limit=1))
            assert page.submissions[0].id == submitted[author][-1]
    sources_mib = sum(len(source) for source, _ in opened.executor.runs) / 2**20
    figure_of(many, took_s, most_mib - before_mib)
    assert most_mib - before_mib - sources_mib < GROWTH_BOUND_MIB


def figure_of(many: int, took_s: float, grown_mib: float) -> None:
    """Print what was measured."""
    figure(
        f"submissions: {many} of {len(AUTHORS)} authors at once judged in {took_s:.1f} s, {many / took_s:.1f} a second, "
        f"ten cases each, with an executor that runs nothing; the process grew by {grown_mib:.0f} MiB"
    )
