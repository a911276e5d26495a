"""The messages of the measurements: small ones, as the code executor has them."""

from attrs import frozen

from fissile import Command, Contract, Event, Query, Topic

contract = Contract("executor")


@frozen
class RunReport:
    """What became of a program."""

    run_id: str
    outcome: str
    exit_code: int | None
    stdout: str
    stderr: str
    duration_ms: int


@frozen
class RunCode(Command[RunReport]):
    """Run one program."""

    language: str
    source: str
    stdin: str = ""


@frozen
class RunAndTell(Command[RunReport]):
    """Run one program and publish that it has run."""

    language: str
    source: str
    stdin: str = ""


@frozen
class ExplainCode(Query[RunReport]):
    """Ask what would become of a program; the same fields, so that queries and commands compare."""

    language: str
    source: str
    stdin: str = ""


@frozen
class Ran(Event):
    """A program has run."""

    run_id: str


runs = Topic("executor.runs", Ran, key=lambda event: event.run_id)
