"""What the gateway tells of the application is the same, byte for byte, in whichever process it runs, and is what `fissile export` writes."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import anyio
import httpx
import pytest

from fissile._application import Application
from fissile.cli._export_documents import openapi_text
from modules.code_executor.sandbox import Sandbox
from tests.modules.code_executor.fake_sandbox import FakeSandbox

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("/openapi.json", "/asyncapi.json", "/api")


@asynccontextmanager
async def started(placement: Literal["monolith", "split"], folder: Path) -> AsyncGenerator[httpx.AsyncClient]:
    """Start the process of this application that hosts the gateway."""
    application = Application.find(
        ROOT,
        command_line={
            "FISSILE_BUS": f"sqlite:///{folder}/{placement}.sqlite3",
            "FISSILE_DATABASE": f"sqlite:///{folder}/{placement}",
            "FISSILE_DATABASE_MIGRATE": True,
            "FISSILE_PLACEMENT": placement,
            "FISSILE_PORT": 0,
        },
    )
    app = application.app("monolith" if placement == "monolith" else "gateway")
    app.overrides[Sandbox] = FakeSandbox()
    urls: list[str] = []
    ready, stop = anyio.Event(), anyio.Event()

    def on_ready(announcements: tuple[str, ...]) -> None:
        urls.extend(announcements)
        ready.set()

    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await app.run(on_ready=on_ready, stop=stop)

        tasks.start_soon(run)
        with anyio.fail_after(120):
            await ready.wait()
        async with httpx.AsyncClient(base_url=urls[0], timeout=120, trust_env=False) as client:
            yield client
        stop.set()


@pytest.fixture(params=[pytest.param("asyncio", id="asyncio")])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """One event loop: documents are made in a thread."""
    name: str = request.param
    return name


@pytest.mark.timeout(300)
async def test_each_placement_tells_the_same_and_so_does_the_export(tmp_path: Path) -> None:
    told: dict[str, list[tuple[bytes, str]]] = {}
    for placement in ("monolith", "split"):
        async with started(placement, tmp_path) as client:
            answers = [await client.get(path) for path in DOCUMENTS]
        told[placement] = [(answer.content, answer.headers["etag"]) for answer in answers]
    assert told["split"] == told["monolith"]
    document = json.loads(told["split"][0][0])
    written = json.loads(openapi_text(Application.find(ROOT)))
    assert json.dumps(document) == json.dumps(written)  # with the order of everything
    modules = ["code-executor", "challenges", "submissions", "leaderboard", "accounts"]
    assert [tag["name"] for tag in document["tags"]][: len(modules)] == modules
