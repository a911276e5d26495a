"""Identities and what a module keeps in its database: the inbox, the outbox, what is sent later, schedules, sagas."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from attrs import evolve, frozen
from sqlalchemy import MetaData

from fissile import App, Bus, Caller, Command, Contract, Environment, Event, Forbidden, Ids, Module, Settings, Topic
from fissile.database import Database, Saga, Schema
from fissile.testing import ManualClock, user
from tests.identity.modules import Seen, seen
from tests.runtime.helpers import until

KEY = "a key with 32 characters or more"
ALICE, BOB = user("alice", "desk:use", "desk:start"), user("bob", "desk:start")


@frozen
class Use(Command[Seen], requires="desk:use"):
    note: str = ""


@frozen
class Later(Command[None]):
    """Sends `Use` in some way."""

    how: str


@frozen
class Start(Command[None], requires="desk:start"):
    """Starts a saga."""


@frozen
class Happened(Event):
    note: str


happened = Topic("desk.happened", Happened, key=lambda event: event.note)
contract = Contract("desk", messages=[Use, Later, Start, Happened], topics=[happened])


def desk(used: list[tuple[str, Seen]], *, has_schedule: bool = False) -> Module:
    module = Module(contract, database=Schema(MetaData(), migrations=None))

    @module.command(Use)
    async def use(command: Use, caller: Caller) -> Seen:
        used.append((command.note, seen(caller.identity)))
        return seen(caller.identity)

    @module.command(Later)
    async def later(command: Later, bus: Bus, database: Database) -> None:
        if command.how == "transaction":
            async with database.transaction() as tx:
                tx.send(Use("transaction"))
                tx.publish(Happened("transaction"))
        elif command.how == "handler":
            await bus.send(Use("handler"))
            await bus.publish(Happened("handler"))
        elif command.how == "itself":
            await bus.acting_as(None).send(Use("itself"))
        else:
            await bus.send_after(7200, Use("after"))

    @module.subscribe(happened)
    async def on_happened(event: Happened, caller: Caller) -> None:
        used.append((f"event {event.note}", seen(caller.identity)))

    @module.saga(Start)
    async def saga(start: Start, saga: Saga) -> None:
        await saga.execute(Use("saga"))

    if has_schedule:
        module.schedule("hourly", "0 * * * *", Use("schedule"))
    return module


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        database=f"sqlite:///{tmp_path / 'data'}",
        database_migrate=True,
        partitions=2,
        commit_interval_s=0.02,
        drain_s=5.0,
        identity_valid_s=3600.0,
        identity_keys=(KEY,),
    )


@pytest.fixture(params=["local", "loopback"])
def more(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"is_loopback": request.param == "loopback"}


async def test_what_a_command_came_to_is_told_to_nobody_who_may_not_do_it(
    settings: Settings, more: dict[str, Any]
) -> None:
    used: list[tuple[str, Seen]] = []
    async with App([desk(used)], settings=settings, **more) as app:
        first = await app.bus.acting_as(ALICE).execute(Use(), id="one")
        with pytest.raises(Forbidden):
            await app.bus.acting_as(BOB).execute(Use(), id="one")
        with pytest.raises(Forbidden):
            await app.bus.acting_as(BOB).execute(Use(), id="two")
        assert await app.bus.acting_as(ALICE).execute(Use(), id="one") == first  # a repeat
        assert (await app.bus.acting_as(ALICE).execute(Use(), id="two")).subject == "alice"  # nothing had happened
    assert [note for note, _ in used] == ["", ""]


@pytest.mark.parametrize("how", ["transaction", "handler"])
async def test_what_goes_through_the_outbox_goes_for_who_caused_it(
    settings: Settings, how: str, more: dict[str, Any]
) -> None:
    used: list[tuple[str, Seen]] = []
    async with App([desk(used)], settings=settings, **more) as app:
        await app.bus.acting_as(ALICE).execute(Later(how))
        await until(lambda: len(used) == 2)
        assert {note: who.subject for note, who in used} == {how: "alice", f"event {how}": "alice"}
        await app.bus.acting_as(BOB).execute(Later(how))
        await until(lambda: app.statistics()["desk"].refused["desk.use"] == 1)
        await app.bus.acting_as(BOB).execute(Later("itself"))
        await until(lambda: ("itself", Seen(None)) in used)


async def test_what_is_sent_later_is_sent_for_who_caused_it_then(settings: Settings) -> None:
    """An identity is valid for an hour here, and the command is due in two."""
    used: list[tuple[str, Seen]] = []
    clock = ManualClock(datetime(2026, 1, 1, 0, 30, tzinfo=UTC))
    environment = Environment(clock=clock, ids=Ids("id"), random=Random(1))
    async with App([desk(used)], settings=settings, environment=environment) as app:
        await app.bus.acting_as(ALICE).execute(Later("after"))
        await _go_on(clock, 7201, used, 1)
        assert used[0][1].subject == "alice"


async def test_a_schedule_acts_for_its_module(settings: Settings) -> None:
    used: list[tuple[str, Seen]] = []
    clock = ManualClock(datetime(2026, 1, 1, 0, 30, tzinfo=UTC))
    environment = Environment(clock=clock, ids=Ids("id"), random=Random(1))
    async with App([desk(used, has_schedule=True)], settings=settings, environment=environment):
        await _go_on(clock, 1801, used, 1)
    assert used[0] == ("schedule", Seen(None))


async def _go_on(clock: ManualClock, seconds: float, used: list[Any], count: int) -> None:
    """Move the clock until something is due, and on by little steps, by which commits and relays go on."""
    await clock.wait_sleeping(at_most_s=7300)
    clock.advance(seconds)

    def has_come() -> bool:
        clock.advance(0.01)
        return len(used) >= count

    await until(has_come)


async def test_a_saga_is_started_by_who_may_and_acts_for_its_module(settings: Settings, more: dict[str, Any]) -> None:
    used: list[tuple[str, Seen]] = []
    async with App([desk(used)], settings=settings, **more) as app:
        with pytest.raises(Forbidden):
            await app.bus.acting_as(user("carol")).execute(Start())
        await app.bus.acting_as(BOB).execute(Start())
        await until(lambda: used)
    assert used == [("saga", Seen(None))]


async def test_in_one_process_what_waits_in_the_outbox_outlives_a_restart_without_a_key(settings: Settings) -> None:
    used: list[tuple[str, Seen]] = []
    settings = evolve(settings, identity_keys=())
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    async with App([desk(used)], settings=settings, environment=Environment(clock=clock)) as app:
        await app.bus.acting_as(ALICE).execute(Later("after"))
    later = ManualClock(clock.now() + timedelta(hours=2))
    async with App([desk(used)], settings=settings, environment=Environment(clock=later)):
        await _go_on(later, 1, used, 1)
    assert used[0][1].subject == "alice"
