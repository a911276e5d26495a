"""What the server does not let in: two readings of one message, sizes without a bound, and other protocols."""

import contextlib
import json
from typing import Any

import anyio
import pytest

from fissile_gateway._documents.answers import component_responses

from .conftest import eventually, hello, serving

GET = b"GET / HTTP/1.1\r\nHost: test\r\n"
POST = b"POST / HTTP/1.1\r\nHost: test\r\n"

REFUSED = {
    "both length fields": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "both length fields the other way": (
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        400,
    ),
    "chunked in HTTP/1.0": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
    "a signed length": (POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "an unknown transfer encoding": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "a chunk size that is none": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", 400),
    "bare LF everywhere": (b"GET / HTTP/1.1\nHost: test\n\n", 400),
    "bare LF in one line": (b"GET / HTTP/1.1\r\nHost: test\nX: y\r\n\r\n", 400),
    "bare LF before the end": (b"GET / HTTP/1.1\r\nHost: test\n", 400),
    "a folded field": (GET + b"X: a\r\n b\r\n\r\n", 400),
    "a field folded by a tab": (GET + b"X: a\r\n\tb\r\n\r\n", 400),
    "a space before the colon": (GET + b"X : a\r\n\r\n", 400),
    "a NUL in a field": (GET + b"X: a\x00\r\n\r\n", 400),
    "a bare CR in a field": (GET + b"X: a\rb\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (GET + b"Host: other\r\n\r\n", 400),
    "no version": (b"GET /\r\n\r\n", 400),
    "the first bytes of TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "the HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a version that is not 1.x": (b"GET / HTTP/2.0\r\nHost: test\r\n\r\n", 505),
    "CONNECT": (b"CONNECT test:80 HTTP/1.1\r\nHost: test\r\n\r\n", 501),
    "an expectation that is not 100-continue": (POST + b"Expect: banana\r\nContent-Length: 1\r\n\r\n", 417),
    "a head of 17 KiB in one write": (GET + b"X: " + b"a" * 17_000 + b"\r\n\r\n", 431),
    "a head of 60 KiB in one write": (GET + b"X: aaaaaaaa\r\n" * 5_000 + b"\r\n", 431),
    "a head that never ends": (GET + b"X: " + b"a" * 17_000, 431),
    "101 fields": (GET + b"X: a\r\n" * 100 + b"\r\n", 431),
    "9,000 fields behind a body": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a:b\r\n" * 9_000 + b"\r\n",
        431,
    ),
    "101 fields behind a body": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a:b\r\n" * 101 + b"\r\n",
        431,
    ),
    "17 KiB behind a body": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\na:" + b"b" * 17_000 + b"\r\n\r\n",
        431,
    ),
    "what never ends behind a body": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\na:" + b"b" * 17_000, 431),
    "a chunk size of 21 digits": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 20 + b"1\r\nx", 400),
    "a chunk size that never ends": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 17_000, 431),
    "an announced body that is too large": (POST + b"Content-Length: 1048577\r\n\r\n", 413),
    "an absurd length": (POST + b"Content-Length: " + b"9" * 20 + b"\r\n\r\n", 413),
}


async def test_a_body_that_the_server_refuses_is_told_as_the_gateway_would_tell_it() -> None:
    async with serving(hello) as site, site.connect() as client:
        await client.send(POST + b"Content-Length: 1048577\r\n\r\n")
        document = json.loads((await client.answer()).body)
    assert (document["type"], document["title"]) == ("/problems/body-too-large", "Body too large")


@pytest.mark.parametrize(("request_bytes", "status"), REFUSED.values(), ids=REFUSED)
async def test_it_is_refused_and_the_connection_closed(request_bytes: bytes, status: int) -> None:
    async with serving(hello) as site, site.connect() as client:
        await client.send(request_bytes)
        answer = await client.answer()
        assert answer.status == status
        assert answer.fields["content-type"] == "application/problem+json"
        assert answer.fields["connection"] == "close"
        document = json.loads(answer.body)
        assert document.keys() == {"type", "title", "status", "detail"}
        assert document["status"] == status
        name = document["type"].removeprefix("/problems/")
        told: str = component_responses()[f"Problem-{status}"]["description"]
        assert f"`{name}`" in told  # the problem is one that the OpenAPI document names
        assert await client.closed() == b""
        assert site.server.statistics().refused_total == 1
        assert site.server.statistics().requests_total <= 1


