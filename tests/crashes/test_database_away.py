"""PostgreSQL that goes away under load, or is cut off in a commit: nothing is lost, none happens twice, and outcomes are known again."""

from __future__ import annotations

import logging
import signal
from collections import Counter
from itertools import count
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import anyio
import attrs
import pytest
from attrs import define, field, frozen
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

from fissile import App, Caller, Command, Contract, HandlerFailed, Module, Settings
from fissile.database import Database, Schema
from tests.brokers.postgres import PostgresServer
from tests.crashes.cutter import Cutter, cutting
from tests.crashes.driver import IS_SOAK, SEED, SETTINGS
from tests.crashes.modules import Note, Place, SoldOut, make_ledger, make_orders
from tests.crashes.state import rows, waiting
from tests.figures import figure
from tests.runtime.helpers import until

pytestmark = [pytest.mark.timeout(1200 if IS_SOAK else 120)]

AWAY_S = 2.0
OUTAGES = 30 if IS_SOAK else 3


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a log that survives, and schemas of the test's own."""
    return attrs.evolve(
        SETTINGS, bus=f"sqlite:///{tmp_path / 'log.sqlite3'}", database_prefix=f"a{uuid4().hex[:8]}_", drain_s=10.0
    )


# --- a server that is stopped ----------------------------------------------------------------------------------------


@define(eq=False)
class Load:
    """Commands that are repeated until their outcome is known."""

    app: App
    tokens: dict[str, str] = field(factory=dict)
    sent: list[str] = field(factory=list)
    failures: Counter[str] = field(factory=lambda: Counter[str]())
    stops: bool = False

    async def execute(self, key: str) -> None:
        for number in count():
            if self.stops:
                return
            name = f"{key}/{number}"
            while name not in self.tokens:
                try:
                    self.tokens[name] = await self.app.bus.execute(Place(key, number), id=name)
                except SoldOut as error:
                    self.tokens[name] = f"sold out {error.token}"
                except HandlerFailed as error:  # who waits is told, and asks again
                    self.failures[error.error_type] += 1
                    await anyio.sleep(0.05)
            await anyio.sleep(0.002)

    async def send(self, key: str) -> None:
        for number in count():
            if self.stops:
                return
            await self.app.bus.send(Note(key, number), id=f"{key}/{number}")
            self.sent.append(f"{key}/{number}")
            await anyio.sleep(0.02)

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for key in "abcd":
                tasks.start_soon(self.execute, key)
            tasks.start_soon(self.send, "n")


def is_well(app: App) -> bool:
    return all(check.problem is None for check in app.checks())


@pytest.mark.parametrize(
    ("how", "anyio_backend"),
    [pytest.param(signal.SIGINT, "asyncio", id="stopped"), pytest.param(signal.SIGQUIT, "trio", id="killed")],
)
async def test_while_the_server_is_away_messages_wait_and_afterwards_each_has_happened_once(
    own_postgres: PostgresServer, settings: Settings, how: signal.Signals, anyio_backend: str
) -> None:
    settings, random = attrs.evolve(settings, database=own_postgres.url), Random(SEED)
    outages = 1 if how == signal.SIGINT else OUTAGES
    async with App([make_orders(), make_ledger(is_cured=True)], settings=settings) as app:
        load = Load(app)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(load.run)
            for _ in range(outages):
                reached = len(load.tokens) + 20
                await until(lambda reached=reached: len(load.tokens) >= reached, "commands are executed")  # type: ignore[misc]
                await anyio.sleep(random.uniform(0.0, 0.1))
                await anyio.to_thread.run_sync(own_postgres.stop, how)
                await until(
                    lambda: any("orders" in check.name and check.problem for check in app.checks()), "readiness says so"
                )
                await anyio.sleep(AWAY_S if how == signal.SIGINT else random.uniform(0.0, 0.3))
                await anyio.to_thread.run_sync(own_postgres.start)
                await _patiently(lambda: is_well(app), "it recovers by itself")
            load.stops = True
        assert await app.dead_letters() == ()
        wanted = {name for name, token in load.tokens.items() if not token.startswith("sold out")} | set(load.sent)
        await _patiently(
            lambda: len(rows(settings, "orders", "SELECT 1 FROM {}orders")) >= len(wanted), "all are handled"
        )
        await _patiently(
            lambda: len(rows(settings, "ledger", "SELECT 1 FROM {}entries")) >= len(wanted), "all events are handled"
        )
        await _patiently(lambda: not waiting(settings), "the outboxes are empty")
        assert await app.dead_letters() == ()
    orders = [
        (str(name), str(token)) for name, token in rows(settings, "orders", "SELECT message_id, token FROM {}orders")
    ]
    entries = [(str(a), str(b)) for a, b in rows(settings, "ledger", "SELECT order_id, token FROM {}entries")]
    assert Counter(name for name, _ in orders) == Counter(wanted)
    assert Counter(entries) == Counter(orders)
    assert all(dict(orders)[name] == token for name, token in load.tokens.items() if not token.startswith("sold out"))
    figure(f"{how.name}, {outages} outages: {len(wanted)} effects, told to callers meanwhile: {dict(load.failures)}")
    assert set(load.failures) <= {"DatabaseUnavailable"}
    assert load.failures


