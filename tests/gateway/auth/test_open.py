"""What is open with a credential that has been revoked: streams and WebSockets end soon after it has."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from fissile import Environment, Ids, Module
from fissile.testing import ManualClock
from fissile_gateway._auth_again import PROVE_AGAIN_S
from tests.gateway.auth.issuer import AUDIENCE, ISSUER, desk, ec, rsa, token, trusting
from tests.gateway.auth.keeper import Kept, keeper_of
from tests.gateway.auth.test_api_keys import entry, write
from tests.gateway.serving import Shop, Stream, serving, streaming
from tests.gateway.test_websockets import HANDSHAKE
from tests.identity.modules import Announce, billing, orders
from tests.runtime.helpers import until

PATH = "/api/orders/topics/announced"
WATCH = ["orders:watch"]
PAGES = """
from quart import Blueprint, websocket

blueprint = Blueprint("pages", __name__)

@blueprint.websocket("/echo")
async def echo():
    await websocket.accept()
    while True:
        await websocket.send(await websocket.receive())
"""


@asynccontextmanager
async def opened(clock: ManualClock, *modules: Module, **settings: Any) -> AsyncGenerator[Shop]:
    environment = Environment(clock=clock, ids=Ids("id"), random=Random(1))
    async with serving(orders, billing, *modules, environment=environment, **settings) as running:
        yield running


async def _goes_on(running: Shop, stream: Stream, key: str) -> bool:
    """Tell whether a stream still gives what happens."""
    await running.app.bus.execute(Announce(key))
    while (frame := await stream.frame()) is not None:
        if frame.data == {"key": key}:
            return True
    return False


async def _looked_at(clock: ManualClock, count: int = 1) -> None:
    """Wait until so many are to be looked at again when the clock has moved on."""
    await until(lambda: clock.sleeping.count(PROVE_AGAIN_S) == count, "they sleep")


@pytest.mark.parametrize("change", ["gone", "another secret", "fewer scopes", "another subject", "ends sooner"])
async def test_a_stream_ends_soon_after_its_api_key_was_changed_in_the_file(tmp_path: Path, change: str) -> None:
    clock, file = ManualClock(), tmp_path / "keys.json"
    key, revoked = entry("revoked", scopes=WATCH)
    other, kept = entry("kept", scopes=WATCH)
    changed: dict[str, list[dict[str, Any]]] = {
        "gone": [],
        "another secret": [entry("revoked", scopes=WATCH)[1]],
        "fewer scopes": [{**revoked, "scopes": []}],
        "another subject": [{**revoked, "subject": "somebody"}],
        "ends sooner": [{**revoked, "expires": "2026-01-01T00:00:30Z"}],
    }
    async with (
        opened(clock, api_keys_file=write(file, revoked, kept)) as running,
        streaming(running, PATH, x_api_key=key) as stream,
    ):
        assert await stream.frame() is not None
        await _looked_at(clock)
        clock.advance(1)  # not both at once: while the file is read, what is known of it is used
        async with streaming(running, PATH, x_api_key=other) as second:
            assert await second.frame() is not None
            await _looked_at(clock)
            write(file, *changed[change], kept)
            os.utime(file, (1, 1))  # another time than before, however coarse the clock of its system is
            assert await _goes_on(running, stream, "before")
            clock.advance(PROVE_AGAIN_S - 1)
            while await stream.frame() is not None:
                pass  # what was on its way
            clock.advance(1)
            assert await _goes_on(running, second, "after")


async def test_a_stream_ends_soon_after_a_module_has_revoked_its_api_key_and_not_while_the_module_is_away() -> None:
    clock, kept = ManualClock(), Kept()
    key = kept.add("alice", *WATCH)
    async with (
        opened(clock, keeper_of(kept), api_keys_query="keeper.find-key") as running,
        streaming(running, PATH, x_api_key=key) as stream,
    ):
        assert await stream.frame() is not None
        await _looked_at(clock)
        kept.is_away = True
        clock.advance(PROVE_AGAIN_S)
        await until(lambda: kept.asked["key"] == 2, "it was looked again")
        await _looked_at(clock)
        assert await _goes_on(running, stream, "nobody knows")
        kept.is_away = False
        kept.remove(key)
        clock.advance(PROVE_AGAIN_S)
        while await stream.frame() is not None:
            pass
        assert kept.asked["key"] == 3


async def test_a_stream_ends_soon_after_the_issuer_has_withdrawn_the_key_of_its_token() -> None:
    clock, kept = ManualClock(), Kept()
    kept.publish(ec(), rsa())
    settings = {"jwt_jwks": "bus:keeper.get-keys", "jwt_issuer": ISSUER, "jwt_audience": (AUDIENCE,)}
    now = clock.now().timestamp()
    credential = token(now, ec(), "ES256", scope="orders:watch", exp=now + 100_000)
    async with (
        opened(clock, keeper_of(kept), jwks_max_age_s=50.0, **settings) as running,
        streaming(running, PATH, authorization=f"Bearer {credential}") as stream,
    ):
        assert await _goes_on(running, stream, "before")
        await _looked_at(clock)
        kept.publish(rsa())
        clock.advance(PROVE_AGAIN_S)
        while await stream.frame() is not None:
            pass


async def test_a_credential_that_is_still_good_keeps_its_stream_open(tmp_path: Path) -> None:
    clock, file = ManualClock(), tmp_path / "keys.json"
    key, entry_of_it = entry(scopes=WATCH)
    async with (
        opened(clock, api_keys_file=write(file, entry_of_it)) as running,
        streaming(running, PATH, x_api_key=key) as stream,
    ):
        for step in range(3):
            await _looked_at(clock)
            clock.advance(PROVE_AGAIN_S)
            assert await _goes_on(running, stream, f"after {step}")


# --- WebSockets ------------------------------------------------------------------------------------------------------


def _frame(text: bytes) -> bytes:
    """A client's frame with a text, masked with zeros."""
    return b"\x81" + bytes([0x80 | len(text)]) + bytes(4) + text


