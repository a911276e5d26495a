"""The challenges as other modules see them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from fissile import Bus, InvalidMessage, Settings
from fissile.testing import placed
from modules.challenges import catalogue
from modules.challenges.contract import (
    CannotBeChecked,
    CannotBeSolved,
    Case,
    CasesTooLarge,
    ChallengeChanged,
    ChallengeExists,
    ChallengePublished,
    ChangeChallenge,
    CreateChallenge,
    GetCase,
    GetChallenge,
    ListChallenges,
    UnknownChallenge,
    changes,
)
from modules.challenges.service import CASES_BYTES, module
from tests.modules.challenges.writing import DOUBLE, that_runs


async def test_the_catalogue_is_there_with_the_simple_ones_first(bus: Bus) -> None:
    page = await bus.ask(ListChallenges(100))
    assert {each.slug for each in page.challenges} == set(catalogue.slugs())
    assert [each.difficulty for each in page.challenges] == sorted(each.difficulty for each in page.challenges)
    assert page.next is None


async def test_the_list_comes_in_pages_that_miss_and_repeat_nothing(bus: Bus) -> None:
    found: list[str] = []
    after: str | None = None
    while True:
        page = await bus.ask(ListChallenges(4, after))
        found += [each.slug for each in page.challenges]
        after = page.next
        if after is None:
            break
    assert found == [each.slug for each in (await bus.ask(ListChallenges(100))).challenges]
    with pytest.raises(UnknownChallenge):
        await bus.ask(ListChallenges(4, "nothing"))


async def test_a_challenge_shows_its_examples_and_only_the_number_of_its_hidden_cases(bus: Bus) -> None:
    shown = await bus.ask(GetChallenge("sum-of-two"))
    draft = catalogue.load("sum-of-two")
    assert shown.examples == draft.examples
    assert shown.cases == len(draft.cases) >= 8
    assert all(case.stdin not in shown.statement for case in draft.cases)


async def test_a_module_that_judges_gets_the_examples_first_and_then_the_hidden_cases(bus: Bus) -> None:
    draft = catalogue.load("queens")
    every = (*draft.examples, *draft.cases)
    assert [await bus.ask(GetCase("queens", number)) for number in range(len(every))] == list(every)
    for slug, number in (("queens", len(every)), ("queens", -1), ("nothing", 0)):
        with pytest.raises(UnknownChallenge):
            await bus.ask(GetCase(slug, number))


@pytest.mark.split
async def test_an_author_adds_a_challenge_once(bus: Bus) -> None:
    async with bus.tap(changes, key="double") as tap:
        await bus.execute(DOUBLE)
        with pytest.raises(ChallengeExists):
            await bus.execute(DOUBLE)
        assert (await anext(tap)).event == ChallengePublished("double", 1, "Double it", 1)
    shown = await bus.ask(GetChallenge("double"))
    assert (shown.title, shown.version, shown.cases, shown.examples) == ("Double it", 1, 2, ())


@pytest.mark.split
async def test_a_change_keeps_what_it_leaves_out_and_needs_the_version_it_is_made_to(bus: Bus) -> None:
    await bus.execute(DOUBLE)
    before = await bus.ask(GetChallenge("double"))
    assert await bus.execute(ChangeChallenge("double", 1, title="Twice", examples=(Case("3\n", "6\n"),))) == 2
    after = await bus.ask(GetChallenge("double"))
    assert (after.title, after.version, after.cases) == ("Twice", 2, 2)
    assert (after.statement, after.time_s) == (before.statement, before.time_s)
    assert await bus.ask(GetCase("double", 0)) == await bus.ask(GetCase("double", 0, 2)) == Case("3\n", "6\n")
    with pytest.raises(ChallengeChanged) as changed:
        await bus.ask(GetCase("double", 0, 1))
    assert changed.value == ChallengeChanged("double", 2)
    with pytest.raises(ChallengeChanged) as refused:
        await bus.execute(ChangeChallenge("double", 1, title="Again"))
    assert refused.value == ChallengeChanged("double", 2)
    with pytest.raises(UnknownChallenge):
        await bus.execute(ChangeChallenge("nothing", 1))


async def test_what_is_too_large_or_out_of_its_range_is_refused(bus: Bus) -> None:
    half = "x" * (CASES_BYTES // 4)
    with pytest.raises(CasesTooLarge):
        await bus.execute(
            CreateChallenge("large", "Large", 1, "Read.", cases=(Case(half, half), Case(half, half + "x")))
        )
    for wrong in (
        CreateChallenge("Large", "Large", 1, "Read.", cases=(Case("", ""),)),
        CreateChallenge("large", "", 1, "Read.", cases=(Case("", ""),)),
        CreateChallenge("large", "Large", 6, "Read.", cases=(Case("", ""),)),
        CreateChallenge("large", "Large", 1, "Read.", cases=()),
        CreateChallenge("large", "Large", 1, "Read.", cases=(Case("", ""),), time_s=0.0),
    ):
        with pytest.raises(InvalidMessage):
            await bus.execute(wrong)


@pytest.mark.parametrize(
    ("changed", "field", "told"),
    [
        ({"time_s": 4.5}, "time_s", "4.5"),
        ({"memory_mib": 201}, "memory_mib", "200 MiB"),
        ({"languages": ("python", "cobol")}, "languages", "'cobol' cannot be run here. What can: python, c."),
        ({"cases": (Case("1", "2"), Case("é" * 301, "2"))}, "cases[1].stdin", "602 bytes"),
        ({"cases": (Case("1", "é" * 151),)}, "cases[0].stdout", "302 bytes"),
        ({"examples": (Case("é" * 301, "2"),)}, "examples[0].stdin", "602 bytes"),
    ],
)
async def test_a_challenge_that_no_program_could_solve_is_refused(
    bus: Bus, changed: dict[str, Any], field: str, told: str
) -> None:
    with pytest.raises(CannotBeSolved, match=re.escape(told)) as made:
        await bus.execute(evolve(DOUBLE, **changed))
    assert made.value.field == field
    with pytest.raises(UnknownChallenge):
        await bus.ask(GetChallenge("double"))
    await bus.execute(DOUBLE)
    with pytest.raises(CannotBeSolved, match=re.escape(told)):
        await bus.execute(ChangeChallenge("double", 1, **changed))
    assert (await bus.ask(GetChallenge("double"))).version == 1


async def test_a_challenge_may_want_all_that_a_program_can_have(bus: Bus) -> None:
    cases = (Case("é" * 300, "é" * 150),)
    await bus.execute(evolve(DOUBLE, time_s=4.0, memory_mib=200, languages=("c",), cases=cases))
    assert (await bus.ask(GetChallenge("double"))).time_s == 4.0


async def test_without_the_executor_nothing_is_stored_that_it_has_to_be_asked_about(alone: Bus) -> None:
    with pytest.raises(CannotBeChecked):
        await alone.execute(DOUBLE)
    with pytest.raises(UnknownChallenge):
        await alone.ask(GetChallenge("double"))
    assert await alone.execute(ChangeChallenge("queens", 1, title="Ladies")) == 2
    with pytest.raises(CannotBeChecked):
        await alone.execute(ChangeChallenge("queens", 2, time_s=1.0))


async def test_what_only_one_of_the_databases_could_keep_is_refused_on_both(bus: Bus) -> None:
    right = CreateChallenge("double", "Double", 1, "Write.", cases=(Case("", ""),))
    for wrong in (
        evolve(right, slug="double\n"),
        evolve(right, title="Dou\0ble"),
        evolve(right, statement="Wri\0te."),
        evolve(right, cases=(Case("\0", ""),)),
        evolve(right, examples=(Case("", "\0"),)),
        evolve(right, tags=("\0",)),
        evolve(right, languages=("\0",)),
        ChangeChallenge("sum-of-two", 2**31),
    ):
        with pytest.raises(InvalidMessage):
            await bus.execute(wrong)
    with pytest.raises(UnknownChallenge):
        await bus.ask(GetChallenge("double"))


async def test_text_beyond_the_usual_is_kept_as_it_is(bus: Bus) -> None:
    odd = "\x01\x1b[2J\u202e\r\n\t\U0001f600\ufeff é"
    await bus.execute(
        CreateChallenge("odd", odd, 1, odd, cases=(Case(odd, odd),), examples=(Case(odd, odd),), tags=(odd,))
    )
    shown = await bus.ask(GetChallenge("odd"))
    assert (shown.title, shown.statement, shown.tags, shown.examples) == (odd, odd, (odd,), (Case(odd, odd),))
    assert await bus.ask(GetCase("odd", 1)) == Case(odd, odd)


async def test_a_challenge_of_the_catalogue_follows_its_files_until_an_author_changes_it(
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

    async def title(written: str) -> str:
        (folder / "challenge.toml").write_text(f'title = "{written}"\ndifficulty = 1\n')
        async with placed("local", [module, that_runs], settings=settings) as bus:
            return (await bus.ask(GetChallenge("one"))).title

    assert [await title("First"), await title("Second")] == ["First", "Second"]
    async with placed("local", [module, that_runs], settings=settings) as bus:
        await bus.execute(ChangeChallenge("one", 2, title="An author's"))
    assert await title("Third") == "An author's"


@pytest.mark.parametrize("slug", catalogue.slugs())
def test_a_challenge_of_the_catalogue_can_be_judged(slug: str) -> None:
    draft = catalogue.load(slug)
    assert len(draft.cases) >= 8
    assert draft.examples
    assert 1 <= draft.difficulty <= 5
    assert sum(len(each.stdin) + len(each.stdout) for each in draft.cases) <= CASES_BYTES
    solutions = sorted(path.name for path in (catalogue.FOLDER / slug / "solutions").iterdir())
    right = [name for name in solutions if name.startswith("accepted.")]
    assert len(right) >= 2
    assert len({name.partition(".")[0] for name in solutions if name not in right}) >= 3
