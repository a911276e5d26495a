"""`fissile.connect()`: a script that hosts no module and uses them all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.example import PATIENCE_S, environment
from tests.cli.test_broker_commands import shared as shared
from tests.cli.test_broker_commands import split_running

SCRIPT = """
import json
import sys

import anyio

import fissile

BACKEND, FOLDER, BUS = sys.argv[1], sys.argv[2] or None, sys.argv[3] or None


async def main():
    async with fissile.connect(FOLDER, bus=BUS) as bus:
        from modules.billing.contract import GetTotal
        from modules.orders.contract import OutOfStock, PlaceOrder, placed

        async with bus.tap(placed) as tap:
            reply = await bus.execute(PlaceOrder("A1", quantity=3))
            with anyio.fail_after(30):
                tapped = await anext(tap)
        try:
            await bus.execute(PlaceOrder("none"))
        except OutOfStock as error:
            refused = error.sku
        total = await bus.ask(GetTotal("1"))
        hosts = "modules.orders.service" in sys.modules
    print(json.dumps([reply, tapped.event.sku, refused, total, hosts]))


anyio.run(main, backend=BACKEND)
"""
BACKENDS = ("asyncio", "trio")


def run_script(*arguments: str, cwd: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(
        command, cwd=cwd, env=environment(**settings), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_one_process_a_script_hosts_the_modules_itself(shop: Path, backend: str) -> None:
    done = run_script(backend, "", "memory://", cwd=shop)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["3 x A1 [] False", "A1", "none", 20, True]


def test_over_kafka_a_script_calls_the_processes_that_run(split_shop: Path, shared: dict[str, str]) -> None:
    elsewhere = split_shop.parent  # it names the folder of the application, and the bus
    own = {name: value for name, value in shared.items() if name != "FISSILE_BUS"}
    with split_running(split_shop, shared) as (dev, _):
        for backend in BACKENDS:
            done = run_script(backend, str(split_shop), shared["FISSILE_BUS"], cwd=elsewhere, **own)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == ["3 x A1 [] False", "A1", "none", 20, False]
            assert dev.wait_for("placing A1").startswith("orders")


def test_outside_of_an_application_a_script_is_told_how_to_name_its_folder(tmp_path: Path) -> None:
    done = run_script("asyncio", "", "", cwd=tmp_path)
    assert done.returncode != 0
    assert "There is no application here" in done.stderr
    assert "fissile.connect(folder=...)" in done.stderr
