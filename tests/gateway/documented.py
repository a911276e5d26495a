"""Serves an application so that its document can be tested against it: in one process, and with its modules in a second one."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio

import fissile_gateway
from fissile import App, Bus, Contract, Ids, Lifespan, Module, Process, Settings
from fissile._settings import Source, Sources
from fissile_gateway import Gateway, GatewaySettings, ProtectionSettings
from fissile_gateway._documents.files import openapi_of
from fissile_gateway._server import HttpServer, ServerSettings
from tests.gateway import back

ROOT = Path(__file__).parent.parent.parent

Where = Literal["one process", "two processes"]


def written(*contracts: Contract) -> dict[str, Any]:
    """Return the OpenAPI document that `fissile export` writes for some contracts and the hand-written routes of the tests."""
    sources = Sources((Source("test", {"FISSILE_ROUTES": "tests.gateway.everything_pages"}),))
    document: dict[str, Any] = json.loads(json.dumps(openapi_of("testing", contracts, sources)))
    return document


class Hosted:
    """The gateway and where it listens.

    Attributes:
        gateway: The gateway.
        url: Where it listens.
    """

    gateway: Gateway
    url: str


@asynccontextmanager
async def hosting(
    modules: Sequence[Module],
    where: Where = "one process",
    *,
    folder: Path | None = None,
    routes: str = "tests.gateway.everything_pages",
    overrides: dict[Any, Any] | None = None,
    **settings: Any,
) -> AsyncGenerator[Hosted]:
    """Serve modules on a free port. Event streams end at once, so that a client of every route comes to an end.

    Args:
        modules: The modules.
        where: In which processes; two share a log in `folder`, and the second one makes its own overrides (`back.py`).
        folder: Where the log and the databases are.
        routes: The package of hand-written routes.
        overrides: Resources to use instead of the modules' own.
        settings: The gateway's.
    """
    hosted = Hosted()
    ready = anyio.Event()
    front = Module(Contract("gateway"))

    @front.worker
    async def serve(bus: Bus, process: Process, lifespan: Lifespan, ids: Ids) -> None:
        given = GatewaySettings(port=0, routes=routes, **settings)
        # Whoever makes thousands of wrong requests would be locked out as one who guesses.
        protection = ProtectionSettings(rate_limit_failures="")
        hosted.gateway = fissile_gateway.create_app(bus, process, given, protection=protection, ids=ids)
        hosted.gateway.draining.set()
        server = HttpServer(hosted.gateway, ServerSettings(port=0, max_body_bytes=hosted.gateway.max_body_bytes))

        def started(address: tuple[str, int]) -> None:
            hosted.url = f"http://{address[0]}:{address[1]}"
            ready.set()
            lifespan.started()

        async def drain() -> None:
            await lifespan.draining()
            server.drain()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain)
            await server.serve(started=started)
            tasks.cancel_scope.cancel()

    async with AsyncExitStack() as stack:
        shared = (
            Settings() if folder is None else Settings(database=f"sqlite:///{folder / 'data'}", database_migrate=True)
        )
        if where == "one process":
            await stack.enter_async_context(
                App([*modules, front], settings=shared, name="testing", overrides=overrides)
            )
        else:
            assert folder is not None
            await stack.enter_async_context(_back(folder, modules))
            contracts = [module.contract for module in modules]
            await stack.enter_async_context(
                App([front], contracts=contracts, settings=back.shared(folder), name="testing", process="front")
            )
        with anyio.fail_after(60):
            await ready.wait()
        yield hosted


@asynccontextmanager
async def _back(folder: Path, modules: Sequence[Module]) -> AsyncGenerator[None]:
    """Run modules in a process of their own."""
    places = [re.sub(r"\.contract$", ".service", module.contract.import_name) for module in modules]
    command = [sys.executable, "-m", "tests.gateway.back", str(folder), *places]
    async with await anyio.open_process(command, cwd=ROOT, stderr=None) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with anyio.fail_after(120):
                assert await process.stdout.receive() == b"ready\n"
            yield
            await process.stdin.aclose()
            with anyio.fail_after(120):
                assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
