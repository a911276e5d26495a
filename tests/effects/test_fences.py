"""A process that has lost a partition without knowing cannot commit what it was handling."""

from __future__ import annotations

import anyio
import pytest
from attrs import frozen
from sqlalchemy import MetaData, create_engine, text

from fissile import App, Bus, Command, Contract, Event, Module, Settings, Topic
from fissile.database import Schema
from tests.effects.shop import Count, Hooks, Place, make
from tests.runtime.helpers import until


@frozen
class Cry(Command[None]):
    text: str


@frozen
class Heard(Event):
    text: str


cries = Topic("shop.cries", Heard, key=lambda event: event.text)


def take_over(settings: Settings) -> None:
    """Do what a process does that is given the partitions while this one does not answer."""
    url = settings.database.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(f"{url}/shop.sqlite3" if url.startswith("sqlite") else url)
    table = "fissile_fence" if url.startswith("sqlite") else f"{settings.database_prefix}shop.fissile_fence"
    with engine.begin() as connection:
        changed = connection.execute(text(f"UPDATE {table} SET epoch = epoch + 1"))
        assert changed.rowcount
    engine.dispose()


@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_zombie_cannot_commit_and_the_message_takes_effect_once(
    settings: Settings, *, idempotent: bool
) -> None:
    hooks, taken = Hooks(), list[bool]()

    async def lose(_: object) -> None:
        if not taken:
            taken.append(True)
            await anyio.to_thread.run_sync(take_over, settings)

    hooks.before = lose
    async with App([make(hooks, idempotent=idempotent)], settings=settings) as app:
        await app.bus.send(Place("a"))
        # It still holds the partition, as far as the log knows, so the message comes again and takes effect then.
        await until(lambda: hooks.seen)
        assert await app.bus.ask(Count("a")) == 1
    assert (hooks.handled, hooks.seen) == (["a", "a"], [("a", 1)])


async def test_a_zombie_publishes_nothing_either_where_its_handler_has_no_transaction(settings: Settings) -> None:
    heard: list[str] = []
    taken: list[str] = []
    module = Module(
        Contract("shop", messages=[Cry, Heard], topics=[cries]), database=Schema(MetaData(), migrations=None)
    )

    @module.command(Cry, idempotent=True)
    async def cry(command: Cry, bus: Bus) -> None:
        taken.append(command.text)
        await bus.publish(Heard(f"{command.text} {len(taken)}"))
        if len(taken) == 1:
            await anyio.to_thread.run_sync(take_over, settings)

    @module.subscribe(cries)
    async def on_heard(event: Heard) -> None:
        heard.append(event.text)

    async with App([module], settings=settings) as app:
        await app.bus.send(Cry("a"))
        await until(lambda: heard)
    assert (taken, heard) == (["a", "a"], ["a 2"])


async def test_a_caller_is_not_told_a_failure_by_a_process_that_has_lost_the_partition(settings: Settings) -> None:
    hooks = Hooks()

    async def lose(_: object) -> None:
        await anyio.to_thread.run_sync(take_over, settings)

    hooks.before = lose
    async with App([make(hooks)], settings=settings, is_loopback=True) as app:
        # The new owner of the partition is the one to answer; here there is none, and nobody else answers for it.
        with anyio.move_on_after(0.5) as scope:
            await app.bus.execute(Place("a"))
        assert scope.cancelled_caught
        assert await app.bus.ask(Count("a")) == 0
