from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fissile import StartupFailed
from tests.gateway.serving import building, serving
from tests.gateway.test_life import asgi

PAGES = """
from quart import Blueprint, abort, request
from fissile_gateway import Problem, ProblemError, current_bus, current_process, current_routes
from tests.gateway.shop import Behave, Order, Item

blueprint = Blueprint("pages", __name__)

@blueprint.get("/hello")
async def hello():
    reply = await current_bus().execute(Behave("hello"))
    return f"<p>{reply} from {current_process().application}, {len(current_routes())} routes</p>"

@blueprint.get("/sold-out")
async def sold_out():
    await current_bus().execute(Order((Item("unicorn"),)))

@blueprint.get("/teapot")
async def teapot():
    abort(418, "short and stout")

@blueprint.get("/problem")
async def problem():
    raise ProblemError(Problem(402, "pay-first", "Pay first."))

@blueprint.get("/broken")
async def broken():
    raise ValueError("secret")

@blueprint.get("/sync")
def sync():
    return "sync"

@blueprint.post("/size")
async def size():
    total = 0
    async for piece in request.body:
        total += len(piece)
    return str(total)

async def legacy(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = (scope["root_path"] + " " + scope["path"]).encode()
    await send({"type": "http.response.body", "body": body})

mounts = {"/legacy": legacy}
"""


async def test_a_file_with_a_blueprint_adds_routes(pages: Callable[..., str]) -> None:
    async with serving(routes=pages(pages=PAGES, _private="raise RuntimeError", other="")) as running:
        answer = await running.client.get("/hello")
        assert (answer.status_code, answer.text) == (200, "<p>hello from testing, 6 routes</p>")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == (
            "frame-ancestors 'none'; object-src 'none'; base-uri 'self'"
        )
        assert (await running.client.get("/sync")).text == "sync"
        for content in (b"x" * 10, b"x" * 500_000):
            assert (await running.client.post("/size", content=content)).text == str(len(content))
        assert (await running.client.get("/")).status_code == 404


@pytest.mark.parametrize(
    ("path", "status", "name", "detail"),
    [
        ("/sold-out", 409, "sold-out", "There is nothing left of what was ordered."),
        ("/teapot", 418, "im-a-teapot", "short and stout"),
        ("/problem", 402, "pay-first", "Pay first."),
        ("/broken", 500, "internal-error", "The request failed. The log tells why, under the request's id."),
    ],
)
async def test_the_errors_of_own_routes_are_problems_too(
    pages: Callable[..., str], path: str, status: int, name: str, detail: str
) -> None:
    async with serving(routes=pages(pages=PAGES)) as running:
        answer = await running.client.get(path)
    document = answer.json()
    assert (answer.status_code, document["type"], document["detail"]) == (status, f"/problems/{name}", detail)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_another_asgi_application_can_be_mounted(pages: Callable[..., str]) -> None:
    async with serving(routes=pages(pages=PAGES)) as running:
        answer = await running.client.get("/legacy/deep")
        assert (answer.status_code, answer.text) == (200, "/legacy /legacy/deep")
        assert answer.headers["x-request-id"]
        assert (await running.client.get("/legacyx")).status_code == 404


async def test_files_that_cannot_be_imported_end_the_start_and_are_all_named(pages: Callable[..., str]) -> None:
    package = pages(one="import nowhere_to_be_found", two="1 / 0")
    with pytest.raises(StartupFailed) as failed:
        async with building(routes=package):
            pass
    assert [fault.what.split(":")[0] for fault in failed.value.faults] == [
        f"The routes in {package}.one cannot be imported",
        f"The routes in {package}.two cannot be imported",
    ]
    assert failed.value.faults[1].where.endswith("two.py:1")


async def test_a_package_that_does_not_exist_ends_the_start_unless_it_is_the_default() -> None:
    with pytest.raises(StartupFailed, match=r"There is no package nowhere\.app"):
        async with building(routes="nowhere.app"):
            pass


async def test_the_gateway_can_be_mounted_in_another_asgi_application() -> None:
    async with building() as (gateway, watch):

        async def outer(
            scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
        ) -> None:
            assert scope["path"].startswith("/inner")
            await gateway({**scope, "root_path": "/inner"}, receive, send)

        async with asgi(outer) as client:
            answer = await client.post("/inner/api/shop/order", json={"items": []})
            assert (answer.status_code, answer.json()["total"]) == (200, 0)
            assert answer.headers["cache-control"] == "no-store"
            answer = await client.get("/inner/api/shop/nothing")
            assert answer.status_code == 404
            assert answer.json()["detail"].startswith("The module 'shop' has no route /api/shop/nothing.")
            assert (await client.get("/inner/")).status_code == 200
    assert len(watch.seen) == 1


async def test_importing_the_gateway_imports_no_framework() -> None:
    import subprocess
    import sys

    code = "import sys, fissile_gateway; print([name for name in ('quart', 'hypercorn', 'trio', 'limits', 'h2') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: ASYNC221
    assert done.stdout == "[]\n"


def test_the_public_surface_is_what_it_says() -> None:
    import types

    import fissile_gateway

    public = {
        name
        for name, value in vars(fissile_gateway).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public == {
        "Gateway",
        "GatewaySettings",
        "MountFailed",
        "MountedGateway",
        "Problem",
        "ProblemError",
        "ProtectionSettings",
        "RouteLimits",
        "create_app",
        "current_bus",
        "current_identity",
        "current_process",
        "current_routes",
        "read_body",
        "missing_notes",
        "module",
        "requires",
        "operation",
        "stream",
    }
