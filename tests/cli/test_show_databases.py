"""`fissile ls` of modules with a database: where it is, their sagas, their schedules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.example import fissile

PYPROJECT = """
[tool.fissile]
name = "shop"
modules = ["shop_modules:orders", "shop_modules:plain"]
"""
MODULES = '''
from attrs import frozen
from fissile import Command, Contract, Event, Module, Retry, Topic
from fissile.database import Saga, Schema
from sqlalchemy import MetaData

@frozen
class CleanUp(Command[None]):
    """Is due at night."""

@frozen
class Placed(Event):
    id: str

@frozen
class Ask(Command[None]):
    """Is asked."""

placed = Topic("orders.placed", Placed, key=lambda event: event.id)
orders = Module(Contract("orders", messages=[CleanUp, Placed], topics=[placed]), database=Schema(MetaData(), migrations=None))
plain = Module(Contract("plain", messages=[Ask]))

@orders.command(CleanUp)
async def clean_up(command: CleanUp) -> None: ...

@orders.saga(placed, id=lambda event: event.id, awaits=[placed], retry=Retry(attempts=7, first_s=0.5, longest_s=9.0, permanent=(LookupError,)))
async def checkout(order: Placed, saga: Saga) -> None: ...

orders.schedule("nightly", "0 3 * * *", CleanUp(), time_zone="Europe/Berlin")

@plain.command(Ask, idempotent=True)
async def ask(command: Ask) -> None: ...
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the application."""
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "shop_modules.py").write_text(MODULES)
    return tmp_path


def listed(folder: Path, kind: str, **environment: str) -> Any:
    return json.loads(fissile("ls", kind, "--json", cwd=folder, **environment).stdout)


def test_ls_sagas_shows_what_starts_them_and_when_a_step_is_tried_again(folder: Path) -> None:
    (saga,) = listed(folder, "sagas")
    assert "shop_modules.py:" in saga.pop("function")
    assert saga == {
        "module": "orders",
        "saga": "checkout",
        "starts": ["Placed"],
        "waits_for": ["orders.placed"],
        "retry": "7 times from 0.5 s, at most 9 s, then the saga gets the error; never on LookupError",
    }
    assert "checkout" in fissile("ls", "sagas", cwd=folder).stdout


def test_ls_schedules_shows_expression_time_zone_and_command(folder: Path) -> None:
    assert listed(folder, "schedules") == [
        {
            "module": "orders",
            "schedule": "nightly",
            "expression": "0 3 * * *",
            "time_zone": "Europe/Berlin",
            "command": "orders.clean-up",
        }
    ]


def test_ls_modules_shows_where_each_database_is_without_its_password(folder: Path) -> None:
    url = "postgresql://me:swordfish@db.example/shop"
    found = {each["module"]: each["database"] for each in listed(folder, "modules", FISSILE_DATABASE=url)}
    assert found["plain"] is None
    assert found["orders"] == "postgresql://me:***@db.example/shop, schema orders"
    found = {each["module"]: each["database"] for each in listed(folder, "modules")}
    assert found["orders"] == str(folder / "data" / "orders.sqlite3")


def test_ls_modules_tells_of_a_database_that_cannot_be_used_and_of_the_rest(folder: Path) -> None:
    found = {each["module"]: each["database"] for each in listed(folder, "modules", FISSILE_DATABASE="mysql://x")}
    assert found["orders"] == "There is no support for databases of the kind 'mysql'."
