"""A message that can never be handled comes to an end, whatever it is that goes wrong each time."""

from __future__ import annotations

import anyio
import pytest
from attrs import evolve, frozen
from sqlalchemy import text

from fissile import App, Command, Contract, Module, Retry, Settings
from fissile.database import Database, Schema
from tests.effects.shop import metadata


@frozen
class Dawdle(Command[None]):
    reads: bool


contract = Contract("slow")


@pytest.mark.parametrize("reads", [False, True])
async def test_a_statement_that_takes_too_long_each_time_is_given_up_in_the_end(
    settings: Settings, *, reads: bool
) -> None:
    if not settings.database.startswith("postgresql"):
        pytest.skip("SQLite has no bound for a statement")
    module = Module(contract, database=Schema(metadata, migrations=None))

    @module.command(Dawdle, retry=Retry(attempts=2, first_s=0.01))
    async def dawdle(command: Dawdle, database: Database) -> None:
        if command.reads:
            await database.read(text("SELECT pg_sleep(60)"))
        async with database.transaction() as tx:
            await tx.execute(text("SELECT pg_sleep(60)"))

    _ = dawdle
    brief = evolve(settings, database=f"{settings.database}?options=-c%20statement_timeout%3D100")
    async with App([module], settings=brief) as app:
        await app.bus.send(Dawdle(reads))
        with anyio.fail_after(20):
            while not (letters := await app.dead_letters()):
                await anyio.sleep(0.02)
    (letter,) = letters
    assert letter.attempts == 2
    assert "statement timeout" in letter.reason
