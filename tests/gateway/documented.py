"""Serves an application so that its document can be tested against it: in one process, and split in two that share a log."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import anyio
import attrs

import fissile_gateway
from fissile import App, Bus, Contract, Ids, Lifespan, Module, Process, Settings
from fissile._settings import Source, Sources
from fissile_gateway import Gateway, GatewaySettings
from fissile_gateway._documents.files import openapi_of
from fissile_gateway._server import HttpServer, ServerSettings

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
        where: In which processes; two share a log in `folder`.
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
        hosted.gateway = fissile_gateway.create_app(bus, process, given, ids=ids)
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
            bus = f"sqlite:///{folder / 'log.sqlite3'}"
            shared = attrs.evolve(shared, bus=bus, identity_keys=("a key for tests, of 32 characters",))
            back = App(modules, settings=shared, name="testing", process="back", overrides=overrides)
            contracts = [module.contract for module in modules]
            await stack.enter_async_context(back)
            await stack.enter_async_context(
                App([front], contracts=contracts, settings=shared, name="testing", process="front")
            )
        with anyio.fail_after(10):
            await ready.wait()
        yield hosted
