"""WebSockets at the gateway: who asks for one where there is none is told so, and each handshake has its line in the access log."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from fissile_gateway import ProtectionSettings
from tests.gateway.serving import Shop, Stream, serving, streaming

PAGES = """
from quart import Blueprint, abort, websocket
from fissile_gateway import current_bus
from tests.gateway.shop import Item, Order

blueprint = Blueprint("pages", __name__)

@blueprint.websocket("/echo")
async def echo():
    while True:
        await websocket.send(await websocket.receive())

@blueprint.websocket("/broken")
async def broken():
    await websocket.accept()
    raise ValueError("secret")

@blueprint.websocket("/sold-out")
async def sold_out():
    await websocket.accept()
    await current_bus().execute(Order((Item("unicorn"),)))

@blueprint.websocket("/closed")
async def closed():
    await websocket.accept()
    await websocket.close(4000)
    raise ValueError("secret")

@blueprint.websocket("/teapot")
async def teapot():
    abort(418, "short and stout")
"""

HANDSHAKE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, int]]:
    """Return what the access log says: method, path and status."""
    told = [record.__dict__ for record in caplog.records if record.name == "fissile.gateway.access"]
    return [(fields["method"], fields["path"], fields["status"]) for fields in told]


def troubles(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what was logged of errors."""
    return [record.getMessage() for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO")
    return caplog


@asynccontextmanager
async def opening(shop: Shop, path: str) -> AsyncGenerator[Stream]:
    """Ask for a WebSocket."""
    async with streaming(shop, path, "GET", b"", **HANDSHAKE) as answer:
        yield answer


async def document(answer: Stream) -> dict[str, Any]:
    """Read a problem from an answer, after which the server closes."""
    length = int(answer.headers["content-length"])
    with anyio.fail_after(20):
        said: dict[str, Any] = json.loads(await answer.reader.receive_exactly(length))
        with pytest.raises(anyio.EndOfStream):
            await answer.reader.receive()
    return said


async def test_a_websocket_where_there_is_none_is_refused_with_a_problem(log: pytest.LogCaptureFixture) -> None:
    paths = ["/nope", "/", "/livez", "/metrics", "/api/shop/find", "/api/shop/nope", "/api/shop/topics/placed", "/api"]
    async with serving() as shop:
        for path in paths:
            async with opening(shop, path) as answer:
                assert answer.status == 404
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.headers["connection"] == "close"
                assert answer.headers["x-content-type-options"] == "nosniff"
                problem = await document(answer)
            assert problem["type"] == "/problems/not-found"
            assert problem["request_id"] == answer.headers["x-request-id"]
            assert path in problem["detail"]
        with anyio.fail_after(20):
            while len(lines(log)) < len(paths):
                await anyio.wait_all_tasks_blocked()
    assert lines(log) == [("GET", path, 404) for path in paths]
    assert not troubles(log)


async def test_a_websocket_has_its_line_of_the_access_log_while_it_is_open(
    pages: Callable[..., str], log: pytest.LogCaptureFixture
) -> None:
    async with serving(routes=pages(here=PAGES)) as shop, opening(shop, "/echo") as answer:
        assert answer.status == 101
        await answer.socket.send(b"\x81\x82\x00\x00\x00\x00hi")
        with anyio.fail_after(20):
            while not (await answer.reader.receive_until(b"hi", 1000)).endswith(b"\x81\x02"):
                pass
        assert lines(log) == [("GET", "/echo", 101)]
        record = next(record for record in log.records if record.name == "fissile.gateway.access")
        assert len(record.__dict__["trace_id"]) == 32


async def test_a_websocket_whose_view_fails_says_so_to_its_client(
    pages: Callable[..., str], log: pytest.LogCaptureFixture
) -> None:
    ways = [("/broken", 1011), ("/sold-out", 1008), ("/closed", 4000)]
    async with serving(routes=pages(here=PAGES)) as shop:
        for path, code in ways:
            async with opening(shop, path) as answer:
                assert answer.status == 101
                with anyio.fail_after(20):
                    said = await answer.reader.receive_until(code.to_bytes(2, "big"), 1000)
                assert said.endswith(b"\x88\x02")  # a frame that closes, with nothing but the code
    assert len(troubles(log)) == 2  # SoldOut is an answer
    assert lines(log) == [("GET", path, 101) for path, _ in ways]


async def test_a_view_may_refuse_a_websocket_with_a_status(pages: Callable[..., str]) -> None:
    async with serving(routes=pages(here=PAGES)) as shop, opening(shop, "/teapot") as answer:
        assert answer.status == 418
        assert (await document(answer))["detail"] == "short and stout"


async def test_who_asks_for_a_page_where_a_websocket_is_learns_that(pages: Callable[..., str]) -> None:
    async with serving(routes=pages(here=PAGES)) as shop:
        answer = await shop.client.get("/echo")
    assert answer.status_code == 400
    assert "Upgrade: websocket" in answer.json()["detail"]


async def test_what_is_not_let_in_is_told_why(pages: Callable[..., str], log: pytest.LogCaptureFixture) -> None:
    protection = ProtectionSettings(allowed_hosts=("shop.test",))
    async with serving(routes=pages(here=PAGES), protection=protection) as shop, opening(shop, "/echo") as answer:
        assert answer.status == 421
        assert (await document(answer))["type"] == "/problems/misdirected-request"
    assert lines(log) == [("GET", "/echo", 421)]


async def test_open_websockets_take_no_place_among_the_requests_in_progress_and_have_a_bound(
    pages: Callable[..., str],
) -> None:
    async with serving(routes=pages(pages=PAGES), requests_at_once=2, streams_at_once=3) as shop:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                assert (await stack.enter_async_context(opening(shop, "/echo"))).status == 101
            assert (await shop.client.get("/api/shop/find")).status_code == 200
            async with opening(shop, "/echo") as one_more:
                assert one_more.status == 503
        with anyio.fail_after(10):
            while (await status_of_one(shop)) != 101:
                await anyio.sleep(0.01)


async def test_a_client_has_so_many_websockets(pages: Callable[..., str]) -> None:
    async with serving(routes=pages(pages=PAGES), streams_per_client=1) as shop:
        async with opening(shop, "/echo") as opened:
            assert opened.status == 101
            async with opening(shop, "/echo") as one_more:
                assert one_more.status == 429
                assert "FISSILE_STREAMS_PER_CLIENT" in (await document(one_more))["detail"]
        with anyio.fail_after(10):
            while (await status_of_one(shop)) != 101:
                await anyio.sleep(0.01)


async def status_of_one(shop: Shop) -> int:
    async with opening(shop, "/echo") as opened:
        return opened.status
