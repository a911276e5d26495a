"""HTTP/2 over TLS: what works, and what is refused one request at a time."""

from __future__ import annotations

import ssl
import warnings
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from .conftest import PATIENCE_S, MakeQuart, eventually, hello, serving
from .http2 import DATA, RST_STREAM, certificate, connect, frame, http2

PIECE = bytes(64 * 1024)


async def test_a_request_is_answered_and_the_connection_serves_another(tmp_path: Path) -> None:
    async with http2(hello, tmp_path) as (site, client):
        for _ in range(3):
            answer = await client.get()
            assert (answer.status, answer.body) == (200, b"0")
            assert "server" not in answer.fields
        assert site.server.statistics().requests_total == 3


async def test_the_application_sees_the_version_the_scheme_and_the_host(tmp_path: Path) -> None:
    scopes: list[Any] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await hello(scope, receive, send)

    async with http2(look, tmp_path) as (_, client):
        await client.get("/a%20b?c=d", x_one="two")
    scope = next(scope for scope in scopes if scope["type"] == "http")
    assert (scope["http_version"], scope["scheme"], scope["path"]) == ("2", "https", "/a b")
    assert (scope["query_string"], scope["raw_path"]) == (b"c=d", b"/a%20b")
    assert (b"host", b"localhost") in scope["headers"]
    assert (b"x-one", b"two") in scope["headers"]
    assert not any(name.startswith(b":") for name, _ in scope["headers"])
    assert "http.response.push" not in scope["extensions"]


async def test_http_1_1_is_spoken_over_tls_with_who_wants_it(tmp_path: Path) -> None:
    server, client = certificate(tmp_path)
    async with serving(hello, tls=server) as site, connect(site, client, alpn="http/1.1") as connection:
        for _ in range(2):
            await connection.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await connection.stream.receive()).startswith(b"HTTP/1.1 200")