@pytest.mark.parametrize("way", ["the token ends", "the key is gone"])
async def test_a_websocket_ends_with_the_credential_of_who_opened_it(
    tmp_path: Path, pages: Callable[..., str], way: str
) -> None:
    clock, file = ManualClock(), tmp_path / "api.json"
    key, known = entry()
    now = clock.now().timestamp()
    credential = key if way == "the key is gone" else token(now, exp=now + 10)
    fields = {**HANDSHAKE, "authorization": f"Bearer {credential}"}
    settings = {"api_keys_file": write(file, known), "jwt_skew_s": 0.0, **trusting(tmp_path, rsa())}
    async with (
        opened(clock, routes=pages(here=PAGES), **settings) as running,
        streaming(running, "/echo", "GET", b"", **fields) as socket,
    ):
        assert socket.status == 101
        await socket.socket.send(_frame(b"hi"))
        with anyio.fail_after(20):
            await socket.reader.receive_until(b"hi", 1000)
        await until(lambda: clock.pauses[-1] in (10, PROVE_AGAIN_S), "the credential is watched")
        write(file)
        os.utime(file, (1, 1))
        clock.advance(PROVE_AGAIN_S)
        with anyio.fail_after(20):
            await socket.reader.receive_until((1008).to_bytes(2, "big"), 1000)
            await socket.socket.send(_frame(b"again"))
            with pytest.raises((anyio.IncompleteRead, anyio.EndOfStream)):  # what is said now is not answered
                await socket.reader.receive_until(b"again", 1000)


async def test_behind_another_server_a_websocket_ends_with_its_credential_too(
    tmp_path: Path, pages: Callable[..., str]
) -> None:
    """Even where the server goes on to tell what the client says."""
    async with desk(routes=pages(here=PAGES), jwt_skew_s=0.0, **trusting(tmp_path, rsa())) as here:
        said, told = anyio.create_memory_object_stream[dict[str, Any]](100), list[dict[str, Any]]()

        async def send(message: dict[str, Any]) -> None:
            told.append(message)

        async with said[0], said[1]:
            await said[0].send({"type": "websocket.connect"})
            await said[0].send({"type": "websocket.receive", "text": "hi"})
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(here.gateway, _scope(token(here.now, exp=int(here.now) + 10)), said[1].receive, send)
                await until(lambda: len(told) == 2, "the text has come back")
                await here.clock.wait_sleeping(at_most_s=10)
                here.clock.advance(10)
                await until(lambda: len(told) == 3, "the socket is closed")
                await said[0].send({"type": "websocket.receive", "text": "again"})
    assert [message["type"] for message in told] == ["websocket.accept", "websocket.send", "websocket.close"]
    assert told[-1]["code"] == 1008


def _scope(credential: str) -> dict[str, Any]:
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/echo",
        "raw_path": b"/echo",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"test"), (b"authorization", f"Bearer {credential}".encode())],
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "subprotocols": [],
        "extensions": {},
    }
