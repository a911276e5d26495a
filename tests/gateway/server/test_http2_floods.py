"""Floods of HTTP/2 frames, each of which is allowed: memory stays bounded, the connection ends, and others are served meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from .conftest import PATIENCE_S, eventually, hello, serving
from .http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Gone,
    Http2Client,
    certificate,
    connect,
    frame,
    http2,
)

ENHANCE_YOUR_CALM = 11
# :method GET, :path /, :scheme https, :authority x, from HPACK's static table
HEAD = b"\x82\x84\x87\x41\x01x"
ONE = (1).to_bytes(4, "big")


async def pour(client: Http2Client, data: bytes, count: int = 50) -> None:
    """Send until the server ends the connection, or all is sent."""
    try:
        for _ in range(count):
            await client.send(data)
    except Gone:
        pass


FLOODS = {
    "SETTINGS": frame(SETTINGS) * 100,
    "acknowledged SETTINGS": frame(SETTINGS, 1) * 100,
    "SETTINGS that change the window": frame(SETTINGS, 0, 0, b"\x00\x04\x00\x00\x10\x00") * 100,
    "PING": frame(PING, 0, 0, b"12345678") * 100,
    "PRIORITY": frame(PRIORITY, 0, 5, b"\x00\x00\x00\x00\x10") * 100,
    "WINDOW_UPDATE": frame(WINDOW_UPDATE, 0, 0, ONE) * 100,
    "frames of an unknown kind": frame(0xBA, 0, 0, b"grease") * 100,
}


@pytest.mark.parametrize("data", FLOODS.values(), ids=FLOODS)
async def test_a_flood_of_frames_ends_its_connection_and_no_other(data: bytes, tmp_path: Path) -> None:
    async with http2(hello, tmp_path) as (site, client):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pour, client, data)
            await client.closed()
        await eventually(lambda: site.server.statistics().connections == 0)
        assert site.server.statistics().refused_total == 1


async def test_the_client_is_told_to_calm_down(tmp_path: Path) -> None:
    async with http2(hello, tmp_path) as (_, client):
        await client.send(frame(PING, 0, 0, b"12345678") * 300)
        await client.until(lambda: client.goaway is not None)
        assert client.goaway == ENHANCE_YOUR_CALM
        assert b"control frames" in client.reason


async def test_others_are_served_while_one_floods(tmp_path: Path) -> None:
    server, context = certificate(tmp_path)
    async with serving(hello, tls=server) as site, connect(site, context) as bad, connect(site, context) as good:
        await bad.begin()
        await good.begin()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pour, bad, FLOODS["PING"])
            assert [(await good.get()).status for _ in range(20)] == [200] * 20
            await bad.closed()
        assert (await good.get()).status == 200


async def test_an_ordinary_client_has_enough_of_everything(tmp_path: Path) -> None:
    async with http2(hello, tmp_path) as (_, client):
        for _ in range(300):
            client.h2.ping(b"12345678")
            client.h2.increment_flow_control_window(1)
            assert (await client.get()).status == 200
        assert client.goaway is None


async def test_requests_that_are_reset_at_once_end_the_connection(tmp_path: Path) -> None:
    running = peak = 0

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running, peak
        if scope["type"] != "http":
            return
        running += 1
        peak = max(peak, running)
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
            await anyio.sleep(0.01)  # what a handler takes to clean up
        finally:
            running -= 1

    async with http2(slow, tmp_path, http2_streams=20) as (site, client):

        async def flood() -> None:
            for number in range(
                1, 2001, 2
            ):  # each goes before the end of the one before: with its own it would not be begun
                before = frame(RST_STREAM, 0, number - 2, ONE) if number > 1 else b""
                await pour(client, before + frame(HEADERS, END_HEADERS | END_STREAM, number, HEAD), 1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flood)
            await client.closed()
        await eventually(lambda: not running)
        assert site.server.statistics().requests_total < 400
    assert 0 < peak <= 20


async def test_one_request_too_many_at_once_is_refused_and_may_be_repeated(tmp_path: Path) -> None:
    go_on = anyio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await go_on.wait()
        await hello(scope, receive, send)

    async with http2(wait, tmp_path, http2_streams=3) as (_, client):
        assert client.h2.remote_settings.max_concurrent_streams == 3
        kept = [await client.ask() for _ in range(3)]
        go_on.set()
        assert [(await client.answer(number)).status for number in kept] == [200] * 3
        assert (await client.get()).status == 200


HEADS = {
    "many small pieces": frame(HEADERS, END_STREAM, 1, HEAD) + frame(CONTINUATION, 0, 1, b"") * 1000,
    "large pieces": frame(HEADERS, END_STREAM, 1, HEAD)
    + frame(CONTINUATION, 0, 1, b"\x40\x0a" + b"x" * 10 + b"\x7f" + bytes(8000)) * 20,
    "one that is too large": frame(HEADERS, END_STREAM, 1, HEAD + bytes(16_384 - len(HEAD)))
    + frame(CONTINUATION, 0, 1, b"x"),
    # An entry of the dynamic table of 4,000 bytes, referred to again and again: 60 bytes become 200 KiB.
    "a small one that becomes large": frame(
        HEADERS,
        END_STREAM | END_HEADERS,
        1,
        HEAD + b"\x40\x01y\x7f\xa1\x1e" + b"z" * 4000 + b"\xbe" * 50,
    ),
}


@pytest.mark.parametrize("data", HEADS.values(), ids=HEADS)
async def test_a_head_without_bounds_ends_the_connection(data: bytes, tmp_path: Path) -> None:
    async with http2(hello, tmp_path) as (site, client):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pour, client, data, 1)
            await client.closed()
        assert site.server.statistics().requests_total == 0
        await eventually(lambda: site.server.statistics().connections == 0)


async def test_empty_frames_of_a_body_end_the_connection(tmp_path: Path) -> None:
    async with http2(hello, tmp_path) as (site, client):
        number = await client.ask("/", "POST", end=False)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pour, client, frame(DATA, 0, number) * 100)
            await client.closed()
        assert site.server.statistics().refused_total == 1


@pytest.mark.parametrize("data", [b"PRI", PREFACE[:-1] + b"x", b"\xff" * 100], ids=["short", "wrong", "noise"])
async def test_a_preface_that_is_none_ends_the_connection(data: bytes, tmp_path: Path) -> None:
    server, context = certificate(tmp_path)
    async with serving(hello, tls=server, head_timeout_s=0.2) as site, connect(site, context) as client:
        await client.send(data)
        await client.closed()
        await eventually(lambda: site.server.statistics().connections == 0)


# --- slow clients ----------------------------------------------------------------------------------------------------


async def dribble(client: Http2Client, data: bytes) -> None:
    try:
        while True:
            await client.send(data)
            await anyio.sleep(0.03)
    except Gone:
        pass


async def test_a_head_that_does_not_end_is_closed_by_its_deadline(tmp_path: Path) -> None:
    async with http2(hello, tmp_path, head_timeout_s=0.2) as (_, client):
        await client.send(frame(HEADERS, END_STREAM, 1, HEAD))
        await client.closed()


async def test_a_frame_that_dribbles_is_closed_by_its_deadline(tmp_path: Path) -> None:
    async with http2(hello, tmp_path, head_timeout_s=0.2) as (_, client):
        await client.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, HEAD + bytes(5000))[:20])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dribble, client, b"\x00")
            await client.closed()
            tasks.cancel_scope.cancel()


async def test_a_body_that_dribbles_is_closed_by_its_deadline(tmp_path: Path) -> None:
    async with http2(hello, tmp_path, read_timeout_s=0.2) as (site, client):
        number = await client.ask("/", "POST", end=False)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dribble, client, frame(DATA, 0, number, b"x"))
            await client.closed()
            tasks.cancel_scope.cancel()
        assert site.server.statistics().refused_total == 1


async def endless(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(400):
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})


@pytest.mark.parametrize("window", [0, 1000, 65535])
async def test_a_client_that_makes_no_room_for_its_answer_is_dropped(window: int, tmp_path: Path) -> None:
    async with http2(endless, tmp_path, window=window, write_timeout_s=0.2) as (site, client):
        client.takes = False
        await client.ask()
        await eventually(lambda: site.server.statistics().stalled_total == 1)
        await eventually(lambda: site.server.statistics().connections == 0)


async def test_a_client_that_makes_room_for_a_byte_at_a_time_is_dropped(tmp_path: Path) -> None:
    async with http2(endless, tmp_path, window=0, write_timeout_s=0.3) as (site, client):
        client.takes = False
        number = await client.ask()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dribble, client, frame(WINDOW_UPDATE, 0, number, ONE))
            await eventually(lambda: site.server.statistics().connections == 0)
            tasks.cancel_scope.cancel()
        assert site.server.statistics().stalled_total == 1


async def test_a_client_that_reads_nothing_at_all_is_dropped(tmp_path: Path) -> None:
    async with http2(endless, tmp_path, window=2**31 - 1, write_timeout_s=0.3) as (site, client):
        client.h2.increment_flow_control_window(2**30)
        await client.ask()
        await eventually(lambda: site.server.statistics().connections == 0)
        assert site.server.statistics().stalled_total == 1


async def test_answers_to_pings_that_nobody_reads_do_not_pile_up(tmp_path: Path) -> None:
    """What the server would send is bounded by the budget of control frames, whatever the client reads."""
    async with http2(hello, tmp_path) as (site, client):
        with anyio.fail_after(PATIENCE_S):
            await pour(client, frame(PING, 0, 0, b"12345678") * 1000, 20)
        await eventually(lambda: site.server.statistics().connections == 0)
