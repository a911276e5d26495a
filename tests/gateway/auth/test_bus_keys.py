"""Keys and API keys that a module keeps: asked for over the bus, as seldom as an issuer's, and never held against a client."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from fissile import StartupFailed
from fissile._api_keys import new_key
from fissile_gateway._auth_asked import BAD_S, GOOD_S, REMEMBERED
from tests.gateway.auth.issuer import AUDIENCE, ISSUER, Desk, desk, ec, raw, rsa, token
from tests.gateway.auth.keeper import Kept, keeper_of
from tests.gateway.auth.test_api_keys import entry, write
from tests.identity.modules import billing, orders
from tests.runtime.helpers import until

KEYS = {"jwt_jwks": "bus:keeper.get-keys", "jwt_issuer": ISSUER, "jwt_audience": (AUDIENCE,)}
API_KEYS = {"api_keys_query": "keeper.find-key"}
NEVER = {"jwt_issuer": ISSUER, "jwt_audience": (AUDIENCE,)}


@asynccontextmanager
async def kept_desk(kept: Kept, **settings: Any) -> AsyncGenerator[Desk]:
    async with desk((orders, billing, keeper_of(kept)), **settings) as here:
        yield here


async def statuses(here: Desk, *credentials: str) -> list[int]:
    """Ask with all of them at once."""
    found: dict[int, int] = {}

    async def ask(number: int, credential: str) -> None:
        found[number] = (await here.get(credential=credential)).status_code

    async with anyio.create_task_group() as tasks:
        for number, credential in enumerate(credentials):
            tasks.start_soon(ask, number, credential)
    return [found[number] for number in range(len(credentials))]


# --- keys of tokens --------------------------------------------------------------------------------------------------


async def test_keys_come_from_a_module_when_they_are_needed_and_once_for_all() -> None:
    kept = Kept()
    kept.publish(ec())
    async with kept_desk(kept, **KEYS) as here:
        assert (await here.get("/api/orders/who-am-i")).status_code == 200
        assert kept.asked["keys"] == 0
        tokens = [token(here.now, ec(), "ES256", sub=f"user-{number}") for number in range(10)]
        assert await statuses(here, *tokens) == [200] * 10
        assert kept.asked["keys"] == 1


async def test_a_new_key_is_taken_up_and_an_old_one_forgotten() -> None:
    kept = Kept()
    kept.publish(ec())
    async with kept_desk(kept, **KEYS) as here:
        old, new = (token(here.now, key, "ES256", exp=int(here.now) + 5000) for key in (ec(), ec("ec-2")))
        assert await statuses(here, old, new) == [200, 401]
        kept.publish(ec(), ec("ec-2"))
        here.clock.advance(31)
        assert await statuses(here, new, old) == [200, 200]
        kept.publish(ec("ec-2"))
        here.clock.advance(601)
        assert await statuses(here, new) == [200]
        assert await statuses(here, old) == [401]


async def test_floods_of_unknown_keys_do_not_hammer_the_module() -> None:
    kept = Kept()
    kept.publish(ec())
    async with kept_desk(kept, **KEYS) as here:
        flood = [token(here.now, ec(), "ES256", head={"kid": f"k{number}"}) for number in range(50)]
        assert set(await statuses(here, *flood)) == {401}
        assert kept.asked["keys"] == 1


@pytest.mark.parametrize("trouble", ["away", "nonsense", "no keys"])
async def test_a_module_that_does_not_answer_is_no_fault_of_the_client(trouble: str) -> None:
    kept = Kept()

    def break_it() -> None:
        kept.is_away = trouble == "away"
        kept.document = {"nonsense": "<html>", "no keys": '{"keys": []}'}.get(trouble, "")

    break_it()
    async with kept_desk(kept, **KEYS) as here:
        answer = await here.get(credential=token(here.now, ec(), "ES256"))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        kept.is_away = False
        kept.publish(ec())
        here.clock.advance(1.5)
        good = token(here.now, ec(), "ES256", exp=int(here.now) + 5000)
        assert await statuses(here, good) == [200]
        break_it()
        here.clock.advance(700)
        assert await statuses(here, good, token(here.now, ec("ec-2"), "ES256")) == [200, 401]


async def test_a_client_that_goes_away_does_not_take_the_keys_of_others_with_it() -> None:
    kept = Kept()
    kept.publish(ec())
    async with kept_desk(kept, **KEYS) as here:
        kept.opened = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(statuses, here, token(here.now, ec(), "ES256"))
            await until(lambda: kept.asked["keys"] == 1)
            tasks.cancel_scope.cancel()
            kept.opened.set()
        assert await statuses(here, token(here.now, ec(), "ES256")) == [200]
        assert kept.asked["keys"] == 1


async def test_a_public_key_is_no_secret_to_sign_with() -> None:
    kept = Kept()
    kept.publish(ec(), rsa())
    async with kept_desk(kept, **KEYS, jwt_algorithms=("ES256",)) as here:
        good = token(here.now, ec(), "ES256")
        _, payload, signature = good.split(".")
        forged = [
            token(here.now, rsa()),  # right, but of an algorithm that is not taken
            token(here.now, rsa(), head={"kid": "ec-1"}),
            raw({"alg": "none", "kid": "ec-1"}, {}),
            f"{raw({'alg': 'none', 'kid': 'ec-1'}, {}).split('.')[0]}.{payload}.",
            f"{raw({'alg': 'HS256', 'kid': 'ec-1'}, {}).split('.')[0]}.{payload}.{signature}",
            f"{raw({'alg': 'ES384', 'kid': 'ec-1'}, {}).split('.')[0]}.{payload}.{signature}",
        ]
        assert await statuses(here, good, *forged) == [200] + [401] * len(forged)


# --- API keys --------------------------------------------------------------------------------------------------------


async def test_who_has_an_api_key_is_who_the_module_says() -> None:
    kept = Kept()
    key = kept.add("pipeline", "orders:read", tenant="acme")
    async with kept_desk(kept, **API_KEYS) as here:
        for headers in ({"x-api-key": key}, {"authorization": f"Bearer {key}"}):
            answer = await here.client.get("/api/orders/list-orders", headers=headers)
            expected = {"subject": "pipeline", "kind": "api-key", "scopes": ["orders:read"], "tenant": "acme"}
            assert answer.json() == expected
        assert kept.asked["key"] == 1


async def test_a_key_that_was_revoked_is_refused_within_the_time_that_it_is_remembered() -> None:
    kept = Kept()
    key = kept.add("pipeline", "orders:read")
    async with kept_desk(kept, **API_KEYS) as here:
        assert await statuses(here, key) == [200]
        kept.remove(key)
        here.clock.advance(GOOD_S - 1)
        assert await statuses(here, key) == [200]
        here.clock.advance(1)
        assert await statuses(here, key) == [401]


async def test_a_key_that_is_new_is_taken_soon_although_it_was_refused() -> None:
    kept = Kept()
    key = kept.add("pipeline", "orders:read")
    holders, kept.holders = kept.holders, {}
    async with kept_desk(kept, **API_KEYS) as here:
        assert await statuses(here, key, key, key) == [401] * 3
        kept.holders = holders
        assert await statuses(here, key) == [401]
        assert kept.asked["key"] == 1
        here.clock.advance(BAD_S)
        assert await statuses(here, key) == [200]


async def test_a_key_ends_when_the_module_says_although_it_is_remembered() -> None:
    kept = Kept()
    async with kept_desk(kept, **API_KEYS) as here:
        key = kept.add("pipeline", "orders:read", expires_at=here.now + 5)
        assert await statuses(here, key) == [200]
        here.clock.advance(5)
        assert await statuses(here, key) == [401]
        assert kept.asked["key"] == 1


async def test_while_the_module_is_away_a_key_is_neither_good_nor_bad() -> None:
    kept = Kept()
    key = kept.add("pipeline", "orders:read")
    async with kept_desk(kept, **API_KEYS) as here:
        assert await statuses(here, key) == [200]
        kept.is_away = True
        assert await statuses(here, key, new_key("other")[0]) == [200, 503]
        here.clock.advance(GOOD_S)
        assert await statuses(here, key, key) == [503, 503]
        kept.is_away = False
        assert await statuses(here, key) == [200]


async def test_who_comes_with_the_same_key_at_once_waits_for_one_question() -> None:
    kept = Kept()
    key = kept.add("pipeline", "orders:read")
    async with kept_desk(kept, **API_KEYS) as here:
        assert await statuses(here, *[key] * 20) == [200] * 20
        assert kept.asked["key"] == 1


async def test_what_is_no_key_by_its_looks_asks_nobody() -> None:
    kept = Kept()
    async with kept_desk(kept, **API_KEYS) as here:
        for wrong in ("fsl_", "fsl_a_b", "fsl_a1_" + "x" * 42, "fsl_a1_" + "x" * 87, f"fsl_{'a' * 65}_{'x' * 43}"):
            assert await statuses(here, wrong) == [401]
        assert kept.asked["key"] == 0


async def test_no_more_answers_are_remembered_than_there_is_room_for() -> None:
    from fissile_gateway._auth_asked import AskedKeys

    kept = Kept()
    async with kept_desk(kept, **API_KEYS) as here:
        assert here.gateway.authenticator is not None
        (keys,) = here.gateway.authenticator.api_keys
        assert isinstance(keys, AskedKeys)
        for number in range(REMEMBERED):
            keys.remember(f"{number:064x}", None)
        assert await statuses(here, new_key("one-more")[0]) == [401]
        assert len(keys) == REMEMBERED


async def test_a_file_and_a_module_may_both_have_keys(tmp_path: Path) -> None:
    kept = Kept()
    of_module = kept.add("pipeline", "orders:read")
    of_file, ci = entry()
    file = write(tmp_path / "keys.json", ci)
    async with kept_desk(kept, **API_KEYS, api_keys_file=file) as here:
        assert await statuses(here, of_file, of_module, new_key("ci")[0]) == [200, 200, 401]


# --- what is wrong at the start --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({**NEVER, "jwt_jwks": "bus:keeper.nothing"}, "No module of this application has a query 'keeper.nothing'"),
        ({**NEVER, "jwt_jwks": "bus:"}, "No module of this application has a query ''"),
        ({**NEVER, "jwt_jwks": "bus:keeper.count-keys"}, "keeper.count-keys does not tell what the gateway asks for"),
        ({**NEVER, "jwt_jwks": "bus:keeper.get-keys-of"}, "keeper.get-keys-of does not tell"),
        ({**NEVER, "jwt_jwks": "bus:keeper.find-key"}, "keeper.find-key does not tell"),
        ({"api_keys_query": "keeper.find-keys"}, "has a query 'keeper.find-keys'"),
        ({"api_keys_query": "keeper.get-keys"}, "keeper.get-keys does not tell"),
        ({"api_keys_query": "keeper.find-name"}, "keeper.find-name does not tell"),
    ],
)
async def test_a_query_of_another_kind_ends_the_start_and_the_cure_is_told(
    settings: dict[str, Any], problem: str
) -> None:
    with pytest.raises(StartupFailed, match=problem) as failed:
        async with kept_desk(Kept(), **settings):
            pass
    (fault,) = failed.value.faults
    of_keys = "jwt_jwks" in settings
    assert fault.where == ("FISSILE_JWT_JWKS" if of_keys else "FISSILE_API_KEYS_QUERY")
    assert ("Query[str]" if of_keys else "sha256: str") in fault.cure
    if "has a query" in problem:
        assert ("keeper.get-keys" if of_keys else "keeper.find-key") in fault.cure
