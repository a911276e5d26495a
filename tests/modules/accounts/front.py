"""The accounts and the challenges behind the gateway, as this application has them, without sockets; the test owns the clock."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from attrs import define, evolve
from dotenv import dotenv_values

import fissile_gateway
from fissile import App, Bus, Contract, Environment, Lifespan, Module, Process, Settings
from fissile.testing import ManualClock, fake
from fissile_gateway import GatewaySettings, ProtectionSettings, RouteLimits
from modules.accounts.service import module as accounts
from modules.accounts.settings import AccountsSettings
from modules.challenges.service import module as challenges
from modules.code_executor import contract as executor
from tests.modules.accounts.accounts import CHEAP, GOOD

ROOT = Path(__file__).parents[3]


def gateway_settings(**changes: Any) -> GatewaySettings:
    """The gateway's settings in `.env`."""
    given = dotenv_values(ROOT / ".env")
    return GatewaySettings(
        jwt_jwks=str(given["FISSILE_JWT_JWKS"]),
        jwt_issuer=str(given["FISSILE_JWT_ISSUER"]),
        jwt_audience=(str(given["FISSILE_JWT_AUDIENCE"]),),
        jwt_algorithms=(str(given["FISSILE_JWT_ALGORITHMS"]),),
        api_keys_query=str(given["FISSILE_API_KEYS_QUERY"]),
        **changes,
    )


def route_limits() -> dict[str, RouteLimits]:
    """The limits of routes in `pyproject.toml`, as far as these modules go."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        routes = tomllib.load(file)["tool"]["fissile"]["gateway"]["routes"]
    return {name: RouteLimits(**limits) for name, limits in routes.items() if name.startswith(("accounts", "/session"))}


@define(eq=False)
class Front:
    """What a test does with it."""

    bus: Bus
    gateway: fissile_gateway.Gateway
    clock: ManualClock

    def client(self, address: str = "192.0.2.1", scheme: str = "http") -> httpx.AsyncClient:
        """Make a client that comes from an address, and keeps cookies as a browser does."""
        transport = httpx.ASGITransport(app=self.gateway, client=(address, 50_000))
        return httpx.AsyncClient(transport=transport, base_url=f"{scheme}://play.test", timeout=20)

    async def sign_up(self, name: str = "ada", password: str = GOOD) -> None:
        async with self.client("198.51.100.1") as client:
            answer = await client.post("/api/accounts/sign-up", json={"name": name, "password": password})
            assert answer.status_code == 204, answer.text


@asynccontextmanager
async def front(
    folder: Path, *, protection: dict[str, Any] | None = None, gateway: dict[str, Any] | None = None, **changes: Any
) -> AsyncGenerator[Front]:
    """Run the modules, and make the gateway."""
    clock = ManualClock()
    made: list[tuple[Bus, Process]] = []
    taking = Module(Contract("gateway"))

    @taking.worker
    async def take(bus: Bus, process: Process, lifespan: Lifespan) -> None:
        made.append((bus, process))
        lifespan.started()
        await lifespan.draining()

    limits_of_runs = fake(executor.contract, {executor.GetLimits: executor.RunLimits(5.0, 256, 1 << 18, 1 << 16)})
    app = App(
        [challenges, accounts, limits_of_runs.module, taking],
        settings=Settings(database=f"sqlite:///{folder}"),
        environment=Environment(clock=clock),
        overrides={AccountsSettings: evolve(CHEAP, **changes)},
        is_dev=True,
    )
    async with app:
        bus, process = made[0]
        settings = gateway_settings(routes="gateway.app", **(gateway or {}))
        limits = ProtectionSettings(**{"route_limits": route_limits(), **(protection or {})})
        yield Front(app.bus, fissile_gateway.create_app(bus, process, settings, protection=limits, clock=clock), clock)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}
