"""The document against the gateway that serves it: schemathesis makes requests from it, right ones and wrong ones, and checks every answer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from modules.challenges.service import module as challenges
from modules.code_executor.sandbox import Sandbox
from modules.code_executor.service import module as code_executor
from tests.gateway import everything, guarded
from tests.gateway.documented import hosting
from tests.modules.code_executor.fake_sandbox import FakeSandbox

# A declared error may come with any status; 400 is what the gateway says of input that does not fit, and must not come for what fits.
CONFIGURATION = """
[checks.positive_data_acceptance]
expected-statuses = ["2XX", "3XX", 401, 403, 404, 409, 413, 422, 429, "5XX"]
"""


@pytest.fixture(params=[pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """One event loop: the requests are the same on each, and take their time."""
    return request.param


async def check(url: str, folder: Path, *, phases: str, examples: int) -> None:
    """Run schemathesis with all of its checks."""
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", "all"]
    command += ["--phases", phases, "--max-examples", str(examples), "--generation-deterministic"]
    command += ["--no-color", "--continue-on-failure"]
    done = await anyio.run_process(command, check=False, cwd=folder, stderr=None)
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.timeout(300)
async def test_every_answer_in_one_process_is_as_the_document_says(tmp_path: Path) -> None:
    async with hosting([everything.module]) as hosted:
        await check(hosted.url, tmp_path, phases="examples,coverage", examples=5)


@pytest.mark.timeout(300)
async def test_every_answer_is_as_the_document_says_where_the_module_is_in_another_process(tmp_path: Path) -> None:
    async with hosting([everything.module, guarded.module], "two processes", folder=tmp_path) as hosted:
        await check(hosted.url, tmp_path, phases="examples,fuzzing", examples=10)


@pytest.mark.timeout(300)
async def test_every_answer_of_this_application_is_as_its_document_says(tmp_path: Path) -> None:
    modules = [code_executor, challenges]
    fakes = {Sandbox: FakeSandbox()}
    async with hosting(modules, folder=tmp_path, routes="gateway.app", overrides=fakes) as hosted:
        await check(hosted.url, tmp_path, phases="examples,fuzzing", examples=10)
