"""The document against the gateway that serves it: schemathesis makes requests from it, right ones and wrong ones, and checks every answer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from fissile._api_keys import new_key
from modules.accounts.service import module as accounts
from modules.challenges.service import module as challenges
from modules.code_executor.sandbox import Sandbox
from modules.code_executor.service import module as code_executor
from modules.leaderboard.service import module as leaderboard
from modules.submissions.service import module as submissions
from tests.gateway import everything, guarded
from tests.gateway.documented import Where, hosting
from tests.modules.code_executor.fake_sandbox import FakeSandbox

ROOT = Path(__file__).parent.parent.parent
KEYS = "keys.toml"

# A declared error may come with any status; 400 is what the gateway says of input that does not fit, and must not come for what fits.
CONFIGURATION = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429, "5XX"]

[checks.positive_data_acceptance]
expected-statuses = ["2XX", "3XX", 401, 403, 404, 409, 413, 422, 429, "5XX"]
"""


@pytest.fixture(params=[pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """One event loop: the requests are the same on each, and take their time."""
    return request.param


SCOPES = [
    *("money:read", "money:write", "audit", "totals:read"),
    *("challenges:write", "submissions:write", "leaderboard:rebuild", "accounts:self", "accounts:write"),
]
APPLICATION = [code_executor, challenges, submissions, leaderboard, accounts]

IS_SOAK = os.environ.get("FISSILE_TEST_SOAK", "0") not in ("", "0")
PHASES: dict[Where, str] = {"one process": "examples,coverage", "two processes": "examples,fuzzing"}
"""What is run of each placement by default: each of the phases once, since all of them together would take minutes."""

EXAMPLES = 100 if IS_SOAK else 3
"""How many cases there are at most of each route in the phase `fuzzing`; `examples` and `coverage` are as many as the document makes them."""

pytestmark = pytest.mark.timeout(7200 if IS_SOAK else 600)


@pytest.fixture
def key(tmp_path: Path) -> str:
    """An API key with all scopes, in a file that the gateway reads."""
    made, digest = new_key("schemathesis")
    scopes = ", ".join(f'"{scope}"' for scope in SCOPES)
    (tmp_path / KEYS).write_text(
        f'[[key]]\nid = "schemathesis"\nsha256 = "{digest}"\nsubject = "tests"\nscopes = [{scopes}]\n'
    )
    return made


async def check(url: str, folder: Path, key: str, where: Where) -> None:
    """Run schemathesis with all of its checks."""
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        for path in ("/openapi.json", "/asyncapi.json", "/api"):  # made now: schemathesis waits for ten seconds
            assert (await client.get(path)).status_code == 200
    (folder / "schemathesis.toml").write_text(f'{CONFIGURATION}\n[auth.openapi.apiKey]\napi_key = "{key}"\n')
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", "all"]
    command += ["--request-timeout", "60"]  # machines under load are slow
    phases = "examples,coverage,fuzzing,stateful" if IS_SOAK else PHASES[where]
    command += ["--phases", phases, "--max-examples", str(EXAMPLES), "--generation-deterministic"]
    command += ["--no-color", "--continue-on-failure", "--output-sanitize", "false"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.gateway.schemathesis_hooks", "PYTHONPATH": str(ROOT)}
    done = await anyio.run_process(command, check=False, cwd=folder, stderr=None, env=environment)
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("where", ["one process", "two processes"])
async def test_every_answer_is_as_the_document_says(tmp_path: Path, key: str, where: Where) -> None:
    modules = [everything.module, guarded.module]
    async with hosting(modules, where, folder=tmp_path, api_keys_file=str(tmp_path / KEYS)) as hosted:
        await check(hosted.url, tmp_path, key, where)


@pytest.mark.parametrize("where", ["one process", "two processes"])
async def test_every_answer_of_this_application_is_as_its_document_says(tmp_path: Path, key: str, where: Where) -> None:
    fakes = {Sandbox: FakeSandbox()}
    async with hosting(
        APPLICATION, where, folder=tmp_path, routes="gateway.app", overrides=fakes, api_keys_file=str(tmp_path / KEYS)
    ) as hosted:
        await check(hosted.url, tmp_path, key, where)
