"""The challenges that come with the application, judged in a real sandbox: each of their solutions gets the verdict that its name claims."""

from __future__ import annotations

from pathlib import Path
from time import monotonic

import anyio
import pytest

from fissile import Bus
from fissile.testing import placed, user
from modules.challenges import catalogue
from modules.challenges.service import module as challenges
from modules.code_executor.contract import ListLanguages, NoSandbox
from modules.code_executor.service import ExecutorSettings
from modules.code_executor.service import module as code_executor
from modules.submissions.contract import GetSubmission, Submission, SubmitSolution
from modules.submissions.service import SubmissionsSettings
from modules.submissions.service import module as submissions
from tests.figures import figure
from tests.modules.code_executor.image import required_languages

from .court import settings_of

ENDINGS = {"python": ".py", "javascript": ".js", "c": ".c"}
PATIENCE_S = 280.0


def solutions_in(language: str) -> dict[str, str]:
    """Return the solutions in a language, by challenge and file."""
    found = sorted(catalogue.FOLDER.glob(f"*/solutions/*{ENDINGS[language]}"))
    return {f"{path.parent.parent.name}/{path.name}": path.read_text("utf-8") for path in found}


async def judge(bus: Bus, name: str, language: str, source: str) -> Submission:
    """Submit a solution, and wait for its verdict."""
    author = bus.acting_as(user(name, "submissions:write"))
    submission_id = await author.execute(SubmitSolution(name.partition("/")[0], language, source))
    while True:
        found = await author.ask(GetSubmission(submission_id))
        if found.summary.state not in ("queued", "judging"):
            return found
        await anyio.sleep(0.1)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("language", ENDINGS)
async def test_every_solution_of_the_catalogue_gets_the_verdict_that_its_name_claims(
    tmp_path: Path, language: str, anyio_backend: str
) -> None:
    overrides = {
        ExecutorSettings: ExecutorSettings(sandbox="local", at_once=2, waiting=64),
        # One case of a solution at a time: of one that is too slow, each takes all of its time.
        SubmissionsSettings: SubmissionsSettings(cases_at_once=1),
    }
    modules = [submissions, challenges, code_executor]
    async with placed("local", modules, settings=settings_of(tmp_path), overrides=overrides) as bus:
        try:
            available = {each.id: each.sandbox for each in await bus.ask(ListLanguages())}
        except NoSandbox as error:
            pytest.skip(f"no sandbox of this machine holds: {error.reason}")
        if language not in available:
            reason = f"the sandbox {sorted(set(available.values()))} finds no {language} on this machine"
            if language in required_languages():
                pytest.fail(f"{language} is required by FISSILE_REQUIRE, but {reason}")
            pytest.skip(reason)
        found: dict[str, Submission] = {}
        begun = monotonic()

        async def one(name: str, source: str) -> None:
            found[name] = await judge(bus, name, language, source)

        with anyio.fail_after(PATIENCE_S):
            async with anyio.create_task_group() as tasks:
                for name, source in solutions_in(language).items():
                    tasks.start_soon(one, name, source)
        took_s = monotonic() - begun
    came_to = {name: each.summary.verdict for name, each in found.items()}
    claimed = {name: Path(name).stem.replace("-", "_") for name in found}
    figure(
        f"catalogue: {len(found)} solutions in {language} judged in {took_s:.1f} s, "
        f"{sum(len(each.results) for each in found.values())} runs in the sandbox {available[language]}"
    )
    assert len(found) == len(solutions_in(language)) >= (1 if language == "c" else len(catalogue.slugs()))
    wrong = {
        name: (verdict, claimed[name], [(each.number, each.verdict, each.detail) for each in found[name].results])
        for name, verdict in came_to.items()
        if verdict != claimed[name]
    }
    assert wrong == {}
