"""The executor behind a gateway, with sandboxes in which programs really run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import msgspec
import pytest

import fissile_gateway._app
import fissile_gateway._server  # noqa: F401 - what a first start imports takes seconds on a busy machine, and starts have a deadline
from modules.code_executor.sandbox import Sandbox
from modules.code_executor.service import ExecutorSettings, module
from tests.gateway.serving import serving

from .conftest import Host, until

HOURS_S = 7200.0


@pytest.fixture(params=[pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """One backend is enough: what a client that goes away does to its chain is tested with the gateway, on each."""
    return request.param


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["unshare", pytest.param("docker", marks=pytest.mark.docker)])
async def test_a_client_that_goes_away_in_the_middle_of_a_run_ends_the_program(
    open_sandbox: Callable[..., Awaitable[Sandbox]], host: Host, kind: str
) -> None:
    sandbox = await open_sandbox(kind, at_once=1)
    settings = ExecutorSettings(wall_s=HOURS_S, cpu_s=HOURS_S)
    async with serving(module, overrides={Sandbox: sandbox, ExecutorSettings: settings}) as running:
        source = host.program("import os, time; os.fork(); time.sleep(7200)")
        body = msgspec.json.encode({"language": "python", "source": source})
        async with await anyio.connect_tcp(*running.address) as connection:
            head = "POST /api/code-executor/run-code HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            await connection.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            await until(lambda: len(host.survivors()) == 2, "the program runs")
        await until(lambda: not host.survivors(), "it has ended with its client")
        # Its place is free again.
        answer = await running.client.post(
            "/api/code-executor/run-code", json={"language": "python", "source": "print(1)"}
        )
        assert (answer.status_code, answer.json()["stdout"]) == (200, "1\n"), answer.text
    await host.check_unharmed()


async def test_what_is_out_of_its_bounds_is_told_and_not_echoed(
    open_sandbox: Callable[..., Awaitable[Sandbox]],
) -> None:
    sandbox = await open_sandbox("unshare")
    async with serving(module, overrides={Sandbox: sandbox}) as running:
        long = "python" * 50_000
        for path in ("run-code", "start-run"):
            answer = await running.client.post(f"/api/code-executor/{path}", json={"language": long, "source": ""})
            assert answer.status_code == 400
            assert len(answer.content) < 2000
        assert (await running.client.get(f"/api/code-executor/get-run?run_id={'x' * 65}")).status_code == 400
