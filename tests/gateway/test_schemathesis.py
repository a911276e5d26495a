"""The documents against the gateway that serves them: schemathesis makes requests from the document, right ones and wrong ones, and checks every answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.gateway import everything
from tests.gateway.documented import Where, hosting


@pytest.fixture(params=[pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """One event loop per placement: the requests are the same on each, and take long."""
    return request.param


async def check(url: str, folder: Path, examples: int) -> None:
    """Run schemathesis with all checks."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", "all", "--seed", "1"]
    command += ["--max-examples", str(examples), "--generation-deterministic", "--no-color", "--continue-on-failure"]
    done = await anyio.run_process(command, check=False, cwd=folder, stderr=None)
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("where", ["one process", "two processes"])
async def test_every_answer_is_as_the_document_says(where: Where, tmp_path: Path) -> None:
    async with hosting([everything.module], where, folder=tmp_path) as hosted:
        await check(hosted.url, tmp_path, 10)
