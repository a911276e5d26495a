"""What both type checkers have to infer. This file is checked and never run."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import assert_type

from attrs import frozen

from fissile import (
    Bus,
    Caller,
    Command,
    Contract,
    DeclaredError,
    Event,
    Module,
    Queries,
    Query,
    Retry,
    Tap,
    Topic,
    connect,
    gather,
)


@frozen
class Report:
    run_id: str


@frozen
class Unknown(DeclaredError):
    language: str


@frozen
class Run(Command[Report], raises=(Unknown,), key="language"):
    language: str
    source: str = ""


@frozen
class Stop(Command[None]):
    run_id: str


@frozen
class GetRun(Query[Report | None]):
    run_id: str


@frozen
class ListRuns(Query[tuple[Report, ...]], raises=(Unknown,)):
    pass


@frozen
class Began(Event):
    run_id: str


@frozen
class Ended(Event):
    run_id: str


began = Topic("runner.began", Began, key=lambda event: event.run_id)
both = Topic[Began | Ended]("runner.both", Began, Ended, key=lambda event: event.run_id)
contract = Contract("runner")
module = Module(contract)


class Store: ...


async def replies_are_inferred(bus: Bus, queries: Queries) -> None:
    assert_type(await bus.execute(Run("c")), Report)
    assert_type(await bus.execute(Stop("1"), id="mine"), None)
    assert_type(await bus.ask(GetRun("1")), Report | None)
    assert_type(await queries.ask(ListRuns()), tuple[Report, ...])
    assert_type(await bus.send(Run("c")), None)
    assert_type(await bus.publish(Began("1")), None)
    async with bus.tap(began) as tap:
        assert_type(tap, Tap[Began])
        async for tapped in tap:
            assert_type(tapped.event, Began)
            assert_type(tapped.position, str)


@module.resource
@asynccontextmanager
async def store() -> AsyncGenerator[Store]:
    yield Store()


@module.command(Run, idempotent=True)
async def run(command: Run, store: Store, bus: Bus) -> Report:
    return Report(command.language)


@module.command(Stop, idempotent=True)
def stop(command: Stop, caller: Caller) -> None: ...


@module.query(GetRun)
async def get_run(query: GetRun) -> Report:
    return Report(query.run_id)


@module.query(ListRuns)
def list_runs(query: ListRuns, store: Store) -> tuple[Report, ...]:
    return ()


@module.subscribe(began, retry=Retry(attempts=2), start="latest")
async def on_began(event: Began, bus: Bus) -> None: ...


@module.subscribe(both, Ended)
async def on_ended(event: Ended) -> None: ...


async def a_handler_stays_a_plain_function(bus: Bus) -> None:
    assert_type(await run(Run("c"), Store(), bus), Report)
    assert_type(list_runs(ListRuns(), Store()), tuple[Report, ...])
    assert_type(Run("c").language, str)


async def a_script_has_a_bus() -> None:
    async with connect() as bus:
        assert_type(await bus.execute(Run("c")), Report)


async def compose(bus: Bus, queries: Queries) -> None:
    async with gather(bus, timeout_s=1) as parts:
        run, stopped = parts.execute(Run("python")), parts.try_execute(Stop("1"))
        found, maybe = parts.ask(GetRun("1")), parts.try_ask(GetRun("1"))
    assert_type(run.value, Report)
    assert_type(stopped.value, None)
    assert_type(found.value, Report | None)
    assert_type(maybe.value, Report | None)
    async with gather(queries, timeout_s=1) as asked:
        assert_type(asked.ask(GetRun("1")).value, Report | None)
