"""A database that cannot be written for a while: no failed attempt, nothing lost, and the saga goes on when it can."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest

from fissile.database import Saga
from tests.sagas.shop import Charge, Place, Placed, Refund, Shop, checkout, ended, running, until, write_note


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Keep the only place of a writer, as a program would that somebody has opened the file with."""
    with closing(sqlite3.connect(folder / "orders.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield  # closing it ends the transaction


async def test_a_database_that_is_away_for_a_while_is_no_failed_attempt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(gate=anyio.Event())

    async def function(order: Placed, saga: Saga) -> None:
        await saga.execute(Charge(order.id), undo=Refund(order.id))
        await saga.transaction(write_note, order.id)

    async with running(shop, checkout(function), tmp_path, database_lock_s=0.1) as app:
        await app.bus.execute(Place("A1"))
        await until(lambda: shop.running == 1)
        with locked(tmp_path), caplog.at_level(logging.WARNING, "fissile.sagas"):
            assert shop.gate is not None
            shop.gate.set()
            await until(lambda: "waits for the database" in caplog.text)
        found = await ended(app, "A1")
    assert (found.status, found.error) == ("completed", None)
    assert shop.names == ["charge A1"]


async def test_a_saga_that_could_not_be_let_go_of_goes_on_when_the_database_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its process lives on, bears its name and renews what it runs; this one it does not run any more."""
    shop = Shop(gate=anyio.Event())

    async def function(order: Placed, saga: Saga) -> None:
        await saga.execute(Charge(order.id))

    async with running(shop, checkout(function), tmp_path, database_lock_s=0.1, saga_claim_s=3.0) as app:
        await app.bus.execute(Place("A1"))
        await until(lambda: shop.running == 1)
        with locked(tmp_path), caplog.at_level(logging.DEBUG, "fissile.sagas"):
            assert shop.gate is not None
            shop.gate.set()
            await until(lambda: "was left as it is" in caplog.text)
        assert (await ended(app, "A1")).status == "completed"
    assert shop.names == ["charge A1"]
