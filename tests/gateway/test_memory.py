"""The memory of a gateway stays bounded, whatever its clients do: measured at a process of its own."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from anyio.abc import SocketStream

from tests.figures import figure
from tests.gateway.gate import Gate, gate
from tests.gateway.server.http2 import Gone, Http2Client, certificate
from tests.gateway.server.test_http2_floods import FLOODS, HEADS, pour

IS_SOAK = os.environ.get("FISSILE_TEST_SOAK", "0") not in ("", "0")
MIB = 1024 * 1024
PATIENCE_S = 120.0
ROUNDS = 20 if IS_SOAK else 2
AT_ONCE = 20 if IS_SOAK else 8
SLOW = 500 if IS_SOAK else 100
"""Clients of each of three kinds."""

PATIENT = {"head_timeout_s": 300, "read_timeout_s": 300}
"""So that all clients are there together, however slow the machine is."""

pytestmark = pytest.mark.timeout(900 if IS_SOAK else 300)


@pytest.fixture(params=[pytest.param("asyncio", id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """One event loop: it is the client's."""
    name: str = request.param
    return name


@contextmanager
def growth_of(process: Gate, what: str, bound: int) -> Generator[None]:
    """Measure how much more memory a process has at most in the block than before it, and hold it to a bound."""
    before = process.resident()
    process.forget_peak()
    yield
    grown = process.resident(peak=True) - before
    figure(f"memory of the gateway: {before / MIB:.0f} MiB, and {grown / MIB:.1f} MiB more under {what}")
    assert grown < bound


@asynccontextmanager
async def connected(process: Gate, context: ssl.SSLContext) -> AsyncGenerator[Http2Client]:
    stream = await anyio.connect_tcp(
        *process.address, ssl_context=context, tls=True, tls_standard_compatible=False, tls_hostname="localhost"
    )
    async with stream:
        yield Http2Client(stream)


async def flood(process: Gate, context: ssl.SSLContext, data: bytes) -> None:
    """Send a flood on several connections at once, and wait until the gateway has ended them all."""

    async def one() -> None:
        with anyio.fail_after(PATIENCE_S):
            async with connected(process, context) as client:
                await client.begin()
                try:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(pour, client, data)
                        while True:
                            await client.stream.receive()
                except* Gone:
                    pass

    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(one)


async def test_memory_stays_bounded_under_floods_of_http2(tmp_path: Path) -> None:
    _, context = certificate(tmp_path)
    context.set_alpn_protocols(["h2"])
    pem = str(tmp_path / "server.pem")
    floods = [*FLOODS.values(), *HEADS.values()]
    with gate({"tls_certificate": pem, "tls_key": pem}) as process:
        for data in floods:
            await flood(process, context, data)
        with growth_of(process, f"{ROUNDS * AT_ONCE * len(floods)} floods of HTTP/2", (8 + AT_ONCE) * MIB):
            for data in floods * ROUNDS:
                await flood(process, context, data)
        async with connected(process, context) as client:
            await client.begin()
            assert (await client.get("/livez")).status == 200


async def dribbling(process: Gate, head: str, body: bytes = b"") -> SocketStream:
    """Begin a request, with the smallest buffers that the kernel has."""

    def connect() -> socket.socket:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        raw.settimeout(PATIENCE_S)
        raw.connect(process.address)
        raw.setblocking(False)
        return raw

    raw = await anyio.to_thread.run_sync(connect)
    stream = await SocketStream.from_socket(raw)
    await stream.send(head.encode() + body)
    return stream


POST = "POST /api/shop/behave HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"


async def test_memory_stays_bounded_under_hundreds_of_slow_clients() -> None:
    settings = {
        "routes": "tests.gateway.large_pages",
        "write_timeout_s": 300,
        "request_timeout_s": 300,
        "keep_alive_s": 300,
    }
    with gate(
        PATIENT, connections_at_once=2000, connections_per_address=0, requests_at_once=3 * SLOW, **settings
    ) as process:
        url = f"http://{process.host}:{process.port}"
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False) as client:
            for path in ("/large", "/api/shop/find", "/metrics"):
                assert (await client.get(path)).status_code == 200
            streams: list[SocketStream] = []
            each = 3 * 64 * 1024 + 15_000 + 60_000 + 128 * 1024  # a head, a body, and two pieces of an answer of 4 MiB
            bound = SLOW * each + 8 * MIB
            with growth_of(process, f"{SLOW} slow heads, {SLOW} slow bodies and {SLOW} slow readers", bound):
                for _ in range(SLOW):
                    streams.append(await dribbling(process, "GET / HTTP/1.1\r\nhost: test\r\nx: ", b"x" * 15_000))
                    streams.append(await dribbling(process, f"{POST}content-length: 64000\r\n\r\n", b" " * 60_000))
                    streams.append(await dribbling(process, "GET /large HTTP/1.1\r\nhost: test\r\n\r\n"))
                with anyio.fail_after(PATIENCE_S):
                    while await open_connections(client) < 3 * SLOW:
                        await anyio.sleep(0.1)
                for stream in streams[::3]:
                    await stream.send(b"x")
                assert (await client.get("/api/shop/find")).status_code == 200
            for stream in streams:
                await stream.aclose()
            with anyio.fail_after(PATIENCE_S):
                while await open_connections(client) > 1:
                    await anyio.sleep(0.1)


async def open_connections(client: httpx.AsyncClient) -> int:
    return await metric(client, "fissile_http_connections")


async def metric(client: httpx.AsyncClient, name: str) -> int:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    lines = answer.text.splitlines()
    return int(float(next(line.split()[1] for line in lines if line.startswith(f"{name} "))))


MODES = {
    "slow heads": ["-H", "-u", "/api/shop/find"],
    "slow bodies": ["-B", "-f", "application/json", "-u", "/api/shop/behave"],
    "slow readers": ["-X", "-w", "10", "-y", "20", "-n", "3", "-z", "10", "-k", "3", "-u", "/large"],
}


@pytest.mark.skipif(not IS_SOAK, reason="takes minutes: set FISSILE_TEST_SOAK")
@pytest.mark.skipif(shutil.which("slowhttptest") is None, reason="slowhttptest is not installed")
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
async def test_slowhttptest_keeps_nobody_out_and_all_of_its_connections_are_closed(mode: list[str]) -> None:
    *options, path = mode
    bounds = {"head_timeout_s": 15, "read_timeout_s": 15}
    # Who reads slowly has a place among the requests until the answer is sent, or given up: so there are more places than slow readers.
    with gate(bounds, write_timeout_s=15, requests_at_once=1000, routes="tests.gateway.large_pages") as process:
        url = f"http://{process.host}:{process.port}"
        command = ["slowhttptest", *options, f"{url}{path}", "-c", "500", "-r", "250", "-i", "1", "-l", "240"]
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, trust_env=False) as client:
            assert (await client.get("/metrics")).status_code == 200
            most = asked = now_open = 0
            before = process.resident()
            process.forget_peak()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(anyio.run_process, command, check=False))
                with anyio.fail_after(300):  # the tool itself goes on: it does not see that it was reset
                    while now_open != 1 or await metric(client, "fissile_http_connections_accepted_total") < 500:
                        assert (await client.get("/api/shop/find")).status_code == 200
                        now_open = await open_connections(client)
                        most, asked = max(most, now_open), asked + 1
                tasks.cancel_scope.cancel()
            grown = (process.resident(peak=True) - before) / MIB
            figure(f"slowhttptest {options[0]}: {most} connections, {asked} plain requests, {grown:.1f} MiB more")
            assert asked >= 10
