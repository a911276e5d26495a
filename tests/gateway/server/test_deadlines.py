"""A client that is slow, or silent, costs only its own connection, and not for long."""

import errno
import socket
from typing import Any

import anyio
import pytest

from .conftest import Client, MakeQuart, eventually, hello, serving

POST = b"POST / HTTP/1.1\r\nHost: test\r\n"
PIECE = bytes(64 * 1024)


@pytest.fixture(params=["plain", "quart"])
def flood(request: pytest.FixtureRequest, make_quart: MakeQuart) -> Any:
    """Answers with more than any buffer on the way holds."""

    async def plain(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(400):
                await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    if request.param == "plain":
        return plain
    quart = make_quart()

    @quart.get("/")
    async def index() -> bytes:
        return PIECE * 400

    return quart


async def dribble(client: Client, data: bytes) -> None:
    """Send without end, so slowly that no single pause is long."""
    try:
        while True:
            await client.send(data)
            await anyio.sleep(0.05)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass


@pytest.mark.parametrize("data", [b"X: y\r\n", b"X"], ids=["fields", "bytes"])
async def test_a_head_without_end_is_closed_by_its_deadline(data: bytes) -> None:
    async with serving(hello, head_timeout_s=0.2) as site, site.connect() as client:
        async with anyio.create_task_group() as tasks:
            await client.send(b"GET / HTTP/1.1\r\nHost: test\r\n")
            tasks.start_soon(dribble, client, data)
            assert (await client.answer()).status == 408
            tasks.cancel_scope.cancel()
        await client.closed()


async def test_a_head_without_end_on_a_used_connection_is_closed_too() -> None:
    async with serving(hello, head_timeout_s=0.2, keep_alive_s=60) as site, site.connect() as client:
        assert (await client.get()).status == 200
        await client.send(b"GET / HT")
        assert (await client.answer()).status == 408
        await client.closed()


@pytest.mark.parametrize(
    ("fields", "data"),
    [
        (b"Content-Length: 1000\r\n\r\n", b"x"),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n1;x=", b"y"),
    ],
    ids=["length", "chunks", "one chunk's head"],
)
async def test_a_body_that_dribbles_is_closed_by_its_deadline(fields: bytes, data: bytes) -> None:
    async with serving(hello, read_timeout_s=0.2) as site, site.connect() as client:
        async with anyio.create_task_group() as tasks:
            await client.send(POST + fields)
            tasks.start_soon(dribble, client, data)
            assert (await client.answer()).status == 408
            tasks.cancel_scope.cancel()
        await client.closed()


async def test_a_body_that_makes_progress_may_take_longer_than_the_deadline() -> None:
    async with serving(hello, read_timeout_s=0.6) as site, site.connect() as client:
        await client.send(POST + b"Content-Length: 524288\r\n\r\n")
        for _ in range(8):
            await anyio.sleep(0.1)
            await client.send(PIECE)
        assert (await client.answer()).body == b"524288"


async def test_a_slow_application_is_not_held_against_its_client() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await anyio.sleep(0.5)
            await hello(scope, receive, send)

    async with serving(slow, read_timeout_s=0.2, head_timeout_s=0.2) as site, site.connect() as client:
        await client.send(POST + b"Content-Length: 1000000\r\n\r\n" + bytes(1_000_000))
        assert (await client.answer()).body == b"1000000"


async def test_a_client_that_never_reads_is_dropped(flood: Any) -> None:
    async with serving(flood, write_timeout_s=0.2) as site, site.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await eventually(lambda: site.server.statistics().stalled_total == 1)
        await eventually(lambda: site.server.statistics().connections == 0)


async def test_what_the_kernel_holds_for_a_client_that_never_reads_is_thrown_away(flood: Any) -> None:
    async with serving(flood, write_timeout_s=0.3) as site:
        with socket.create_connection(site.address) as client:  # on no event loop, which would read ahead
            client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            await eventually(lambda: site.server.statistics().stalled_total == 1)
            await eventually(lambda: client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET)


async def test_a_client_that_reads_slowly_gets_everything(flood: Any) -> None:
    async with serving(flood, write_timeout_s=2.0) as site, site.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        size = read = 0
        with anyio.fail_after(60):
            async for data in client.stream:
                size += len(data)
                if size - read > 16 * len(PIECE):
                    read = size
                    await anyio.sleep(0.02)
        assert size > 400 * len(PIECE)
        assert site.server.statistics().stalled_total == 0


async def test_a_client_that_never_reads_does_not_hold_up_the_drain(flood: Any) -> None:
    async with serving(flood, write_timeout_s=0.2, drain_s=60) as site, site.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await eventually(lambda: site.server.statistics().requests == 1)
        await site.drained()


async def test_a_client_that_never_reads_does_not_hold_up_the_bound_of_the_drain(flood: Any) -> None:
    async with serving(flood, write_timeout_s=600, drain_s=0.1) as site, site.connect() as client:
        await client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        await eventually(lambda: site.server.statistics().requests == 1)
        await site.drained()


async def test_an_application_that_never_waits_lets_others_in(flood: Any) -> None:
    async with serving(flood) as site, site.connect() as greedy, anyio.create_task_group() as tasks:

        async def swallow() -> None:
            async for _ in greedy.stream:
                pass

        await greedy.send(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        tasks.start_soon(swallow)
        async with site.connect() as client:
            await client.send(b"HEAD /missing HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            assert await client.until(b"\r\n\r\n")
