"""How the server stops."""

import logging
from typing import Any, cast

import anyio
import pytest
from quart import Response, request

from fissile_gateway._server import DRAINING, HttpServer, ServerSettings

from .conftest import PATIENCE_S, MakeQuart, eventually, hello, serving

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


class Gate:
    """An application that answers when it is told to."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.open = anyio.Event()
        self.cancelled = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.begun.set()
            try:
                await self.open.wait()
            except anyio.get_cancelled_exc_class():
                self.cancelled = True
                raise
            await hello(scope, receive, send)


async def test_nobody_new_is_accepted_while_draining() -> None:
    gate = Gate()
    async with serving(gate) as site, site.connect() as client:
        await client.send(GET)
        await gate.begun.wait()
        site.server.drain()

        async def refused() -> bool:
            try:
                async with site.connect():
                    return False
            except OSError:
                return True

        with anyio.fail_after(PATIENCE_S):
            while not await refused():
                await anyio.sleep(0.01)
        assert not site.returned.is_set()
        gate.open.set()
        assert (await client.answer()).status == 200
        await site.drained()


async def test_a_request_in_progress_is_finished_and_its_connection_closed() -> None:
    gate = Gate()
    async with serving(gate) as site, site.connect() as client:
        await client.send(GET)
        await gate.begun.wait()
        site.server.drain()
        await anyio.wait_all_tasks_blocked()
        gate.open.set()
        answer = await client.answer()
        assert (answer.status, answer.body, answer.fields["connection"]) == (200, b"0", "close")
        assert await client.closed() == b""
        await site.drained()


async def test_a_head_in_progress_is_finished_too() -> None:
    async with serving(hello) as site, site.connect() as client, site.connect() as idle:
        await client.send(GET[:20])
        assert (await idle.get()).status == 200  # the other's bytes have arrived by then
        site.server.drain()
        assert await idle.closed() == b""
        await client.send(GET[20:])
        answer = await client.answer()
        assert (answer.status, answer.fields["connection"]) == (200, "close")
        await site.drained()


@pytest.mark.parametrize("requests", [0, 1], ids=["new", "used"])
async def test_an_idle_connection_is_closed_at_once(requests: int) -> None:
    async with serving(hello, keep_alive_s=600, head_timeout_s=600, drain_s=600) as site, site.connect() as client:
        for _ in range(requests):
            await client.get()
        await eventually(lambda: site.server.statistics().connections == 1)
        await site.drained()
        assert await client.closed() == b""


async def test_a_stream_that_heeds_the_hook_ends_by_itself(make_quart: MakeQuart) -> None:
    quart = make_quart()

    @quart.get("/")
    async def index() -> Response:
        draining = cast("anyio.Event", request.scope["extensions"][DRAINING])

        async def events() -> Any:
            yield b"data: first\n\n"
            await draining.wait()
            yield b"data: last\n\n"

        response = cast("Response", await quart.make_response(events()))
        response.timeout = None
        return response

    async with serving(quart, drain_s=600) as site, site.connect() as client:
        await client.send(GET)
        await client.until(b"first\n\n")
        site.server.drain()
        assert (await client.closed()).endswith(b"0\r\n\r\n")
        await site.drained()


@pytest.mark.usefixtures("hurried")
async def test_what_remains_is_cut_off_at_the_bound(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    async with serving(gate, drain_s=0.2) as site, site.connect() as client:
        await client.send(GET)
        await gate.begun.wait()
        with caplog.at_level(logging.WARNING, "fissile.gateway.server"):
            await site.drained()
        assert await client.closed() == b""
        assert gate.cancelled
    assert "cut off" in caplog.text


async def test_a_quart_handler_is_cancelled_at_the_bound(make_quart: MakeQuart) -> None:
    quart = make_quart()
    begun, ended = anyio.Event(), anyio.Event()

    @quart.get("/")
    async def index() -> str:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        return "never"

    async with serving(quart, drain_s=0) as site, site.connect() as client:
        await client.send(GET)
        await begun.wait()
        await site.drained()
        assert ended.is_set()


@pytest.mark.usefixtures("hurried")
async def test_an_error_in_a_cancelled_handler_is_logged_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    begun = anyio.Event()

    async def clumsy(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                begun.set()
                try:
                    await anyio.sleep_forever()
                finally:
                    raise ValueError("in the finally")

    async with serving(clumsy, drain_s=0) as site, site.connect() as client:
        await client.send(GET)
        await begun.wait()
        await site.drained()


@pytest.mark.usefixtures("hurried")
async def test_cancelling_the_caller_closes_everything() -> None:
    gate = Gate()
    async with serving(gate) as site, site.connect() as client, site.connect() as idle:
        await client.send(GET)
        await gate.begun.wait()
        site.scope.cancel()
        with anyio.fail_after(PATIENCE_S):
            await site.returned.wait()
        assert await client.closed() == await idle.closed() == b""
        assert gate.cancelled
        with pytest.raises(OSError):
            async with site.connect():
                pass


async def test_cancelling_the_caller_ends_the_handlers_of_quart(make_quart: MakeQuart) -> None:
    quart = make_quart()
    begun, ended = anyio.Event(), anyio.Event()

    @quart.get("/")
    async def index() -> str:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()
        return "never"

    async with serving(quart) as site, site.connect() as client:
        await client.send(GET)
        await begun.wait()
        site.scope.cancel()
        with anyio.fail_after(PATIENCE_S):
            await site.returned.wait()
        assert ended.is_set()


async def test_draining_before_the_start_returns_at_once() -> None:
    server = HttpServer(hello, ServerSettings(port=0))
    server.drain()
    with anyio.fail_after(PATIENCE_S):
        await server.serve()
