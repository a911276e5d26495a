"""Clients that are slow to send a body keep nobody out."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketStream

from fissile_gateway import ProtectionSettings, RouteLimits
from tests.gateway.serving import Shop, serving, streaming

BEHAVE, FIND, ORDER = "/api/shop/behave", "/api/shop/find", "/api/shop/order"
BODY = b'{"how": "well"}'
SIZES = [pytest.param(len(BODY), id="small"), pytest.param(100_000, id="large")]

PAGES = """
from quart import Blueprint, request

blueprint = Blueprint("pages", __name__)

@blueprint.post("/shout")
async def shout():
    return (await request.get_data()).upper()
"""


class Slow:
    """A client that has sent the head of a request, and the first byte of its body."""

    def __init__(self, stream: SocketStream, rest: bytes) -> None:
        self._stream = stream
        self._rest = rest

    async def finish(self) -> None:
        await self._stream.send(self._rest)

    async def answer(self) -> bytes:
        with anyio.fail_after(10):
            return await self._stream.receive()


@asynccontextmanager
async def slow_client(running: Shop, path: str = BEHAVE, size: int = len(BODY)) -> AsyncGenerator[Slow]:
    body = BODY.ljust(size)
    head = f"POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
    async with await anyio.connect_tcp(*running.address) as stream:
        await stream.send(head.encode() + body[:1])
        yield Slow(stream, body[1:])


async def hang(running: Shop) -> None:
    await running.client.post(BEHAVE, json={"how": "hang"})


async def uploads_of(running: Shop) -> int:
    answer = await running.client.get("/metrics")
    if answer.status_code == 503:  # a client has a place in the moment in which its head has come
        return -1
    lines = answer.text.splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith("fissile_http_uploads "))))


async def until_uploading(running: Shop, count: int) -> None:
    with anyio.fail_after(10):
        while await uploads_of(running) != count:
            await anyio.sleep(0.005)


@pytest.mark.parametrize("size", SIZES)
async def test_slow_bodies_take_no_place_among_the_requests_in_progress(size: int) -> None:
    async with serving(requests_at_once=3) as running, AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(slow_client(running, size=size)) for _ in range(3)]
        await until_uploading(running, 3)
        for _ in range(5):
            async with streaming(running, BEHAVE, "POST", BODY, content_type="application/json") as fast:
                assert fast.status == 200
        for client in slow:
            await client.finish()
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")
        assert await uploads_of(running) == 0


async def test_a_body_that_has_come_takes_a_place_and_waits_for_it_as_others_do() -> None:
    limits = {"shop.behave": RouteLimits(requests_at_once=1)}
    protection = ProtectionSettings(route_limits=limits, requests_waiting=0)
    async with (
        serving(protection=protection) as running,
        slow_client(running) as slow,
        anyio.create_task_group() as tasks,
    ):
        await until_uploading(running, 1)
        tasks.start_soon(hang, running)
        with anyio.fail_after(10):
            await running.watch.hanging.wait()
        await slow.finish()
        answer = await slow.answer()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"1 requests to shop.behave are in progress" in answer
        assert b"retry-after: 1" in answer.lower()
        running.watch.go_on.set()


@pytest.mark.parametrize("size", SIZES)
async def test_of_too_many_slow_bodies_the_slowest_is_given_up_and_fast_ones_get_through(size: int) -> None:
    async with serving(requests_at_once=2) as running, AsyncExitStack() as stack:
        slowest = await stack.enter_async_context(slow_client(running, size=size))
        await until_uploading(running, 1)
        others = [await stack.enter_async_context(slow_client(running, size=size)) for _ in range(2)]
        assert (await slowest.answer()).startswith(b"HTTP/1.1 408 ")
        for client in others:
            await client.finish()
            assert (await client.answer()).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing_behind() -> None:
    async with serving(requests_at_once=2) as running:
        async with slow_client(running, ORDER):
            await until_uploading(running, 1)
        await until_uploading(running, 0)
        assert running.watch.seen == []


async def test_a_body_that_is_not_there_in_time_is_a_408_and_gives_nothing_back_twice() -> None:
    limits = {"shop.behave": RouteLimits(timeout_s=0.2)}
    async with serving(protection=ProtectionSettings(route_limits=limits), requests_at_once=1) as running:
        for _ in range(2):
            async with slow_client(running) as slow:
                assert (await slow.answer()).startswith(b"HTTP/1.1 408 ")
        assert (await running.client.get(FIND)).status_code == 200
        assert await uploads_of(running) == 0


async def test_a_hand_written_route_has_no_place_while_it_waits_for_a_whole_body(pages: Callable[..., str]) -> None:
    async with (
        serving(routes=pages(pages=PAGES), requests_at_once=1) as running,
        slow_client(running, "/shout", 100_000) as slow,
    ):
        await until_uploading(running, 1)
        assert (await running.client.get(FIND)).status_code == 200
        await slow.finish()
        assert (await slow.answer()).startswith(b"HTTP/1.1 200 ")


async def test_a_slow_body_does_not_take_the_place_of_a_call_that_tries_a_module_again() -> None:
    """Of a circuit that is half open, a few calls try; who has not sent anything to try with is none of them."""
    protection = ProtectionSettings(
        breaker_failures=1, breaker_open_s=0.1, breaker_trials=1, breaker_counts_failed=True
    )
    async with serving(protection=protection) as running:
        assert (await running.client.post(BEHAVE, json={"how": "fail"})).status_code == 500
        await anyio.sleep(0.15)  # the circuit is half open
        async with slow_client(running) as slow:
            await until_uploading(running, 1)
            assert (await running.client.post(BEHAVE, json={"how": "well"})).status_code == 200
            await slow.finish()
            assert (await slow.answer()).startswith(b"HTTP/1.1 200 ")
