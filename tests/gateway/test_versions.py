"""Two versions of a contract side by side, the old one deprecated: in one process, and each in its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Any

import anyio
import httpx
import pytest

import fissile_gateway
from fissile import App, Contract, Environment, Module, StartupFailed
from fissile.testing import ManualClock
from fissile_gateway import GatewaySettings
from fissile_gateway._routes import derive
from tests.gateway.versions import first, second
from tests.runtime.helpers import client_of, log_of, quick


@asynccontextmanager
async def served(placement: str) -> AsyncGenerator[httpx.AsyncClient]:
    second.orders.clear()
    old, new = first.module, second.module
    url: list[str] = []
    gateway: dict[str, Any] = {"overrides": {GatewaySettings: GatewaySettings(port=0)}}
    async with anyio.create_task_group() as tasks:
        stop, ready = anyio.Event(), anyio.Event()

        async def run(app: App) -> None:
            def on_ready(told: tuple[str, ...]) -> None:
                url.extend(told)
                ready.set()

            await app.run(on_ready=on_ready, stop=stop)

        if placement == "one process":
            app = App([old, new, fissile_gateway.module], settings=quick(), **gateway)
            tasks.start_soon(run, app)
        else:
            clock = ManualClock()
            log = log_of(clock)
            environment = Environment(clock=clock)
            apart: dict[str, Any] = {"settings": quick(), "environment": environment}
            contracts = [old.contract, new.contract]
            hosts = [
                App([module], contracts=contracts, transport=client_of(log), is_loopback=True, **apart)
                for module in (old, new)
            ]
            edge = App(
                [fissile_gateway.module],
                contracts=contracts,
                transport=client_of(log),
                is_loopback=True,
                **apart,
                **gateway,
            )
            for host in hosts:
                await _start(host, tasks, stop)
            tasks.start_soon(run, edge)
        with anyio.fail_after(10):
            await ready.wait()
        async with httpx.AsyncClient(base_url=url[0], timeout=10, trust_env=False) as client:
            yield client
        stop.set()


async def _start(app: App, tasks: Any, stop: anyio.Event) -> None:
    ready = anyio.Event()

    async def run() -> None:
        await app.run(on_ready=lambda _: ready.set(), stop=stop)

    tasks.start_soon(run)
    with anyio.fail_after(10):
        await ready.wait()


@pytest.mark.parametrize("placement", ["one process", "apart"])
async def test_both_versions_answer_and_only_the_old_one_is_deprecated(placement: str) -> None:
    async with served(placement) as client:
        old = await client.post("/api/orders/place-order", json={"sku": "A"})
        new = await client.post("/api/v2/orders/place-order", json={"sku": "B", "count": 3})
        assert (old.status_code, old.json()) == (200, "A")
        assert (new.status_code, new.json()) == (200, {"sku": "B", "count": 3})
        assert (await client.get("/api/v2/orders/find-orders")).json() == ["A", "B"]  # the old one calls the new one
        assert old.headers["deprecation"] == "@1769817600"
        assert old.headers["sunset"] == "Sun, 31 Jan 2027 12:00:00 GMT"
        assert old.headers["link"] == '<https://example.test/orders-v2>; rel="deprecation"'
        assert not {"deprecation", "sunset", "link"} & set(new.headers)
        wrong = await client.post("/api/orders/place-order", json={"sku": "A", "count": 1})
        assert (wrong.status_code, wrong.headers["deprecation"]) == (400, "@1769817600")
        near = await client.post("/api/v2/orders/place-ordr", json={})
        assert "Did you mean /api/v2/orders/place-order?" in near.json()["detail"]


def test_each_version_has_names_and_topics_of_its_own() -> None:
    old, new = first.module, second.module
    app = App([old, new])
    assert app.check() == ()
    routes = derive([old.contract, new.contract])
    assert {route.path: (route.name, route.is_deprecated) for route in routes} == {
        "/api/orders/place-order": ("orders.place-order", True),
        "/api/orders/topics/placed": ("orders.placed", True),
        "/api/v2/orders/place-order": ("orders-v2.place-order", False),
        "/api/v2/orders/find-orders": ("orders-v2.find-orders", False),
        "/api/v2/orders/topics/placed": ("orders-v2.placed", False),
    }
    assert (new.contract.name, new.contract.base_name, new.contract.version) == ("orders-v2", "orders", 2)


async def test_a_contract_that_is_called_like_another_ones_version_is_refused() -> None:
    first, second = Contract("orders", version=2, messages=[]), Contract("orders-v2", messages=[])
    with pytest.raises(StartupFailed, match="Two contracts are called 'orders-v2'"):
        async with App([Module(first), Module(second)]):
            pass


def test_a_contract_whose_name_is_that_of_a_version_is_refused() -> None:
    (fault,) = App([Module(Contract("v2", messages=[]))]).check()
    assert "is that of a version" in fault.what


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"version": 0}, "has to be 1 or more"),
        ({"sunset": date(2026, 1, 1)}, "is not deprecated before it"),
        ({"deprecated": date(2026, 1, 2), "sunset": date(2026, 1, 1)}, "is not deprecated before it"),
        ({"deprecated": datetime(2026, 1, 2)}, "has no time zone"),
        ({"deprecated": date(2026, 1, 2), "deprecation_url": "x>\r\nset-cookie: a=b"}, "is no URL"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_written(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Contract("orders", messages=[], **wrong)
