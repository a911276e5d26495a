from __future__ import annotations

import logging
import socket
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

import fissile_gateway
from fissile import App, Check, StartupFailed
from fissile._settings import Source, Sources
from fissile_gateway import GatewaySettings
from tests.gateway.serving import building, serving


async def test_the_address_really_bound_is_announced() -> None:
    async with serving() as running:
        assert running.url.startswith("http://127.0.0.1:")
        assert not running.url.endswith(":0")
        assert (await running.client.get("/livez")).text == "ok\n"


def test_settings_are_read_without_the_name_of_the_module() -> None:
    sources = Sources((Source("environment", {"FISSILE_PORT": "9000", "FISSILE_REQUEST_TIMEOUT_S": "1.5"}),))
    app = App([fissile_gateway.module], sources=sources)
    values = {origin.variable: origin.value for origin in app.settings_in_use()}
    assert values["FISSILE_PORT"] == 9000
    assert values["FISSILE_REQUEST_TIMEOUT_S"] == 1.5
    assert values["FISSILE_HOST"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"port": 70_000}, "port is 70000; the highest is 65535"),
        ({"port": -1}, "port is -1; it has to be 0 or more"),
        ({"heartbeat_s": 0}, "heartbeat_s is 0; it has to be positive"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GatewaySettings(**wrong)


async def test_a_port_that_is_taken_ends_the_start_with_the_port_and_the_cure() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        app = App([fissile_gateway.module], overrides={GatewaySettings: GatewaySettings(port=port)})
        with pytest.raises(StartupFailed) as failed:
            async with app:
                pass
    (fault,) = failed.value.faults
    assert fault.what == f"The gateway cannot start: the port {port} of 127.0.0.1 is taken."
    assert "FISSILE_PORT=" in fault.cure
    assert "\n" not in str(fault)


async def test_a_host_that_does_not_exist_ends_the_start() -> None:
    app = App([fissile_gateway.module], overrides={GatewaySettings: GatewaySettings(host="192.0.2.1", port=0)})
    with pytest.raises(StartupFailed, match=r"192\.0\.2\.1:0 cannot be listened on"):
        async with app:
            pass


async def test_requests_in_progress_finish_when_the_process_drains() -> None:
    answers: list[httpx.Response] = []
    async with serving() as running, anyio.create_task_group() as tasks:

        async def hang() -> None:
            answers.append(await running.client.post("/api/shop/behave", json={"how": "hang"}))

        tasks.start_soon(hang)
        with anyio.fail_after(5):
            await running.watch.hanging.wait()
            running.stop.set()
            await refused(running.address)
        running.watch.go_on.set()
    assert [answer.status_code for answer in answers] == [200]
    assert not running.watch.cancelled.is_set()


async def refused(address: tuple[str, int]) -> None:
    while True:
        try:
            async with await anyio.connect_tcp(*address):
                await anyio.lowlevel.checkpoint()
        except OSError:
            return


@pytest.mark.parametrize("size", [0, 100_000])
async def test_a_client_that_goes_away_cancels_its_chain(size: int) -> None:
    async with serving() as running:
        async with await anyio.connect_tcp(*running.address) as connection:
            body = b'{"how": "hang"}' + b" " * size
            head = f"POST /api/shop/behave HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            await connection.send(head.encode() + body)
            with anyio.fail_after(5):
                await running.watch.hanging.wait()
        with anyio.fail_after(5):
            await running.watch.cancelled.wait()


async def test_the_probes_tell_what_is_not_well() -> None:
    def checks() -> tuple[Check, ...]:
        return (Check("log", None), Check("consumer shop", "it owns no partitions yet"))

    async with building(checks) as (gateway, _), asgi(gateway) as client:
        assert (await client.get("/livez")).status_code == 200
        answer = await client.get("/readyz")
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["checks"] == [
            {"name": "log", "problem": None},
            {"name": "consumer shop", "problem": "it owns no partitions yet"},
        ]
        answer = await client.get("/readyz?verbose")
        assert answer.status_code == 503
        assert (
            answer.text
            == "[+]log ok\n[-]consumer shop failed: it owns no partitions yet\n[+]circuit shop closed\nreadyz check failed\n"
        )


async def test_a_process_that_is_well_is_ready() -> None:
    async with serving() as running:
        answer = await running.client.get("/readyz")
        assert (answer.status_code, answer.text) == (200, "ok\n")
        answer = await running.client.get("/readyz?verbose=1")
        assert "[+]log ok\n" in answer.text
        assert answer.text.endswith("readyz check passed\n")


async def test_the_id_of_a_request_is_taken_or_made_and_told_in_answer_and_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "fissile.gateway.access")
    async with serving() as running:
        given = await running.client.get("/livez", headers={"x-request-id": "abc.DEF_1-2"})
        made = [
            (await running.client.get("/livez", headers={"x-request-id": bad})).headers["x-request-id"]
            for bad in ("", "x" * 65, "a b", "a/b")
        ]
    assert given.headers["x-request-id"] == "abc.DEF_1-2"
    assert len({*made, "", "x" * 65, "a b", "a/b"}) == 8
    record = next(record for record in caplog.records if record.name == "fissile.gateway.access")
    told = record.__dict__
    assert (told["method"], told["path"], told["status"], told["request_id"]) == ("GET", "/livez", 200, "abc.DEF_1-2")
    assert told["duration_ms"] > 0
    assert record.getMessage() == "GET /livez 200"


def asgi(app: object) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_a_client_that_left_is_logged_as_gone(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fissile.gateway.access")
    async with serving() as running:
        async with await anyio.connect_tcp(*running.address) as connection:
            head = b"POST /api/shop/behave HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 15\r\n\r\n"
            await connection.send(head + b'{"how": "hang"}')
            with anyio.fail_after(5):
                await running.watch.hanging.wait()
        with anyio.fail_after(5):
            await running.watch.cancelled.wait()
    statuses = [record.__dict__["status"] for record in caplog.records if record.name == "fissile.gateway.access"]
    assert statuses == [499]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
