"""`fissile sagas`, in a process of its own, beside one that runs the sagas."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from fissile import Retry
from fissile.database import Saga
from tests.cli.example import fissile
from tests.sagas.shop import Charge, Function, Place, Placed, Refund, Shop, Stand, checkout, running, standing, waits_at
from tests.sagas.test_failures import buy
from tests.sagas.test_restarts import begun, resumed

ROOT = Path(__file__).parent.parent.parent

PYPROJECT = """
[tool.fissile]
name = "shop"
modules = ["shop_modules:orders", "shop_modules:pay"]
"""
MODULES = """
from tests.sagas.shop import Shop, checkout
from tests.sagas.test_failures import buy

orders = Shop().orders(checkout(buy))
pay = Shop().pay()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the application."""
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "shop_modules.py").write_text(MODULES)
    return tmp_path


async def command(folder: Path, url: str, *arguments: str) -> Any:
    """Run `fissile sagas`."""
    return await anyio.to_thread.run_sync(
        partial(fissile, "sagas", *arguments, cwd=folder, FISSILE_DATABASE=url, PYTHONPATH=str(ROOT))
    )


async def test_a_saga_that_could_not_be_undone_is_listed_shown_and_resumed(folder: Path, database_url: str) -> None:
    call = partial(command, folder, database_url)
    assert "There are no such sagas." in (await call("ls")).stderr
    shop = Shop(faults={"ship A1": [ValueError("no")] * 3, "refund first": [ValueError("closed")] * 3})
    async with running(shop, checkout(buy), database_url) as app:
        await app.bus.execute(Place("A1"))
        await standing(app, "A1", "failed")
        listed = json.loads((await call("ls", "--status", "failed", "--json")).stdout)
        assert [(each["module"], each["name"], each["id"]) for each in listed] == [("orders", "checkout", "A1")]
        assert json.loads((await call("ls", "--status", "stuck", "--json")).stdout) == []
        shown = (await call("show", "A1")).stdout
        assert "orders.checkout A1: failed" in shown
        assert "HandlerFailed: pay.refund failed with ValueError: closed" in shown
        done = await call("resume", "A1")
        assert done.returncode == 0, done.stderr
        await standing(app, "A1", "compensated")
        assert (await call("resume", "A1")).returncode == 1
        history = json.loads((await call("show", "A1", "--json")).stdout)["history"]
    assert [step["undone"] is not None for step in history] == [True, True, True, False]
    assert shop.names[-4:] == ["refund first"] * 4


async def test_where_there_are_more_than_are_shown_it_says_so_and_shows_those_that_need_a_person_first(
    folder: Path, database_url: str
) -> None:
    call = partial(command, folder, database_url)
    shop = Shop(faults={"ship A1": [ValueError("no")] * 3, "refund first": [ValueError("closed")] * 3})
    async with running(shop, checkout(buy), database_url) as app:
        await app.bus.execute(Place("A1"))
        await standing(app, "A1", "failed")
        for name in ("B1", "B2"):
            await app.bus.execute(Place(name))
            await standing(app, name, "completed")
    whole = await call("ls", "--json", "--limit", "3")
    assert [each["id"] for each in json.loads(whole.stdout)] == ["A1", "B2", "B1"]
    assert "more sagas" not in whole.stderr
    for arguments in (("--json",), ()):
        cut = await call("ls", "--limit", "2", *arguments)
        assert "B1" not in cut.stdout
        assert cut.stdout.index("A1") < cut.stdout.index("B2")
        assert "There are more sagas of orders than the 2 shown" in cut.stderr
    assert (await call("ls", "--limit", "0")).returncode == 2


async def test_a_stuck_saga_that_is_given_up_by_hand_says_so_instead_of_what_it_was_stuck_on(
    folder: Path, tmp_path: Path
) -> None:
    shop, url = Shop(), f"sqlite:///{tmp_path}"
    await begun(tmp_path, shop)

    async def other(order: Placed, saga: Saga) -> None:
        await saga.execute(Refund(order.id))

    assert (await resumed(shop, other, tmp_path))[0] == "stuck"
    async with running(shop, checkout(other), tmp_path) as app:
        await standing(app, "A1", "stuck")
        done = await command(folder, url, "compensate", "A1")
        assert "A1 is being undone" in done.stderr
        found = await standing(app, "A1", "compensated")
    assert found.error == "It was given up by hand (fissile sagas compensate)."


async def buy_and_undo_by_the_reply(order: Placed, saga: Saga) -> None:
    """What undoes the charge needs its reply."""
    await saga.execute(Charge("first"), undo=lambda total: Refund(f"first, {total}"))


@pytest.mark.parametrize(("function", "undo"), [(buy, "refund first"), (buy_and_undo_by_the_reply, "refund first, 1")])
async def test_what_runs_is_undone_after_the_step_in_hand(
    folder: Path, database_url: str, function: Function, undo: str
) -> None:
    url, shop = database_url, Shop(gate=anyio.Event())
    assert shop.gate is not None
    async with running(shop, checkout(function), url) as app:
        await app.bus.execute(Place("A1"))
        with anyio.fail_after(20):
            while shop.running == 0:
                await anyio.sleep(0.01)
        assert (await command(folder, url, "compensate", "A1")).returncode == 0
        await anyio.sleep(1.5)
        assert shop.names == []
        shop.gate.set()
        found = await standing(app, "A1", "compensated")
    assert shop.names == ["charge first", undo]
    assert found.history == ("execute pay.charge: replied, undone",)


async def test_a_saga_that_waits_is_undone_on_demand_and_one_that_is_retried_goes_on_at_once(
    folder: Path, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'data'}"
    slow = Retry(attempts=5, first_s=3600.0, longest_s=3600.0)
    shop = Shop(faults={"ship A1": [ValueError("no")], "ship A2": [ValueError("no")]})
    async with running(shop, checkout(buy, retry=slow), url) as app:
        for name in ("A1", "A2"):
            await app.bus.execute(Place(name))
            await waits_at(app, name, "execute pay.ship")
        assert (await command(folder, url, "compensate", "A1")).returncode == 0
        found = await standing(app, "A1", "compensated")
        assert found.error is not None
        assert "by hand" in found.error
        assert (await command(folder, url, "resume", "A2", "--module", "orders", "--name", "checkout")).returncode == 0
        await standing(app, "A2", "completed")
        unknown = await command(folder, url, "show", "A3")
        assert (unknown.returncode, await app.bus.ask(Stand("A3"))) == (4, None)
