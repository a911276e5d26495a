"""Hand-written routes: they ask modules for who asks them, and can require scopes of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio.lowlevel
import pytest
from httpx import Response

import fissile_gateway
from fissile import App, Settings
from fissile_gateway import GatewaySettings
from tests.gateway.auth.issuer import Desk, desk, rsa, token, trusting
from tests.gateway.serving import serving
from tests.identity.modules import billing, orders

PAGES = """
from quart import Blueprint, websocket
from fissile import Forbidden
from fissile_gateway import current_bus, current_identity, requires
from tests.identity.modules import Charge, WhoAmI

blueprint = Blueprint("pages", __name__)

@blueprint.get("/who")
async def who():
    seen = await current_bus().ask(WhoAmI())
    return {"subject": seen.subject, "kind": seen.kind, "here": current_identity().kind}

@blueprint.post("/charge")
async def charge():
    return {"subject": (await current_bus().execute(Charge())).subject}

@blueprint.get("/reports/<name>")
@requires("reports:read", "reports:all")
async def report(name):
    return name

@blueprint.get("/sync")
@requires("reports:read")
def sync():
    return "sync"

@blueprint.websocket("/socket")
async def socket():
    await websocket.accept()
    try:
        await current_bus().execute(Charge())
        await websocket.send(current_identity().subject)
    except Forbidden as refused:
        await websocket.send(",".join(refused.missing))

async def mounted(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    given = dict(scope["headers"]).get(b"authorization", b"")
    await send({"type": "http.response.body", "body": given})

mounts = {"/mounted": mounted}
"""


@pytest.fixture
def routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"pages_{uuid4().hex}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "pages.py").write_text(PAGES)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@asynccontextmanager
async def opened(folder: Path, routes: str) -> AsyncGenerator[Desk]:
    async with desk(routes=routes, **trusting(folder, rsa())) as here:
        yield here


async def test_a_route_asks_modules_for_who_asks_it(tmp_path: Path, routes: str) -> None:
    async with opened(tmp_path, routes) as here:
        assert (await here.get("/who", token(here.now))).json() == {"subject": "alice", "kind": "user", "here": "user"}
        assert (await here.get("/who")).json() == {"subject": "", "kind": "anonymous", "here": "anonymous"}
        allowed = token(here.now, scope="billing:charge billing:use")
        for credential, status in ((None, 401), (token(here.now), 403), (allowed, 200)):
            headers = {} if credential is None else {"authorization": f"Bearer {credential}"}
            answer = await here.client.post("/charge", headers=headers)
            assert answer.status_code == status
        answer = await here.get("/who", token(here.now))
        assert answer.headers["cache-control"] == "private"


async def test_a_route_can_require_scopes_of_its_own(tmp_path: Path, routes: str) -> None:
    async with opened(tmp_path, routes) as here:

        async def get(path: str, scope: str | None) -> Response:
            return await here.get(path, None if scope is None else token(here.now, scope=scope))

        assert (await get("/reports/q1", "reports:read reports:all")).text == "q1"
        assert (await get("/sync", "reports:read")).text == "sync"
        refused = await get("/reports/q1", "reports:read")
        assert (refused.status_code, refused.json()["missing_scopes"]) == (403, ["reports:all"])
        for path in ("/reports/q1", "/sync"):
            answer = await get(path, None)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"].startswith('Bearer realm="api", scope="reports:read')
            assert (await here.client.head(path)).status_code == 401


async def test_a_route_that_requires_a_scope_is_closed_where_nobody_is_known(
    routes: str,
) -> None:
    async with serving(routes=routes) as running:
        assert (await running.client.get("/sync")).status_code == 401


async def test_a_mounted_application_has_credentials_of_its_own(tmp_path: Path, routes: str) -> None:
    async with opened(tmp_path, routes) as here:
        assert (await here.get("/mounted", "its-own")).text == "Bearer its-own"


async def test_a_websocket_acts_for_who_opened_it(tmp_path: Path, routes: str) -> None:
    async with opened(tmp_path, routes) as here:
        allowed = token(here.now, scope="billing:charge billing:use")
        assert await _talk(here, allowed) == ["websocket.accept", "alice"]
        assert await _talk(here, None) == ["websocket.accept", "billing:charge,billing:use"]
        assert await _talk(here, "nonsense") == ["websocket.close"]


async def _talk(here: Desk, credential: str | None) -> list[str]:
    """Open the WebSocket as a server would; return what happens, up to its first text."""
    headers = [(b"host", b"test")]
    if credential is not None:
        headers.append((b"authorization", f"Bearer {credential}".encode()))
    happened: list[str] = []
    news = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect"}])

    async def receive() -> dict[str, str]:
        message = next(news)
        while message["type"] == "websocket.disconnect" and len(happened) < 2:
            await anyio.lowlevel.checkpoint()
        return message

    async def send(message: dict[str, object]) -> None:
        if len(happened) < 2:
            happened.append(str(message.get("text") or message["type"]))

    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/socket",
        "raw_path": b"/socket",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("test", 80),
        "subprotocols": [],
        "extensions": {},
    }
    await here.gateway(scope, receive, send)
    return happened


async def test_over_a_log_in_a_file_identities_are_signed_with_a_key_beside_it(tmp_path: Path) -> None:
    """The gateway knows who asks, and no contract requires anything: nothing has to be configured."""
    settings = Settings(bus=f"sqlite:///{tmp_path / 'log.sqlite3'}", commit_interval_s=0.05)
    given = GatewaySettings(port=0, **trusting(tmp_path, rsa()))
    from tests.gateway.shop import Watch
    from tests.gateway.shop import module as shop

    overrides: dict[Any, Any] = {GatewaySettings: given, Watch: Watch()}
    async with App([shop, fissile_gateway.module], settings=settings, overrides=overrides):
        assert (tmp_path / "log.sqlite3.identity-key").stat().st_mode & 0o777 == 0o600


async def test_who_asks_is_in_the_access_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fissile.gateway.access")
    async with desk((orders, billing), **trusting(tmp_path, rsa())) as here:
        await here.get("/api/orders/who-am-i", token(here.now))
        await here.get("/api/orders/who-am-i")
    subjects = [record.__dict__.get("subject") for record in caplog.records if record.name == "fissile.gateway.access"]
    assert subjects == ["alice", None]