async def test_a_body_arrives_whole_and_in_order(tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def collect(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            body = b""
            while (message := await receive())["type"] == "http.request":
                body += message["body"]
                if not message["more_body"]:
                    break
            seen.append(body)
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    body = bytes(range(256)) * 1200  # several windows
    async with http2(collect, tmp_path) as (_, client):
        number = await client.ask("/", "POST", end=False)
        left = body
        while left:
            await client.until(lambda: client.h2.local_flow_control_window(number) > 0)
            part = left[: min(client.h2.local_flow_control_window(number), 16_000)]
            left = left[len(part) :]
            client.h2.send_data(number, part, end_stream=not left)
            await client.flush()
        assert (await client.answer(number)).status == 204
    assert seen == [body]


async def test_many_requests_are_answered_at_once_in_any_order(tmp_path: Path) -> None:
    go_on = anyio.Event()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/slow":
            await go_on.wait()
        await hello(scope, receive, send)

    async with http2(wait, tmp_path) as (_, client):
        slow = await client.ask("/slow")
        assert [(await client.get()).status for _ in range(20)] == [200] * 20
        go_on.set()
        assert (await client.answer(slow)).status == 200


@pytest.mark.parametrize("kind", ["plain", "quart"])
async def test_a_large_answer_arrives_whole(tmp_path: Path, kind: str, make_quart: MakeQuart) -> None:
    async def plain(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": PIECE * 20, "more_body": True})
            await send({"type": "http.response.body", "body": b"end"})

    quart = make_quart()

    @quart.get("/")
    async def index() -> bytes:
        return PIECE * 20 + b"end"

    async with http2(plain if kind == "plain" else quart, tmp_path) as (_, client):
        assert (await client.get()).body == PIECE * 20 + b"end"


async def test_a_handler_whose_request_is_reset_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    seen: list[str] = []
    started = anyio.Event()

    async def listen(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/listen":
            await receive()
            started.set()
            seen.append((await receive())["type"])
        else:
            await hello(scope, receive, send)

    async with http2(listen, tmp_path) as (_, client):
        number = await client.ask("/listen")
        with anyio.fail_after(PATIENCE_S):
            await started.wait()
        client.h2.reset_stream(number)
        await client.flush()
        await eventually(lambda: seen)
        assert (await client.get()).status == 200
    assert seen == ["http.disconnect"]


async def test_an_endless_answer_to_a_request_that_was_reset_ends(tmp_path: Path) -> None:
    ended: list[type] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await anyio.lowlevel.checkpoint()
        except ConnectionError as error:
            ended.append(type(error))

    async with http2(endless, tmp_path) as (_, client):
        number = await client.ask()
        await client.until(lambda: client.answers[number].body)
        client.h2.reset_stream(number)
        await client.flush()
        await eventually(lambda: ended)


REFUSED: dict[str, tuple[str, str, dict[str, str], int]] = {
    "CONNECT": ("/", "CONNECT", {}, 501),
    "a URL that is too long": ("/" + "a" * 9000, "GET", {}, 414),
    "a body that is announced too large": ("/", "POST", {"content_length": "1048577"}, 413),
    "an expectation that is not 100-continue": ("/", "GET", {"expect": "banana"}, 417),
    "too many fields": ("/", "GET", {f"x-{number}": "a" for number in range(101)}, 431),
}


@pytest.mark.parametrize(("path", "method", "fields", "status"), REFUSED.values(), ids=REFUSED)
async def test_it_is_refused_and_the_connection_goes_on(
    path: str, method: str, fields: dict[str, str], status: int, tmp_path: Path
) -> None:
    async with http2(hello, tmp_path) as (site, client):
        number = await client.ask(path, method, end="content_length" not in fields, **fields)
        await client.until(lambda: client.answers[number].is_complete)
        answer = client.answers[number]
        assert answer.status == status
        assert answer.fields["content-type"] == "application/problem+json"
        assert (await client.get()).status == 200
        assert site.server.statistics().requests_total == 1


async def test_a_body_that_grows_too_large_is_a_413_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with http2(hello, tmp_path, max_body_bytes=20_000) as (_, client):
        number = await client.ask("/", "POST", end=False)
        for _ in range(3):
            client.h2.send_data(number, bytes(10_000))
        await client.flush()
        await client.until(lambda: client.answers[number].reset is not None)
        assert client.answers[number].status == 413
        assert (await client.get()).status == 200


async def test_data_for_a_request_that_was_answered_is_let_by(tmp_path: Path) -> None:
    async def early(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
            await send({"type": "http.response.body", "body": b""})

    async with http2(early, tmp_path) as (_, client):
        number = await client.ask("/", "POST", end=False)
        await client.until(lambda: client.answers[number].is_complete)
        await client.send(frame(DATA, 0, number, bytes(1000)))
        assert (await client.get()).status == 200


async def test_a_body_that_nobody_reads_holds_up_no_other_request(tmp_path: Path) -> None:
    is_over = anyio.Event()

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/deaf":
            await is_over.wait()
        await hello(scope, receive, send)

    async with http2(deaf, tmp_path) as (_, client):
        number = await client.ask("/deaf", "POST", end=False)
        while client.h2.local_flow_control_window(number):
            client.h2.send_data(number, bytes(min(client.h2.local_flow_control_window(number), 16_000)))
        await client.flush()
        assert (await client.get()).status == 200
        await client.send(frame(RST_STREAM, 0, number, bytes(4)))
        is_over.set()  # it would hold up the end of the server


async def test_a_request_in_progress_is_finished_while_the_server_drains_and_no_other_begins(tmp_path: Path) -> None:
    hanging, go_on = anyio.Event(), anyio.Event()

    async def hang(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            hanging.set()
            await go_on.wait()
        await hello(scope, receive, send)

    async with http2(hang, tmp_path) as (site, client):
        number = await client.ask()
        with anyio.fail_after(PATIENCE_S):
            await hanging.wait()
        site.server.drain()
        await client.until(lambda: client.h2.remote_settings.max_concurrent_streams == 0)
        go_on.set()
        assert (await client.answer(number)).status == 200
        await client.until(lambda: client.goaway is not None)
        assert client.goaway == 0
        await client.closed()
        with anyio.fail_after(PATIENCE_S):
            await site.returned.wait()


async def test_a_connection_ends_after_so_many_requests_when_none_is_in_progress(tmp_path: Path) -> None:
    hanging, go_on = anyio.Event(), anyio.Event()

    async def hang(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/hang":
            hanging.set()
            await go_on.wait()
        await hello(scope, receive, send)

    async with http2(hang, tmp_path, keep_alive_requests=2) as (_, client):
        number = await client.ask("/hang")
        with anyio.fail_after(PATIENCE_S):
            await hanging.wait()
        for _ in range(3):
            assert (await client.get()).status == 200
        assert client.goaway is None
        go_on.set()
        assert (await client.answer(number)).status == 200
        await client.until(lambda: client.goaway is not None)
        assert client.goaway == 0
        await client.closed()


async def test_an_idle_connection_is_closed_with_a_goodbye(tmp_path: Path) -> None:
    async with http2(hello, tmp_path, keep_alive_s=0.1) as (_, client):
        await client.get()
        await client.until(lambda: client.goaway is not None)
        assert client.goaway == 0
        await client.closed()


# --- TLS -------------------------------------------------------------------------------------------------------------


async def test_http_2_is_not_spoken_without_tls(tmp_path: Path) -> None:
    async with serving(hello) as site, site.connect() as client:
        await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4))
        assert (await client.answer()).status == 505
        await client.closed()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: test\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b"\x00" * 50])
async def test_what_is_no_tls_is_closed_and_the_server_goes_on(tmp_path: Path, data: bytes) -> None:
    server, context = certificate(tmp_path)
    async with serving(hello, tls=server) as site:
        async with site.connect() as client:
            await client.send(data)
            assert b"HTTP/1.1" not in await client.closed()
        async with connect(site, context) as connection:
            await connection.begin()
            assert (await connection.get()).status == 200


async def test_a_handshake_that_does_not_come_is_closed_by_its_deadline(tmp_path: Path) -> None:
    server, _ = certificate(tmp_path)
    async with serving(hello, tls=server, tls_handshake_s=0.1) as site, site.connect() as client:
        await client.send(b"\x16")
        assert await client.closed() == b""
        await eventually(lambda: not site.server.connections)


async def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    server, context = certificate(tmp_path)
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    async with serving(hello, tls=server) as site:
        with pytest.raises(ssl.SSLError):
            async with connect(site, context):
                pass


async def test_a_client_that_never_reads_is_dropped_over_tls_too(tmp_path: Path) -> None:
    async def flood(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(400):
                await send({"type": "http.response.body", "body": PIECE, "more_body": True})

    server, context = certificate(tmp_path)
    async with serving(flood, tls=server, write_timeout_s=0.2) as site:
        async with connect(site, context, alpn="http/1.1") as client:
            await client.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await eventually(lambda: site.server.statistics().stalled_total == 1)
        await eventually(lambda: not site.server.connections)


@pytest.mark.parametrize("last", ["reset", "goaway"])
async def test_a_request_that_expects_100_continue_and_is_given_up_at_once_is_not_begun(
    tmp_path: Path, last: str, caplog: pytest.LogCaptureFixture
) -> None:
    go_on, paths = anyio.Event(), list[str]()

    async def wait(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            paths.append(scope["path"])
            if scope["path"] == "/slow":
                await go_on.wait()
        await hello(scope, receive, send)

    async with http2(wait, tmp_path) as (_, client):
        slow = await client.ask("/slow")
        await eventually(lambda: paths == ["/slow"])
        given_up = client.h2.get_next_available_stream_id()
        head = [(":method", "POST"), (":path", "/given-up"), (":scheme", "https"), (":authority", "localhost")]
        client.h2.send_headers(given_up, [*head, ("expect", "100-continue")])
        if last == "reset":
            client.h2.reset_stream(given_up)
            await client.flush()
            assert (await client.get("/next")).status == 200
            go_on.set()
            assert (await client.answer(slow)).status == 200
            assert paths == ["/slow", "/next"]
        else:
            client.h2.close_connection()
            await client.flush()
            go_on.set()
            await client.closed()
            assert paths == ["/slow"]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
