"""One client cannot have all of what there is for all."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from fissile_gateway import ProtectionSettings
from tests.gateway import library
from tests.gateway.library import Desk, two_principals
from tests.gateway.serving import Shop, Stream, serving, streaming
from tests.gateway.test_operations import DUST, begin, outcome

PLACED, LIVE = "/api/shop/topics/placed", "/livez"
PROXY = ProtectionSettings(trusted_proxies=("127.0.0.1",))
ONE, OTHER = "203.0.113.1", "203.0.113.2"


async def body_of(stream: Stream) -> bytes:
    with anyio.fail_after(20):
        return await stream.reader.receive_exactly(int(stream.headers["content-length"]))


@asynccontextmanager
async def holding(running: Shop, count: int, **fields: Any) -> AsyncGenerator[AsyncExitStack]:
    """Hold so many streams open; leave some by closing what this gives."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            stream = await stack.enter_async_context(streaming(running, PLACED, **fields))
            assert stream.status == 200
        yield stack


async def until_another_is_open(running: Shop, **fields: Any) -> None:
    with anyio.fail_after(20):
        status = 429
        while status == 429:
            async with streaming(running, PLACED, **fields) as stream:
                status = stream.status
    assert status == 200


async def test_a_client_has_so_many_streams_and_others_have_theirs() -> None:
    async with (
        serving(streams_per_client=2, protection=PROXY) as running,
        holding(running, 2, x_forwarded_for=ONE) as held,
        holding(running, 2, x_forwarded_for=OTHER),
    ):
        async with streaming(running, PLACED, x_forwarded_for=ONE) as refused:
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")
            document = await body_of(refused)
        assert b"/problems/too-many-streams" in document
        assert b"FISSILE_STREAMS_PER_CLIENT" in document
        await held.aclose()
        await until_another_is_open(running, x_forwarded_for=ONE)


async def test_the_network_of_an_ipv6_address_is_one_client() -> None:
    async with (
        serving(streams_per_client=1, protection=PROXY) as running,
        holding(running, 1, x_forwarded_for="2001:db8::1"),
    ):
        for address, status in (("2001:db8::2", 429), ("2001:db8:0:1::1", 200)):
            async with streaming(running, PLACED, x_forwarded_for=address) as stream:
                assert stream.status == status


async def test_who_says_who_they_are_is_counted_so_wherever_they_are(tmp_path: Path) -> None:
    file, one, other = two_principals(tmp_path)
    async with (
        serving(streams_per_client=1, protection=PROXY, api_keys_file=file) as running,
        holding(running, 1, x_api_key=one, x_forwarded_for=ONE),
    ):
        asking: list[tuple[dict[str, Any], int]] = [
            ({"x_api_key": one, "x_forwarded_for": OTHER}, 429),
            ({"x_api_key": other, "x_forwarded_for": ONE}, 200),
            ({"x_forwarded_for": ONE}, 200),
        ]
        for fields, status in asking:
            async with streaming(running, PLACED, **fields) as stream:
                assert stream.status == status


async def test_a_client_has_so_many_operations_and_others_have_theirs() -> None:
    desk = Desk()
    async with serving(library.module, overrides={Desk: desk}, protection=PROXY, operations_per_client=1) as running:
        mine, theirs = {"x_forwarded_for": ONE}, {"x_forwarded_for": OTHER}
        first = await begin(running.client, DUST, {}, **mine)
        assert first.status_code == 202
        refused = await begin(running.client, DUST, {}, idempotency_key='"k"', **mine)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["type"] == "/problems/too-many-operations"
        assert "FISSILE_OPERATIONS_PER_CLIENT" in refused.json()["detail"]
        assert (await begin(running.client, DUST, {}, **theirs)).status_code == 202
        desk.go_on.set()
        await outcome(running.client, first)
        assert (await begin(running.client, DUST, {}, idempotency_key='"k"', **mine)).status_code == 202


async def test_an_address_has_so_many_connections() -> None:
    async with serving(connections_per_address=2) as running, AsyncExitStack() as stack:
        for _ in range(2):
            assert (await stack.enter_async_context(streaming(running, PLACED))).status == 200
        async with streaming(running, LIVE) as refused:
            assert refused.status == 429
            assert b"FISSILE_CONNECTIONS_PER_ADDRESS" in await body_of(refused)
        await stack.aclose()
        with anyio.fail_after(20):
            status = 429
            while status == 429:
                async with streaming(running, LIVE) as another:
                    status = another.status
        assert status == 200


async def test_the_connections_of_a_trusted_proxy_are_not_its_own() -> None:
    async with (
        serving(connections_per_address=1, protection=PROXY) as running,
        holding(running, 2, x_forwarded_for=ONE),
    ):
        pass


async def test_0_bounds_no_client() -> None:
    async with serving(streams_per_client=0, connections_per_address=0) as running, holding(running, 3):
        pass
