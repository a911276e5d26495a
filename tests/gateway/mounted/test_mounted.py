"""The gateway in FastAPI and in Django, and both of them in the gateway."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

import fissile_gateway
from fissile import App, Metric, StartupFailed
from fissile._settings import Sources
from fissile_gateway import GatewaySettings, ProtectionSettings
from fissile_gateway._server import HttpServer, ServerSettings
from tests.gateway.mounted import in_fastapi, library
from tests.gateway.mounted.in_django import application as django_application
from tests.gateway.mounted.pages import fastapi_inside
from tests.gateway.serving import serving

PATIENCE_S = 20.0


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ]
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Django runs on asyncio alone."""
    return request.param


@asynccontextmanager
async def served(app: Any) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve an application as a web server does, with its lifespan."""
    server = HttpServer(app, ServerSettings(port=0))
    address: list[tuple[str, int]] = []
    started = anyio.Event()

    def note(bound: tuple[str, int]) -> None:
        address.append(bound)
        started.set()

    async def serve() -> None:
        await server.serve(started=note)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        with anyio.fail_after(PATIENCE_S):
            await started.wait()
        host, port = address[0]
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=PATIENCE_S, trust_env=False) as client:
            yield client
        server.drain()


@pytest.mark.parametrize("outer", [in_fastapi.api, django_application], ids=["fastapi", "django"])
async def test_the_gateway_in_another_application_answers_beside_its_routes(outer: Any) -> None:
    for _ in range(2):  # it can be started again
        async with served(outer) as client:
            own = await client.get("/books/123")
            assert own.json() == {"isbn": "123", "title": "Title of 123"}
            asked = await client.get("/modules/api/library/get-title", params={"isbn": "7"})
            assert (asked.status_code, asked.json()) == (200, "Title of 7")
            done = await client.post("/modules/api/library/borrow", json={"isbn": "7"})
            assert (done.status_code, done.json()) == (200, 14)
            wrong = await client.get("/modules/api/library/get-titel")
            assert wrong.status_code == 404
            assert "Did you mean /api/library/get-title?" in wrong.json()["detail"]
            assert (await client.get("/modules/readyz")).text == "ok\n"
            assert (await client.get("/nowhere")).status_code == 404
            async with client.stream("GET", "/modules/api/library/topics/borrowed") as stream:
                lines = stream.aiter_lines()
                with anyio.fail_after(PATIENCE_S):
                    assert (await anext(lines)).startswith("retry:")
                    await client.post("/modules/api/library/borrow", json={"isbn": "8"})
                    async for line in lines:
                        if line == 'data: {"isbn":"8"}':
                            break


async def test_a_mounted_gateway_without_a_process_says_so() -> None:
    transport = httpx.ASGITransport(in_fastapi.api)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/modules/api/library/get-title")
    assert (answer.status_code, answer.json()["type"]) == (503, "/problems/not-running")


def routes_of(app: App) -> set[str]:
    """The routes that requests were counted for."""
    return {
        sample.labels["route"]
        for metric in app.metrics()
        if metric.name == "fissile_http_requests"
        for sample in metric.samples
    }


async def test_other_applications_in_the_gateway_answer_below_their_paths() -> None:
    fastapi_inside.log.clear()
    async with serving(routes="tests.gateway.mounted.pages") as running:
        assert fastapi_inside.log == ["up"]
        hello = await running.client.get("/shop/hello")
        assert hello.json() == {"greeting": "hello", "url": "/shop/hello"}
        assert hello.headers["x-request-id"]
        assert (await running.client.get("/shop/nowhere")).json() == {"detail": "Not Found"}
        assert (await running.client.get("/legacy/nowhere")).status_code == 404
        broken = await running.client.get("/shop/broken")
        assert (broken.status_code, "secret" in broken.text) == (500, False)
        assert (await running.client.get("/api/shop/find")).status_code == 200
        with anyio.fail_after(PATIENCE_S):
            while not {"/shop", "/legacy", "/api/shop/find"} <= routes_of(running.app):
                await anyio.sleep(0.01)  # Django goes on for a moment after its answer
    assert fastapi_inside.log == ["up", "down"]


async def test_a_mounted_application_that_cannot_start_ends_the_start(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bad_pages"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "bad.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await receive()\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no shelf'})\n"
        "mounts = {'/bad': app}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    app = App([fissile_gateway.module], overrides={GatewaySettings: GatewaySettings(port=0, routes="bad_pages")})
    with pytest.raises(StartupFailed, match="the application at /bad cannot start: no shelf"):
        async with app:
            pass


async def test_the_metrics_of_a_mounted_gateway_end_with_it() -> None:
    def names(metrics: tuple[Metric, ...]) -> set[str]:
        return {metric.name for metric in metrics}

    async with App([library.module]) as app:
        for _ in range(2):
            async with fissile_gateway.MountedGateway().over(app):
                metrics = app.metrics()
                assert len(names(metrics)) == len(metrics)
                assert "fissile_http_requests" in names(metrics)
        assert "fissile_http_requests" not in names(app.metrics())


SECRETS = {"FISSILE_JWT_SECRET": "x" * 32, "FISSILE_JWT_ISSUER": "https://issuer.example", "FISSILE_JWT_AUDIENCE": "a"}
PYPROJECT = """
[tool.fissile]
bus = "memory://"
modules = ["tests.gateway.mounted.library"]

[tool.fissile.gateway]
rate_limit = "1000/minute"

[tool.fissile.gateway.routes."library.get-title"]
rate_limit = "2/minute"
"""
TITLE = "/api/library/get-title?isbn=7"


@asynccontextmanager
async def mounted(app: App, gateway: fissile_gateway.MountedGateway) -> AsyncGenerator[httpx.AsyncClient]:
    async with (
        app,
        gateway.over(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(gateway), base_url="http://test") as client,
    ):
        yield client


async def test_a_mounted_gateway_has_the_settings_that_the_gateway_of_the_application_has(
    tmp_path: Path,
) -> None:
    sources = Sources.read(tmp_path, environment=SECRETS, toml=tomllib.loads(PYPROJECT)["tool"]["fissile"])
    async with mounted(App([library.module], sources=sources), fissile_gateway.MountedGateway()) as client:
        wrong = await client.get(TITLE, headers={"authorization": "Bearer nonsense"})
        assert (wrong.status_code, wrong.json()["type"]) == (401, "/problems/invalid-credential")
        answers = [await client.get(TITLE) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert "1000" in answers[0].headers["ratelimit-policy"]


async def test_a_mounted_gateway_has_the_protection_that_it_is_given() -> None:
    gateway = fissile_gateway.MountedGateway(
        GatewaySettings(anonymous_scopes=("none",)), protection=ProtectionSettings(rate_limit="1/minute")
    )
    async with mounted(App([library.module]), gateway) as client:
        assert (await client.get(TITLE, headers={"x-api-key": "nonsense"})).status_code == 401
        assert [(await client.get(TITLE)).status_code for _ in range(2)] == [200, 429]


async def test_all_faults_of_a_mounted_gateways_settings_are_told_together(tmp_path: Path) -> None:
    given = {"FISSILE_RATE_LIMIT": "often", "FISSILE_REQUESTS_AT_ONCE": "many"}
    app = App([library.module], sources=Sources.read(tmp_path, environment=given))
    with pytest.raises(StartupFailed) as failed:
        async with mounted(app, fissile_gateway.MountedGateway()):
            pass
    assert {word for word in ("rate_limit", "FISSILE_REQUESTS_AT_ONCE") if word in str(failed.value)} == {
        "rate_limit",
        "FISSILE_REQUESTS_AT_ONCE",
    }
