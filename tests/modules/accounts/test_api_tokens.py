"""API tokens: shown once, known by their hashes, never worth more than their owner."""

from __future__ import annotations

from hashlib import sha256

import pytest

from fissile import Identity, InvalidMessage, Settings
from modules.accounts.contract import (
    ApiTokenHolder,
    CreateToken,
    FindApiToken,
    ListTokens,
    NewApiToken,
    RevokeToken,
    ScopeNotHeld,
    SetRoles,
    TooManyTokens,
    UnknownToken,
)
from tests.modules.accounts.accounts import CHEAP, Running, running

DAY_S = 86_400


async def create(here: Running, owner: str = "ada", *scopes: str, **more: int | None) -> NewApiToken:
    return await here.of(owner).execute(CreateToken("ci", scopes or ("submissions:write",), **more))


async def find(here: Running, made: NewApiToken) -> ApiTokenHolder | None:
    return await here.bus.ask(FindApiToken(sha256(made.token.encode()).hexdigest()))


async def test_a_token_is_worth_its_scopes_until_it_is_revoked(here: Running) -> None:
    await here.sign_up()
    await here.sign_up("bob")
    made = await create(here)
    assert made.token.startswith(f"fsl_{made.id}_")
    assert await find(here, made) == ApiTokenHolder("ada", ("submissions:write",), None)
    assert await here.bus.ask(FindApiToken("0" * 64)) is None
    with pytest.raises(InvalidMessage):
        await here.bus.ask(FindApiToken(made.token))
    with pytest.raises(UnknownToken):
        await here.of("bob").execute(RevokeToken(made.id))
    await here.of("ada").execute(RevokeToken(made.id))
    assert await find(here, made) is None
    with pytest.raises(UnknownToken):
        await here.of("ada").execute(RevokeToken(made.id))


async def test_a_token_has_no_scope_that_its_owner_has_not_and_loses_those_that_they_lose(here: Running) -> None:
    await here.sign_up()
    with pytest.raises(ScopeNotHeld) as refused:
        await create(here, "ada", "submissions:write", "challenges:write")
    assert refused.value == ScopeNotHeld("challenges:write")
    with pytest.raises(ScopeNotHeld):
        await create(here, "nobody")
    await here.bus.execute(SetRoles("ada", ("author",)))
    made = await create(here, "ada", "challenges:write", "submissions:write")
    assert await find(here, made) == ApiTokenHolder("ada", ("challenges:write", "submissions:write"), None)
    await here.bus.execute(SetRoles("ada", ()))
    assert await find(here, made) == ApiTokenHolder("ada", ("submissions:write",), None)


async def test_a_token_makes_no_tokens(here: Running) -> None:
    await here.sign_up()
    itself = Identity("ada", frozenset({"accounts:self"}), kind="api-key")
    with pytest.raises(ScopeNotHeld):
        await here.bus.acting_as(itself).execute(CreateToken("more", ("accounts:self",)))


async def test_a_token_ends_when_it_was_to(here: Running) -> None:
    await here.sign_up()
    made = await create(here, valid_days=2)
    holder = await find(here, made)
    assert holder is not None
    assert holder.expires_at == here.clock.now().timestamp() + 2 * DAY_S
    here.clock.advance(2 * DAY_S - 1)
    assert await find(here, made) is not None
    here.clock.advance(1)
    assert await find(here, made) is None


async def test_somebody_sees_their_own_tokens_the_newest_first_and_not_what_they_are(here: Running) -> None:
    await here.sign_up()
    await here.sign_up("bob")
    first = await create(here)
    here.clock.advance(10)
    second = await create(here, valid_days=1)
    listed = await here.of("ada").ask(ListTokens())
    assert [each.id for each in listed] == [second.id, first.id]
    assert first.token not in repr((listed, first))
    assert await here.of("bob").ask(ListTokens()) == ()


async def test_when_a_token_was_used_is_told_a_minute_later_and_once_the_module_has_stopped(
    settings: Settings, placement: str
) -> None:
    async with running(settings, placement) as here:
        await here.sign_up()
        made, other = await create(here), await create(here)
        await here.cared()
        used_at = here.clock.now().timestamp()
        await find(here, made)
        await here.later(CHEAP.care_s)
        shown = {each.id: each.last_used_at for each in await here.of("ada").ask(ListTokens())}
        assert shown == {made.id: used_at, other.id: None}
        here.clock.advance(1)
        await find(here, other)
    async with running(settings, placement) as here:
        shown = {each.id: each.last_used_at for each in await here.of("ada").ask(ListTokens())}
        assert shown == {made.id: used_at, other.id: used_at + CHEAP.care_s + 1}


async def test_somebody_has_so_many_tokens_and_no_more(settings: Settings, placement: str) -> None:
    async with running(settings, placement, tokens=2) as here:
        await here.sign_up()
        first = await create(here)
        await create(here, valid_days=1)
        with pytest.raises(TooManyTokens) as refused:
            await create(here)
        assert refused.value == TooManyTokens(2)
        await here.of("ada").execute(RevokeToken(first.id))
        await create(here)
        here.clock.advance(DAY_S + 1)
        await create(here)


async def test_a_command_that_is_repeated_makes_one_token(here: Running) -> None:
    await here.sign_up()
    command = CreateToken("ci", ("submissions:write",))
    first = await here.of("ada").execute(command, id="one")
    second = await here.of("ada").execute(command, id="one")
    assert first.id == second.id
    assert len(await here.of("ada").ask(ListTokens())) == 1
    assert await find(here, second) is not None


async def test_what_is_over_is_removed(settings: Settings, placement: str) -> None:
    async with running(settings, placement, session_idle_s=500) as here:
        await here.sign_up()
        await here.sign_in()
        await create(here, valid_days=1)
        await here.later(DAY_S + 1)
        assert await here.of("ada").ask(ListTokens()) == ()
