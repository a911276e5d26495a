"""A client that does not take its answer says nothing of the module that gave it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import anyio
from attrs import define, field, frozen

from fissile import Contract, Module, Query
from fissile.testing import ManualClock
from fissile_gateway import Gateway, ProtectionSettings
from tests.gateway.server.conftest import PATIENCE_S, serving
from tests.gateway.server.http2 import http2
from tests.gateway.serving import building, client_at

BEHAVE, FIND = "/api/shop/behave", "/api/shop/find"

contract = Contract("archive")


@frozen
class Read(Query[str]):
    """Read a long text."""


archive = Module(contract)


@archive.query(Read)
async def read(query: Read) -> str:
    return "x" * 1_000_000


@define(eq=False)
class Watched:
    """A gateway, and what becomes of answers that are not taken."""

    gateway: Gateway
    held: anyio.Event = field(factory=anyio.Event)
    given_up: anyio.Event = field(factory=anyio.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        is_on_its_way = False

        async def send_on(message: Any) -> None:
            nonlocal is_on_its_way
            is_on_its_way = True
            if message["type"] == "http.response.start":
                self.held.set()
            await send(message)
            is_on_its_way = False

        try:
            await self.gateway(scope, receive, send_on)
        finally:
            if is_on_its_way:
                self.given_up.set()


async def test_an_answer_that_is_not_taken_over_http2_is_no_failure_of_its_module(tmp_path: Path) -> None:
    settings = ProtectionSettings(breaker_failures=1)
    async with building(protection=settings, request_timeout_s=1.0) as (gateway, _):
        watched = Watched(gateway)
        async with http2(watched, tmp_path, window=0) as (_, client):
            await client.ask(FIND)
            with anyio.fail_after(PATIENCE_S):
                await watched.given_up.wait()
        assert gateway.protection.statistics().circuits == {"shop": "closed"}


async def test_an_answer_that_is_not_taken_over_http1_is_no_failure_of_its_module() -> None:
    settings = ProtectionSettings(breaker_failures=1)
    async with building(modules=(archive,), protection=settings, request_timeout_s=2.0) as (gateway, _):
        watched = Watched(gateway)
        async with serving(watched) as site:
            with socket.socket() as stalled:
                stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                stalled.connect(site.address)
                # Together they are more than what the system takes in the client's place.
                stalled.send(b"GET /api/archive/read HTTP/1.1\r\nhost: test\r\n\r\n" * 20)
                with anyio.fail_after(PATIENCE_S):
                    await watched.given_up.wait()
        assert gateway.protection.statistics().circuits == {"archive": "closed", "shop": "closed"}


async def test_an_answer_that_is_not_taken_holds_no_place_among_those_that_try_a_module(tmp_path: Path) -> None:
    clock = ManualClock()
    settings = ProtectionSettings(breaker_failures=1, breaker_trials=2, breaker_open_s=5, breaker_counts_failed=True)
    async with building(protection=settings, clock=clock) as (gateway, _), client_at(gateway, "192.0.2.1") as other:
        watched = Watched(gateway)
        async with http2(watched, tmp_path, window=0) as (_, client):
            assert (await other.post(BEHAVE, json={"how": "fail"})).status_code == 500
            clock.advance(5)
            number = await client.ask(FIND)
            with anyio.fail_after(PATIENCE_S):
                await watched.held.wait()
            assert gateway.protection.statistics().circuits == {"shop": "half-open"}
            assert (await other.post(BEHAVE, json={"how": "well"})).status_code == 200
            assert gateway.protection.statistics().circuits == {"shop": "closed"}
            assert gateway.requests == 1
            client.h2.reset_stream(number)
            await client.flush()