ACCEPTED = {
    "100 fields": (GET + b"X: a\r\n" * 99 + b"\r\n", b"0"),
    "a head of almost 16 KiB": (GET + b"X: " + b"a" * 16_300 + b"\r\n\r\n", b"0"),
    "a body as large as allowed": (POST + b"Content-Length: 1048576\r\n\r\n" + bytes(1024 * 1024), b"1048576"),
    "a chunked body": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3;x=y\r\nyou\r\n0\r\nT: t\r\n\r\n",
        b"8",
    ),
    "100 fields behind a body": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n" + b"T: t\r\n" * 100 + b"\r\n",
        b"5",
    ),
    "a body of chunks of one byte": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 30_000 + b"0\r\n\r\n",
        b"30000",
    ),
    "an upgrade to what we do not speak": (GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", b"0"),
    "LF in a body": (POST + b"Content-Length: 4\r\n\r\n\n\n\r\n", b"4"),
}


@pytest.mark.parametrize(("request_bytes", "body"), ACCEPTED.values(), ids=ACCEPTED)
async def test_it_is_accepted_and_the_next_request_too(request_bytes: bytes, body: bytes) -> None:
    async with serving(hello) as site, site.connect() as client:
        for _ in range(2):
            await client.send(request_bytes)
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, body)


async def test_the_second_request_of_one_write_is_judged_like_the_first() -> None:
    async with serving(hello) as site, site.connect() as client:
        await client.send(GET + b"\r\n" + b"GET / HTTP/1.1\nHost: test\n\n")
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 400
        assert await client.closed() == b""


async def test_a_head_may_come_byte_by_byte() -> None:
    async with serving(hello) as site, site.connect() as client:
        for byte in GET + b"\r\n":
            await client.send(bytes([byte]))
        assert (await client.answer()).status == 200


async def test_a_chunked_body_is_cut_at_the_bound_and_the_application_told() -> None:
    seen: list[str] = []

    async def reader(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            while (message := await receive())["type"] == "http.request":
                pass
            seen.append(message["type"])

    async with serving(reader, max_body_bytes=100_000) as site, site.connect() as client:
        await client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(4):
            await client.send(b"8000\r\n" + bytes(0x8000) + b"\r\n")
        assert (await client.answer()).status == 413
        await client.closed()
        await eventually(lambda: seen)
    assert seen == ["http.disconnect"]


async def test_a_body_that_is_nothing_but_extensions_of_chunks_is_refused() -> None:
    async with serving(hello) as site, site.connect() as client, anyio.create_task_group() as tasks:
        await client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")

        async def push() -> None:
            with contextlib.suppress(anyio.BrokenResourceError):
                while True:
                    await client.send(b"1;" + b"x" * 8000 + b"\r\nx\r\n")

        tasks.start_soon(push)
        assert (await client.answer()).status == 400
        await eventually(lambda: site.server.statistics().connections == 0)
        tasks.cancel_scope.cancel()


async def test_a_request_of_http_0_9_is_no_request() -> None:
    async with serving(hello, head_timeout_s=0.2) as site, site.connect() as client:
        await client.send(b"GET /\r\n")
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (408, "close")
        assert await client.closed() == b""
        assert site.server.statistics().requests_total == 0


async def test_trace_ends_its_connection() -> None:
    async with serving(hello) as site, site.connect() as client:
        await client.send(b"TRACE / HTTP/1.1\r\nHost: test\r\n\r\n" + GET + b"\r\n")
        assert (await client.answer()).fields["connection"] == "close"
        assert await client.closed() == b""
        assert site.server.statistics().requests_total == 1


async def test_an_expected_100_continue_is_sent_before_the_body() -> None:
    async with serving(hello) as site, site.connect() as client:
        await client.send(POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        await client.send(b"abc")
        assert (await client.answer()).body == b"3"


async def test_a_body_refused_by_its_length_is_not_asked_for() -> None:
    async with serving(hello) as site, site.connect() as client:
        await client.send(POST + b"Expect: 100-continue\r\nContent-Length: 9999999\r\n\r\n")
        assert (await client.answer()).status == 413


async def test_the_answer_arrives_although_the_client_is_still_sending() -> None:
    async def push(client: Any) -> None:
        try:
            for _ in range(100):
                await client.send(bytes(16 * 1024))
        except anyio.BrokenResourceError:
            pass

    async with serving(hello) as site, site.connect() as client, anyio.create_task_group() as tasks:
        await client.send(POST + b"Content-Length: 1638400\r\n\r\n")
        tasks.start_soon(push, client)
        assert (await client.answer()).status == 413


async def test_websocket_frames_before_the_handshake_end_the_connection() -> None:
    seen: list[str] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            seen.append((await receive())["type"])
            seen.append((await receive())["type"])

    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with serving(slow) as site, site.connect() as client:
        await client.send(GET + upgrade)
        await eventually(lambda: seen)
        await client.send(b"x")
        assert (await client.answer()).status == 400
        await client.closed()
        await eventually(lambda: len(seen) == 2)
    assert seen == ["websocket.connect", "websocket.disconnect"]
