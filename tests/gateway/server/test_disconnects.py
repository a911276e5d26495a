"""A client that leaves takes its request along."""

from typing import Any, cast

import anyio
import pytest
from quart import Response

from .conftest import PATIENCE_S, MakeQuart, eventually, reset, serving

GET = b"GET / HTTP/1.1\r\nHost: test\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        GET + b"\r\n",
        GET + b"\r\n" + GET + b"\r\n",
        GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nab",
    ],
    ids=["alone", "with the next request behind it", "with an upgrade", "in the middle of the body"],
)
@pytest.mark.parametrize("politely", [True, False], ids=["closed", "reset"])
async def test_the_handler_of_a_client_that_leaves_is_cancelled(
    make_quart: MakeQuart, request_bytes: bytes, politely: bool
) -> None:
    quart = make_quart()
    begun, ended = anyio.Event(), anyio.Event()

    @quart.route("/", methods=["GET", "POST"])
    async def index() -> str:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        return "never"

    async with serving(quart) as site:
        async with site.connect() as client:
            await client.send(request_bytes)
            with anyio.fail_after(PATIENCE_S):
                await begun.wait()
            if not politely:
                reset(client)
        with anyio.fail_after(PATIENCE_S):
            await ended.wait()
        await eventually(lambda: site.server.statistics().connections == 0)


async def test_an_application_hears_of_the_disconnect_and_may_finish() -> None:
    seen: list[str] = []

    async def listener(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            while (message := await receive())["type"] == "http.request":
                seen.append("request")
            seen.append(message["type"])
            seen.append((await receive())["type"])

    async with serving(listener) as site:
        async with site.connect() as client:
            await client.send(GET + b"\r\n")
            await eventually(lambda: seen)
        await eventually(lambda: len(seen) == 3)
        await eventually(lambda: site.server.statistics().connections == 0)
    assert seen == ["request", "http.disconnect", "http.disconnect"]


async def test_an_endless_answer_to_nobody_ends_with_an_error_in_the_application() -> None:
    errors: list[Exception] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            try:
                while True:
                    await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
            except OSError as error:
                errors.append(error)
                raise

    async with serving(endless) as site:
        async with site.connect() as client:
            await client.send(GET + b"\r\n")
            await client.until(b"tick\n")
        await eventually(lambda: errors)
        await eventually(lambda: site.server.statistics().connections == 0)


async def test_nothing_is_logged_about_clients_that_leave(
    make_quart: MakeQuart, caplog: pytest.LogCaptureFixture
) -> None:
    quart = make_quart()

    @quart.get("/")
    async def index() -> Response:
        async def lines() -> Any:
            while True:
                await anyio.sleep(0.001)
                yield b"line\n"

        response = cast("Response", await quart.make_response(lines()))
        response.timeout = None
        return response

    async with serving(quart) as site:
        for phase in (b"", b"GET", GET + b"\r\n"):
            async with site.connect() as client:
                if phase:
                    await client.send(phase)
                if phase.endswith(b"\r\n"):
                    await client.until(b"line\n")
                reset(client)
        await eventually(lambda: site.server.statistics().connections_total == 3)
        await eventually(lambda: site.server.statistics().connections == 0)
    assert not caplog.records
