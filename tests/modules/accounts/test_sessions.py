"""Sessions: chains of refresh tokens, and access tokens that are signed with keys that change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from joserfc.errors import JoseError

from fissile import Forbidden, Settings
from fissile.testing import ManualClock
from modules.accounts.contract import (
    Account,
    GetAccount,
    RefreshSession,
    Session,
    SessionEnded,
    SetRoles,
    SignOut,
    UnknownAccount,
    UnknownRole,
)
from tests.modules.accounts.accounts import CHEAP, Running, running


async def refresh(here: Running, token: str) -> Session:
    return await here.bus.execute(RefreshSession(token))


async def test_an_access_token_says_who_for_whom_how_long_and_what_they_may_do(here: Running) -> None:
    await here.sign_up()
    claims = await here.claims((await here.sign_in()).access_token)
    now = int(here.clock.now().timestamp())
    assert {name: claims[name] for name in ("iss", "aud", "sub", "scope", "iat", "exp")} == {
        "iss": "accounts",
        "aud": "playground",
        "sub": "ada",
        "scope": "accounts:self submissions:write",
        "iat": now,
        "exp": now + 600,
    }
    assert claims["jti"] != (await here.claims((await here.sign_in()).access_token))["jti"]


@pytest.mark.split
async def test_a_refresh_token_is_spent_and_one_that_comes_again_ends_the_session(here: Running) -> None:
    await here.sign_up()
    other = await here.sign_in()
    first = await here.sign_in()
    second = await refresh(here, first.refresh_token)
    third = await refresh(here, second.refresh_token)
    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
    with pytest.raises(SessionEnded):
        await refresh(here, first.refresh_token)
    with pytest.raises(SessionEnded):
        await refresh(here, third.refresh_token)
    await refresh(here, other.refresh_token)


async def test_within_a_few_seconds_a_spent_token_gets_the_same_successor(here: Running) -> None:
    await here.sign_up()
    first = await here.sign_in()
    second = await refresh(here, first.refresh_token)
    here.clock.advance(CHEAP.refresh_leeway_s - 1)
    assert (await refresh(here, first.refresh_token)).refresh_token == second.refresh_token
    here.clock.advance(2)
    with pytest.raises(SessionEnded):
        await refresh(here, first.refresh_token)
    with pytest.raises(SessionEnded):
        await refresh(here, second.refresh_token)


async def test_windows_that_refresh_at_once_stay_signed_in(here: Running) -> None:
    await here.sign_up()
    first = await here.sign_in()
    found: list[str] = []

    async def window() -> None:
        found.append((await refresh(here, first.refresh_token)).refresh_token)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(window)
    assert len(set(found)) == 1
    await refresh(here, found[0])


async def test_without_leeway_a_repeated_command_still_gets_its_answer(settings: Settings, placement: str) -> None:
    async with running(settings, placement, refresh_leeway_s=0) as here:
        await here.sign_up()
        first = await here.sign_in()
        second = await here.bus.execute(RefreshSession(first.refresh_token), id="one")
        again = await here.bus.execute(RefreshSession(first.refresh_token), id="one")
        assert again.refresh_token == second.refresh_token
        with pytest.raises(SessionEnded):
            await here.bus.execute(RefreshSession(first.refresh_token), id="two")


@pytest.mark.parametrize("spent", [False, True])
async def test_who_has_signed_out_cannot_go_on(here: Running, spent: bool) -> None:
    await here.sign_up()
    first = await here.sign_in()
    second = await refresh(here, first.refresh_token)
    await here.bus.execute(SignOut((first if spent else second).refresh_token))
    with pytest.raises(SessionEnded):
        await refresh(here, second.refresh_token)
    await here.bus.execute(SignOut(second.refresh_token))
    await here.bus.execute(SignOut("what nobody ever had"))


async def test_a_session_ends_when_it_is_not_gone_on_with_and_in_the_end_anyway(
    settings: Settings, placement: str
) -> None:
    async with running(settings, placement, session_idle_s=100, session_s=250) as here:
        await here.sign_up()
        idle, busy = await here.sign_in(), await here.sign_in()
        assert busy.ends_in_s == 100
        for left_s in (100, 90, 10):
            here.clock.advance(80)
            busy = await refresh(here, busy.refresh_token)
            assert busy.ends_in_s == left_s
        with pytest.raises(SessionEnded):
            await refresh(here, idle.refresh_token)
        here.clock.advance(11)
        with pytest.raises(SessionEnded):
            await refresh(here, busy.refresh_token)


async def test_roles_give_scopes_from_the_next_refresh_on(here: Running) -> None:
    await here.sign_up()
    session = await here.sign_in()
    await here.bus.execute(SetRoles("ada", ("author", "member", "author")))
    session = await refresh(here, session.refresh_token)
    assert session.roles == ("author",)
    assert (await here.claims(session.access_token))["scope"] == "accounts:self challenges:write submissions:write"
    await here.bus.execute(SetRoles("ada", ("author", "admin")))
    shown = await here.of("ada").ask(GetAccount())
    assert shown == Account(
        "ada",
        ("admin", "author"),
        ("accounts:self", "accounts:write", "challenges:write", "leaderboard:rebuild", "submissions:write"),
        here.clock.now().timestamp(),
    )
    await here.bus.execute(SetRoles("ada", ()))
    assert (await here.of("ada").ask(GetAccount())).roles == ()


async def test_only_admins_give_roles_and_only_those_that_there_are(here: Running) -> None:
    await here.sign_up()
    with pytest.raises(Forbidden):
        await here.of("ada").execute(SetRoles("ada", ("admin",)))
    root = here.of("root", "accounts:write")
    with pytest.raises(UnknownRole):
        await root.execute(SetRoles("ada", ("author", "king")))
    with pytest.raises(UnknownAccount):
        await root.execute(SetRoles("bob", ("author",)))
    assert (await here.of("ada").ask(GetAccount())).roles == ()
    with pytest.raises(UnknownAccount):
        await here.of("bob").ask(GetAccount())


async def test_the_settings_say_who_is_admin_at_first(settings: Settings, placement: str) -> None:
    async with running(settings, placement, admins=("ada",)) as here:
        await here.sign_up("bob")
        await here.sign_up("ada")
        assert ((await here.sign_in("bob")).roles, (await here.sign_in("ada")).roles) == ((), ("admin",))


# --- keys ------------------------------------------------------------------------------------------------------------


async def test_the_published_keys_have_nothing_private(here: Running) -> None:
    await here.sign_up()
    await here.sign_in()
    (key,) = (await here.keys())["keys"]
    assert set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
    assert (key["kty"], key["crv"], key["use"], key["alg"]) == ("EC", "P-256", "sig", "ES256")


async def test_a_process_has_a_key_soon_after_its_start_and_the_next_one_has_the_same(tmp_path: Path) -> None:
    settings = Settings(database=f"sqlite:///{tmp_path}")
    async with running(settings) as here:
        await here.cared()
        (first,) = (await here.keys())["keys"]
    async with running(settings) as here:
        await here.cared()
        assert (await here.keys())["keys"] == [first]


async def test_a_new_key_is_published_before_it_signs_and_an_old_one_for_as_long_as_its_tokens_live(
    tmp_path: Path,
) -> None:
    async with running(Settings(database=f"sqlite:///{tmp_path}"), key_age_s=10_000, key_lead_s=1000) as here:

        async def kids(after_s: float = 0) -> list[str]:
            if after_s:
                await here.later(after_s)
            return [key["kid"] for key in (await here.keys())["keys"]]

        async def signs_with() -> str:
            session = await here.sign_in()
            for kid in await kids():
                keys = {"keys": [key for key in (await here.keys())["keys"] if key["kid"] == kid]}
                if await _is_signed_with(keys, session.access_token):
                    return kid
            raise AssertionError("no published key has signed the token")

        await here.sign_up()
        (first,) = await kids(1)
        assert await kids(8_900) == [first]
        known = await kids(101)
        assert known[0] == first
        (second,) = known[1:]
        assert await signs_with() == first
        assert await kids(1001) == [first, second]
        assert await signs_with() == second
        assert await kids(CHEAP.access_token_s + 301) == [second]
        assert await signs_with() == second


async def _is_signed_with(keys: dict[str, list[Any]], token: str) -> bool:
    from joserfc import jwt
    from joserfc.jwk import KeySet

    try:
        jwt.decode(token, KeySet.import_key_set(keys), ["ES256"])  # type: ignore[arg-type]  # of JSON
    except (JoseError, ValueError):
        return False
    return True


async def test_replicas_that_start_at_once_share_one_key(settings: Settings) -> None:
    clock = ManualClock()
    async with running(settings, clock=clock) as one, running(settings, clock=clock) as other:
        await one.cared(2)
        assert await one.keys() == await other.keys()
        assert len((await one.keys())["keys"]) == 1
        await one.sign_up()
        session = await other.sign_in()
        assert (await one.claims(session.access_token))["sub"] == "ada"
        assert (await one.bus.execute(RefreshSession(session.refresh_token))).name == "ada"
