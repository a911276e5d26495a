"""Jobs that are watched: their topics are not public, and the application's own routes show them to whom they belong."""

from __future__ import annotations

from attrs import frozen

from fissile import Bus, Command, Contract, DeclaredError, Event, Module, Query, Topic

contract = Contract("jobs")


@frozen
class Stepped(Event):
    job: str
    number: int
    text: str = ""


@frozen
class Finished(Event):
    job: str


@frozen
class Whispered(Event):
    text: str


@frozen
class Lost(Event):
    """Called as what a stream itself tells; nobody but a route of the application would stream it."""

    job: str


@frozen
class NoSuchJob(DeclaredError, status=404):
    job: str


@frozen
class Step(Command[None]):
    """Take some steps of a job."""

    job: str
    first: int
    count: int = 1
    size: int = 0


@frozen
class FindJob(Query[None], raises=(NoSuchJob,)):
    job: str


steps: Topic[Stepped | Finished] = Topic("jobs.steps", Stepped, Finished, key=lambda event: event.job, public=False)
whispers = Topic("jobs.whispers", Whispered, key=lambda event: event.text, public=False, requires="jobs:hear")
losses = Topic("jobs.losses", Lost, key=lambda event: event.job, public=False)


module = Module(contract)


@module.command(Step, idempotent=True)
async def step(command: Step, bus: Bus) -> None:
    for number in range(command.first, command.first + command.count):
        await bus.publish(Stepped(command.job, number, "x" * command.size))


@module.query(FindJob)
async def find_job(query: FindJob) -> None:
    if query.job == "nobody's":
        raise NoSuchJob(query.job)
