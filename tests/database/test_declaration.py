"""Declarations of databases that are wrong, and what is told of them."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import frozen
from sqlalchemy import MetaData

from fissile import App, Command, Contract, Module
from fissile.database import Database, Sagas, Schema


@frozen
class Go(Command[None]):
    """Is handled with a database."""


contract = Contract("orders", messages=[Go])


@pytest.mark.parametrize("wrong", ["tables", None, MetaData])
def test_a_schema_of_something_else_than_metadata_is_refused_with_what_to_write(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"A Schema takes the MetaData .*write Schema\(MetaData\(\)\)"):
        Schema(wrong)


@pytest.mark.parametrize("kind", [Database, Sagas])
def test_who_takes_a_database_in_a_module_without_one_is_told_to_declare_it(kind: type) -> None:
    module = Module(contract)

    async def go(command: Go, given: Any) -> None: ...

    go.__annotations__["given"] = kind
    module.command(Go, idempotent=True)(go)
    (fault,) = App([module]).check()
    assert f"takes given: {kind.__name__}, which nobody gives to a command's handler" in fault.what
    assert fault.cure == "Give the module orders a database: Module(contract, database=Schema(metadata))."
