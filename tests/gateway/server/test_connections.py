"""When a connection stays and when it ends."""

import socket
from typing import Any

import anyio
import pytest
from quart import websocket

from fissile_gateway._server import HttpServer, PortTaken, ServerSettings, StartupFailed

from .conftest import MakeQuart, eventually, hello, serving


@pytest.fixture(params=["plain", "quart"])
def app(request: pytest.FixtureRequest, make_quart: MakeQuart) -> Any:
    """Quart-Trio leaves its request as soon as it hears of the disconnect, which other applications do not."""
    if request.param == "plain":
        return hello
    quart = make_quart()

    @quart.get("/")
    async def index() -> str:
        return "0"

    return quart


async def test_a_connection_serves_one_request_after_another(app: Any) -> None:
    async with serving(app) as site, site.connect() as client:
        for _ in range(5):
            answer = await client.get()
            assert (answer.status, answer.body) == (200, b"0")
            assert "connection" not in answer.fields
        assert site.server.statistics().connections_total == 1
        assert site.server.statistics().requests_total == 5


async def test_a_thousand_pipelined_requests_are_answered(app: Any) -> None:
    async with serving(app) as site, site.connect() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.send, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n" * 1000)
        for _ in range(1000):
            assert (await client.answer()).status == 200


async def test_connection_close_is_honoured(app: Any) -> None:
    async with serving(app) as site, site.connect() as client:
        answer = await client.get("/", "Connection: close")
        assert answer.fields["connection"] == "close"
        assert await client.closed() == b""


async def test_a_connection_ends_after_so_many_requests_and_its_last_answer_says_so(app: Any) -> None:
    async with serving(app, keep_alive_requests=3) as site:
        for _ in range(2):
            async with site.connect() as client:
                await client.send(
                    b"GET / HTTP/1.1\r\nHost: test\r\n\r\n" * 4
                )  # what follows the last one is for the next connection
                answers = [await client.answer() for _ in range(3)]
                assert [answer.status for answer in answers] == [200, 200, 200]
                assert [answer.fields.get("connection") for answer in answers] == [None, None, "close"]
                assert await client.closed() == b""
        assert site.server.statistics().requests_total == 6


async def test_http_1_0_is_answered_and_closed(app: Any) -> None:
    async with serving(app) as site, site.connect() as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.answer()).body == b"0"
        assert await client.closed() == b""


async def test_an_idle_connection_is_closed_after_its_time(app: Any) -> None:
    async with serving(app, keep_alive_s=0.2) as site, site.connect() as client:
        assert (await client.get()).status == 200
        assert await client.closed() == b""
        await eventually(lambda: site.server.statistics().connections == 0)


async def test_a_connection_that_never_asks_is_closed_silently(app: Any) -> None:
    async with serving(app, head_timeout_s=0.2) as site, site.connect() as client:
        assert await client.closed() == b""


async def test_an_upgrade_to_http_2_is_ignored(app: Any) -> None:
    fields = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"]
    async with serving(app) as site, site.connect() as client:
        assert (await client.get("/", *fields)).status == 200
        assert (await client.get()).status == 200


async def test_one_connection_above_the_limit_is_told_so() -> None:
    async with serving(hello, max_connections=2) as site, site.connect() as first, site.connect() as second:
        assert (await first.get()).status == (await second.get()).status == 200
        async with site.connect() as third:
            answer = await third.answer()
            assert answer.status == 503
            assert answer.fields["content-type"] == "application/problem+json"
            assert await third.closed() == b""
        assert (await first.get()).status == 200


async def test_a_place_that_becomes_free_is_taken_again() -> None:
    async with serving(hello, max_connections=1) as site:
        for _ in range(3):
            assert (await site.get()).status == 200
            await eventually(lambda: site.server.statistics().connections == 0)


