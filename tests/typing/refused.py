# mypy: ignore-errors
"""Wrong uses, each of which both type checkers have to refuse in the line with the comment. This file is checked and never run."""

from attrs import frozen

from fissile import Bus, Command, Contract, Event, Module, Queries, Query, Topic


@frozen
class Run(Command[int]):
    source: str


@frozen
class GetRun(Query[str]):
    run_id: str


@frozen
class Began(Event):
    run_id: str


@frozen
class Ended(Event):
    run_id: str


@frozen
class Misspelt(Command[int], raise_=()):  # E: a class keyword that does not exist
    pass


began = Topic("runner.began", Began, key=lambda event: event.run_id)
Topic("runner.broken", Began, key=lambda event: event.nothing)  # E: the key reads a field that the event does not have
module = Module(Contract("runner"))


@module.command(Run, idempotent=True)  # E: the reply is int
async def wrong_reply(command: Run) -> str:
    return ""


@module.command(Run, idempotent=True)  # E: the message is Run
async def wrong_message(command: Began) -> int:
    return 1


@module.query(GetRun)  # E: the reply is str
async def wrong_answer(query: GetRun) -> int:
    return 1


@module.query(GetRun)  # E: the reply of a sync handler counts too
def wrong_sync_answer(query: GetRun) -> int:
    return 1


@module.subscribe(began)  # E: the topic carries Began
async def wrong_event(event: Ended) -> None: ...


@module.subscribe(began)  # E: an event has no reply
async def wrong_result(event: Began) -> int:
    return 1


module.command(GetRun)  # E: a query is no command
module.query(Run)  # E: a command is no query


async def calls(bus: Bus, queries: Queries) -> None:
    text: str = await bus.execute(Run(""))  # E: the reply is int
    await bus.ask(Run(""))  # E: a command is executed
    await bus.execute(GetRun(""))  # E: a query is asked
    await bus.publish(Run(""))  # E: a command is no event
    await bus.send(GetRun(""))  # E: a query has nothing to do
    await queries.execute(Run(""))  # E: the handler of a query has no effects
    await queries.publish(Began(""))  # E: the handler of a query has no effects
    await bus.execute(Run(1))  # E: a field of a wrong type
    Run("").source = "x"  # E: a message is frozen
    print(text)
