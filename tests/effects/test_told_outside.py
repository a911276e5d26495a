"""What a caller is told of a statement that failed: not the statement, and not the row."""

from __future__ import annotations

import logging

import pytest
from attrs import frozen
from sqlalchemy import Column, MetaData, String, Table, insert

from fissile import App, Command, Contract, HandlerFailed, Module, Settings
from fissile.database import Database, Schema

metadata = MetaData()
cards = Table("cards", metadata, Column("number", String(50), primary_key=True))


@frozen
class Keep(Command[None]):
    number: str


contract = Contract("cards", messages=[Keep])


def make() -> Module:
    module = Module(contract, database=Schema(metadata, migrations=None))

    @module.command(Keep)
    async def keep(command: Keep, database: Database) -> None:
        async with database.transaction() as tx:
            await tx.execute(insert(cards).values(number=command.number))

    return module


@pytest.mark.parametrize("is_loopback", [False, True])
async def test_a_caller_gets_neither_the_statement_nor_the_row_and_the_log_has_them(
    settings: Settings, caplog: pytest.LogCaptureFixture, *, is_loopback: bool
) -> None:
    async with App([make()], settings=settings, is_loopback=is_loopback) as app:
        await app.bus.execute(Keep("4711"))
        with caplog.at_level(logging.ERROR), pytest.raises(HandlerFailed) as failed:
            await app.bus.execute(Keep("4711"))
    error = failed.value
    assert error.error_type == "IntegrityError"
    assert "unique" in error.error_text.lower()
    assert not any(text in str(error) for text in ("\n", "INSERT", "4711", "sqlalche.me"))
    assert "INSERT INTO cards" in caplog.text