async def _patiently(condition: Any, what: str) -> None:
    """Wait for a condition that asks a database."""
    with anyio.fail_after(60):
        while not await anyio.to_thread.run_sync(condition):
            await anyio.sleep(0.05)


# --- a commit that is cut off ----------------------------------------------------------------------------------------

metadata = MetaData()
payments = Table(
    "payments",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("message_id", String(100), nullable=False),
    Column("token", String(40), nullable=False),
)


@frozen
class Pay(Command[str]):
    """Writes a row on a connection that may be cut."""


cashier_contract = Contract("cashier", messages=[Pay])


def make_cashier(cutter: Cutter, runs: list[str]) -> Module:
    """The module; each run of its handler is counted, with its token."""
    module = Module(cashier_contract, database=Schema(metadata, migrations=None))

    @module.command(Pay)
    async def pay(command: Pay, database: Database, caller: Caller) -> str:
        runs.append(uuid4().hex)
        token = runs[-1]
        async with database.transaction() as tx:
            await tx.execute(insert(payments).values(message_id=caller.message_id, token=token))
            await tx.run(cutter.mark)
        return token

    return module


def paid(settings: Settings) -> list[tuple[str, str]]:
    return [(str(a), str(b)) for a, b in rows(settings, "cashier", "SELECT message_id, token FROM {}payments")]


async def test_a_commit_whose_answer_was_lost_is_found_and_the_caller_gets_its_reply(
    postgres: str, settings: Settings
) -> None:
    runs: list[str] = []
    async with cutting(postgres) as (cutter, url):
        direct, settings = attrs.evolve(settings, database=postgres), attrs.evolve(settings, database=url)
        async with App([make_cashier(cutter, runs)], settings=settings) as app:
            cutter.wanted = "after"
            reply = await app.bus.execute(Pay(), id="one")
            assert await app.bus.execute(Pay(), id="one") == reply
            cutter.wanted = "after"
            await app.bus.send(Pay(), id="two")
            await until(lambda: cutter.cuts == 2, "the second is cut, too")
            await _patiently(lambda: len(paid(direct)) == 2, "the second is there")
        assert (cutter.cuts, len(runs)) == (2, 2)
        assert paid(direct) == [("one", runs[0]), ("two", runs[1])]
        assert reply == runs[0]


async def test_a_commit_that_never_arrived_has_not_happened_and_the_next_try_does(
    postgres: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    runs: list[str] = []
    async with cutting(postgres) as (cutter, url):
        direct, settings = attrs.evolve(settings, database=postgres), attrs.evolve(settings, database=url)
        async with App([make_cashier(cutter, runs)], settings=settings) as app:
            cutter.wanted = "before"
            with pytest.raises(HandlerFailed, match=r"DatabaseUnavailable.*which is not there"):
                await app.bus.execute(Pay(), id="one")
            assert paid(direct) == []
            assert await app.bus.execute(Pay(), id="one") == runs[1]
            cutter.wanted = "before"
            await app.bus.send(Pay(), id="two")  # nobody waits: it is tried again by itself
            await _patiently(lambda: len(paid(direct)) == 2, "the second is there")
            assert await app.dead_letters() == ()
        assert paid(direct) == [("one", runs[1]), ("two", runs[3])]


async def test_a_commit_that_arrives_after_its_caller_has_given_it_up_makes_the_next_try_a_repeat(
    postgres: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    runs, replies = list[str](), list[str]()
    async with cutting(postgres) as (cutter, url):
        direct, settings = attrs.evolve(settings, database=postgres), attrs.evolve(settings, database=url)
        async with App([make_cashier(cutter, runs)], settings=settings) as app, anyio.create_task_group() as tasks:
            cutter.wanted = "held"
            with pytest.raises(HandlerFailed, match="DatabaseUnavailable"):
                await app.bus.execute(Pay(), id="one")

            async def again() -> None:
                replies.append(await app.bus.execute(Pay(), id="one"))

            tasks.start_soon(again)
            await until(lambda: len(runs) == 2, "it is handled again")
            await anyio.sleep(0.2)  # it now waits for the transaction that is still open
            assert replies == []
            cutter.release.set()
            await until(lambda: replies, "the answer")
        assert replies == [runs[0]]
        assert paid(direct) == [("one", runs[0])]
