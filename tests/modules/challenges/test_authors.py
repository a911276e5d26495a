"""What authors do with a challenge that there is: see all of it, withdraw it, bring it back."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import evolve

from fissile import Bus, Forbidden, Identity, Settings, Unauthenticated
from fissile.testing import placed, user
from modules.challenges import catalogue
from modules.challenges.contract import (
    Case,
    Challenge,
    ChallengeChanged,
    ChallengePublished,
    ChallengeWithdrawn,
    ChangeChallenge,
    GetCase,
    GetChallenge,
    GetWholeChallenge,
    ListChallenges,
    ListWithdrawnChallenges,
    RestoreChallenge,
    UnknownChallenge,
    WithdrawChallenge,
    changes,
)
from modules.challenges.service import module
from tests.modules.challenges.writing import DOUBLE, that_runs


async def listed(bus: Bus) -> list[str]:
    return [each.slug for each in (await bus.ask(ListChallenges(100))).challenges]


@pytest.mark.split
async def test_an_author_sees_the_hidden_cases_with_the_version_that_a_change_names(bus: Bus) -> None:
    author = bus.acting_as(user("ada", "challenges:write"))
    await author.execute(evolve(DOUBLE, examples=(Case("3\n", "6\n"),)))
    whole = await author.ask(GetWholeChallenge("double"))
    assert whole.challenge == await bus.ask(GetChallenge("double"))
    assert (whole.cases, whole.challenge.examples) == (DOUBLE.cases, (Case("3\n", "6\n"),))
    more = (*whole.cases, Case("4\n", "8\n"))
    assert await author.execute(ChangeChallenge("double", whole.challenge.version, cases=more)) == 2
    whole = await author.ask(GetWholeChallenge("double"))
    assert (whole.challenge.version, whole.challenge.cases, whole.cases) == (2, 3, more)
    with pytest.raises(UnknownChallenge):
        await author.ask(GetWholeChallenge("nothing"))


async def test_nobody_else_sees_the_hidden_cases(bus: Bus) -> None:
    await bus.execute(DOUBLE)
    others = user("bob", "submissions:write", "accounts:self", "accounts:write", "leaderboard:rebuild")
    for message in (GetWholeChallenge("double"), GetWholeChallenge("nothing")):
        with pytest.raises(Forbidden):
            await bus.acting_as(others).ask(message)
        with pytest.raises(Unauthenticated):
            await bus.acting_as(Identity("", kind="anonymous")).ask(message)
    for command in (WithdrawChallenge("double", 1), RestoreChallenge("double", 1)):
        with pytest.raises(Forbidden):
            await bus.acting_as(others).execute(command)
    shown = await bus.acting_as(others).ask(GetChallenge("double"))
    assert isinstance(shown, Challenge)
    assert "4" not in str((shown.examples, shown.statement))


@pytest.mark.split
async def test_a_withdrawn_challenge_is_listed_no_more_and_keeps_its_meaning_until_it_is_brought_back(bus: Bus) -> None:
    author = bus.acting_as(user("ada", "challenges:write"))
    async with bus.tap(changes, key="double") as tap:
        await author.execute(DOUBLE)
        before = await bus.ask(GetChallenge("double"))
        with pytest.raises(ChallengeChanged) as refused:
            await author.execute(WithdrawChallenge("double", 2))
        assert refused.value == ChallengeChanged("double", 1)
        await author.execute(WithdrawChallenge("double", 1))
        await author.execute(WithdrawChallenge("double", 1))  # it is so already
        assert "double" not in await listed(bus)
        withdrawn = await author.ask(ListWithdrawnChallenges())
        assert ([each.slug for each in withdrawn.challenges], withdrawn.next) == (["double"], None)
        with pytest.raises(Forbidden):
            await bus.acting_as(user("bob")).ask(ListWithdrawnChallenges())
        assert await bus.ask(GetChallenge("double")) == evolve(before, is_withdrawn=True)
        assert await bus.ask(GetCase("double", 1, 1)) == DOUBLE.cases[1]
        assert (await author.ask(GetWholeChallenge("double"))).cases == DOUBLE.cases
        # It can be put right meanwhile, and is shown to nobody by that.
        assert await author.execute(ChangeChallenge("double", 1, title="Twice")) == 2
        assert "double" not in await listed(bus)
        with pytest.raises(ChallengeChanged):
            await author.execute(RestoreChallenge("double", 1))
        await author.execute(RestoreChallenge("double", 2))
        assert "double" in await listed(bus)
        assert await bus.ask(GetChallenge("double")) == evolve(before, version=2, title="Twice")
        assert [(await anext(tap)).event for _ in range(3)] == [
            ChallengePublished("double", 1, "Double it", 1),
            ChallengeWithdrawn("double", 1),
            ChallengePublished("double", 2, "Twice", 1),
        ]
    for command in (WithdrawChallenge("nothing", 1), RestoreChallenge("nothing", 1)):
        with pytest.raises(UnknownChallenge):
            await author.execute(command)


async def test_pages_go_on_behind_a_challenge_that_was_withdrawn_meanwhile(bus: Bus) -> None:
    every = await listed(bus)
    await bus.execute(WithdrawChallenge(every[3], 1))
    page = await bus.ask(ListChallenges(100, every[3]))
    assert [each.slug for each in page.challenges] == every[4:]


async def test_a_challenge_of_the_catalogue_stays_withdrawn_when_its_files_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "seeds" / "one"
    folder.mkdir(parents=True)
    monkeypatch.setattr(catalogue.slugs, "__defaults__", (folder.parent,))
    monkeypatch.setattr(catalogue.load_changed, "__defaults__", (folder.parent,))
    (folder / "statement.md").write_text("Do it.")
    (folder / "examples.json").write_text("[]")
    (folder / "cases.json").write_text('[{"stdin": "", "stdout": "1"}]')
    settings = Settings(database=f"sqlite:///{tmp_path}")
    (folder / "challenge.toml").write_text('title = "First"\ndifficulty = 1\n')
    async with placed("local", [module, that_runs], settings=settings) as bus:
        await bus.execute(WithdrawChallenge("one", 1))
    (folder / "challenge.toml").write_text('title = "Second"\ndifficulty = 1\n')
    async with placed("local", [module, that_runs], settings=settings) as bus:
        shown = await bus.ask(GetChallenge("one"))
        assert (shown.title, shown.is_withdrawn, await listed(bus)) == ("Second", True, [])
