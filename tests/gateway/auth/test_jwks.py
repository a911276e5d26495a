"""The keys of an issuer: fetched seldom, whatever clients send, and never held against a client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from fissile import StartupFailed
from tests.gateway.auth.issuer import (
    AUDIENCE,
    ISSUER,
    Desk,
    KeyServer,
    desk,
    key_server,
    key_set,
    rsa,
    token,
    trusting,
)
from tests.runtime.helpers import until


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with key_server() as serving:
        serving.publish(rsa())
        yield serving


def at(server: KeyServer) -> dict[str, Any]:
    return {"jwt_jwks": server.url, "jwt_issuer": ISSUER, "jwt_audience": (AUDIENCE,)}


async def statuses(here: Desk, *credentials: str) -> list[int]:
    """Ask with all of them at once."""
    found: dict[int, int] = {}

    async def ask(number: int, credential: str) -> None:
        found[number] = (await here.get(credential=credential)).status_code

    async with anyio.create_task_group() as tasks:
        for number, credential in enumerate(credentials):
            tasks.start_soon(ask, number, credential)
    return [found[number] for number in range(len(credentials))]


async def test_keys_are_fetched_when_they_are_needed_and_once_for_all(server: KeyServer) -> None:
    async with desk(**at(server)) as here:
        assert (await here.get("/api/orders/who-am-i")).status_code == 200
        assert server.asked == 0
        tokens = [token(here.now, sub=f"user-{number}") for number in range(20)]
        assert await statuses(here, *tokens) == [200] * 20
        here.clock.advance(500)
        assert (await here.get(credential=tokens[0])).status_code == 200
        assert server.asked == 1


async def test_keys_that_are_not_known_do_not_hammer_the_issuer(server: KeyServer) -> None:
    async with desk(**at(server)) as here:
        flood = [token(here.now, head={"kid": f"k{number}"}) for number in range(100)]
        assert set(await statuses(here, *flood, token(here.now))) == {401, 200}
        assert server.asked == 1
        here.clock.advance(31)
        assert set(await statuses(here, *flood)) == {401}
        assert server.asked == 2


async def test_a_new_key_is_taken_up_and_an_old_one_forgotten(server: KeyServer) -> None:
    async with desk(**at(server)) as here:
        old, new = token(here.now, exp=int(here.now) + 5000), token(here.now, rsa("rsa-2"), exp=int(here.now) + 5000)
        assert await statuses(here, old, new) == [200, 401]
        server.publish(rsa(), rsa("rsa-2"))
        here.clock.advance(31)
        assert await statuses(here, new, old) == [200, 200]
        server.publish(rsa("rsa-2"))
        here.clock.advance(601)
        assert (await here.get(credential=new)).status_code == 200
        assert (await here.get(credential=old)).status_code == 401
        assert server.asked == 3


@pytest.mark.parametrize("trouble", ["status", "nonsense", "too large", "no keys", "elsewhere"])
async def test_an_issuer_that_is_away_takes_nothing_from_who_is_known(server: KeyServer, trouble: str) -> None:
    good = server.document

    def break_it() -> None:
        server.status = {"status": 500, "elsewhere": 302}.get(trouble, 200)
        server.document = {
            "status": good,
            "elsewhere": good,
            "nonsense": b"<html>",
            "too large": b" " * 300_000 + good,
            "no keys": b'{"keys": []}',
        }[trouble]

    async with desk(**at(server)) as here:
        break_it()
        answer = await here.get(credential=token(here.now))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert (await here.get("/api/orders/who-am-i")).status_code == 200
        server.status, server.document = 200, good
        here.clock.advance(1.5)
        credential = token(here.now, exp=int(here.now) + 5000)
        assert (await here.get(credential=credential)).status_code == 200
        break_it()
        here.clock.advance(700)
        assert await statuses(here, credential, token(here.now, rsa("rsa-2"))) == [200, 401]


async def test_an_issuer_that_cannot_be_reached_is_no_fault_of_the_client() -> None:
    with key_server() as gone:
        settings = at(gone)
    async with desk(**settings) as here:
        assert (await here.get(credential=token(here.now))).status_code == 503


async def test_an_issuer_that_is_slow_holds_up_nobody_else(server: KeyServer) -> None:
    async with desk(**at(server)) as here, anyio.create_task_group() as tasks:
        server.opened.clear()
        answers: list[int] = []

        async def ask() -> None:
            answers.append((await here.get(credential=token(here.now))).status_code)

        tasks.start_soon(ask)
        await until(lambda: server.asked == 1)
        assert (await here.get("/api/orders/who-am-i")).status_code == 200
        assert answers == []
        server.opened.set()
    assert answers == [200]


async def test_known_keys_are_used_while_they_are_fetched_again(server: KeyServer) -> None:
    async with desk(**at(server)) as here, anyio.create_task_group() as tasks:
        first, second = (token(here.now, sub=name, exp=int(here.now) + 5000) for name in ("first", "second"))
        assert (await here.get(credential=first)).status_code == 200
        here.clock.advance(601)
        server.opened.clear()
        tasks.start_soon(lambda: here.get(credential=first))
        await until(lambda: server.asked == 2)
        with anyio.fail_after(5):
            assert (await here.get(credential=second)).status_code == 200
        server.opened.set()


async def test_a_file_is_read_again(tmp_path: Path) -> None:
    settings = trusting(tmp_path, rsa())
    async with desk(**settings) as here:
        assert await statuses(here, token(here.now), token(here.now, rsa("rsa-2"))) == [200, 401]
        (tmp_path / "keys.json").write_text(json.dumps(key_set(rsa("rsa-2"))))
        here.clock.advance(31)
        assert await statuses(here, token(here.now, rsa("rsa-2"))) == [200]


async def test_a_weak_key_is_passed_over(tmp_path: Path) -> None:
    settings = trusting(tmp_path, rsa())
    keys = key_set(rsa())
    keys["keys"][0]["n"] = keys["keys"][0]["n"][:171]  # 1024 bits
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    async with desk(**settings) as here:
        assert (await here.get(credential=token(here.now))).status_code == 503


@pytest.mark.parametrize("place", ["http://issuer.example/keys", "ftp://issuer.example/keys", "/nowhere/keys.json"])
async def test_keys_come_from_a_file_or_over_https(place: str) -> None:
    with pytest.raises(StartupFailed, match="The keys of tokens cannot be had"):
        async with desk(jwt_jwks=place, jwt_issuer=ISSUER, jwt_audience=(AUDIENCE,)):
            pass