async def deaf(scope: Any, receive: Any, send: Any) -> None:
    """Answer without a look at the body."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})


@pytest.mark.usefixtures("hurried")
async def test_a_body_that_nobody_reads_does_not_keep_the_connection() -> None:
    async with serving(deaf) as site, site.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n")
        await client.send(bytes(999_999))
        assert (await client.answer()).status == 401
        await client.closed()
        await eventually(lambda: site.server.statistics().connections == 0)


@pytest.mark.parametrize("more", [b"", b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"])
async def test_a_small_body_that_comes_after_the_answer_is_passed_over_for_the_next_request(more: bytes) -> None:
    async with serving(deaf) as site, site.connect() as client:
        for number in range(3):
            await client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n")
            answer = await client.answer()
            assert (answer.status, answer.fields.get("connection")) == (401, None)
            await client.send(b"01234")
            await client.send(b"56789" + more)
            if more:
                assert (await client.answer()).status == 401
            assert site.server.statistics().requests_total == (number + 1) * (2 if more else 1)
        assert site.server.statistics().connections_total == 1


@pytest.mark.parametrize("framing", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
async def test_where_much_of_a_body_is_missing_the_answer_says_that_the_connection_ends(framing: str) -> None:
    async with serving(deaf) as site, site.connect() as client:
        await client.send(f"POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n".encode())
        answer = await client.answer()
        assert (answer.status, answer.fields.get("connection")) == (401, "close")
        assert await client.closed() == b""


async def test_a_body_that_never_comes_after_the_answer_ends_the_connection() -> None:
    async with serving(deaf, read_timeout_s=0.2) as site, site.connect() as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n")
        assert (await client.answer()).status == 401
        assert await client.closed() == b""


async def test_an_error_of_the_application_is_a_problem_and_nothing_worse(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("oops")

    async with serving(broken) as site, site.connect() as client:
        for _ in range(2):
            answer = await client.get()
            assert answer.status == 500
            assert answer.fields["content-type"] == "application/problem+json"
            assert b"oops" not in answer.body
    assert [record.name for record in caplog.records if record.levelname == "ERROR"] == ["fissile.gateway.server"] * 2


async def test_a_taken_port_is_said_in_one_line_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            await HttpServer(_must_not_start, ServerSettings(port=port)).serve()
    text = str(caught.value)
    assert "\n" not in text
    assert all(part in text for part in ("127.0.0.1", str(port), "FISSILE_PORT=9000"))


async def test_a_failed_startup_is_raised_and_nothing_listens() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    started: list[object] = []
    with pytest.raises(StartupFailed, match="no database"):
        await HttpServer(failing, ServerSettings(port=0)).serve(started=started.append)
    assert started == []


async def test_the_hooks_of_quart_run_around_serving(make_quart: MakeQuart) -> None:
    quart = make_quart()
    seen: list[str] = []
    quart.before_serving(lambda: seen.append("before"))
    quart.after_serving(lambda: seen.append("after"))
    async with serving(quart) as site:
        assert seen == ["before"]
        await site.drained()
    assert seen == ["before", "after"]


async def test_the_server_writes_nothing_to_the_terminal(
    make_quart: MakeQuart, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving(make_quart()) as site:
        answer = await site.get()
        assert answer.status == 404
        assert "server" not in answer.fields
        assert "date" in answer.fields
        await site.drained()
    assert capfd.readouterr() == ("", "")


async def test_a_websocket_speaks_and_ends_although_its_client_does_not_answer_the_close(make_quart: MakeQuart) -> None:
    quart = make_quart()

    @quart.websocket("/echo")
    async def echo() -> None:
        await websocket.send(await websocket.receive())

    async with serving(quart, keep_alive_s=0.3) as site, site.connect() as client:
        await client.send(WEBSOCKET_UPGRADE)
        assert (await client.answer()).status == 101
        await client.send(b"\x81\x82\x00\x00\x00\x00hi")
        assert (await client.until(b"hi")).endswith(b"\x81\x02hi")
        assert (await client.closed())[:1] == b"\x88"


async def test_a_websocket_that_was_closed_waits_for_its_client_only_so_long() -> None:
    seen: list[str] = []

    async def closing(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": 1000})
            seen.append((await receive())["type"])

    async with serving(closing, keep_alive_s=0.2) as site, site.connect() as client:
        await client.send(WEBSOCKET_UPGRADE)
        assert (await client.answer()).status == 101
        await client.closed()
        await eventually(lambda: seen)
    assert seen == ["websocket.disconnect"]


async def test_a_message_of_a_websocket_that_is_too_large_ends_it(make_quart: MakeQuart) -> None:
    quart = make_quart()
    seen: list[int] = []

    @quart.websocket("/echo")
    async def echo() -> None:
        while True:
            seen.append(len(await websocket.receive()))

    async with serving(quart, max_body_bytes=1000, keep_alive_s=0.2) as site, site.connect() as client:
        await client.send(WEBSOCKET_UPGRADE)
        assert (await client.answer()).status == 101
        await client.send(frame(0x82, 1000) + frame(0x02, 600) + frame(0x80, 600))  # one whole, and one in two parts
        assert await client.until((1009).to_bytes(2, "big"))  # too big (RFC 6455, 7.4.1)
        await client.closed()  # although the client does not answer
        await eventually(lambda: site.server.statistics().connections == 0)
    assert seen == [1000]


def frame(first: int, size: int) -> bytes:
    """Write a frame of zeros as a client does: masked."""
    return bytes([first, 0x80 | 126]) + size.to_bytes(2, "big") + bytes(4 + size)


async def test_a_websocket_is_not_compressed(make_quart: MakeQuart) -> None:
    """A message of a kilobyte could be one of a megabyte."""
    quart = make_quart()

    @quart.websocket("/echo")
    async def echo() -> None:
        await websocket.send(await websocket.receive())

    async with serving(quart) as site, site.connect() as client:
        await client.send(WEBSOCKET_UPGRADE[:-2] + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
        answer = await client.answer()
        assert answer.status == 101
        assert "sec-websocket-extensions" not in answer.fields
        await client.send(b"\x81\x82\x00\x00\x00\x00hi")
        assert (await client.until(b"hi")).endswith(b"\x81\x02hi")


async def test_connections_wait_in_the_kernel_while_the_process_is_busy() -> None:
    async with serving(hello) as site:
        # Nothing else runs meanwhile: none is accepted, and the kernel takes them all. With a backlog of 100, the 102nd would have to wait.
        clients = [socket.create_connection(site.address, timeout=5) for _ in range(300)]
        for client in clients:
            client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        await eventually(lambda: site.server.statistics().requests_total == len(clients))
        await eventually(lambda: site.server.statistics().connections == 0)
        for client in clients:
            with client:
                assert client.recv(100).startswith(b"HTTP/1.1 200")


WEBSOCKET_UPGRADE = (
    b"GET /echo HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def _must_not_start(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("started")
