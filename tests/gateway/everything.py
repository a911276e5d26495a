"""A module with every kind of route that the gateway derives, for the documents' tests: all types, constraints, errors, keys and scopes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Literal, NewType
from uuid import UUID

from attrs import field, frozen
from msgspec import Meta

from fissile import Bus, Command, Contract, DeclaredError, Event, Module, Query, Topic

contract = Contract("everything")

Name = NewType("Name", str)


class Color(Enum):
    """What it looks like."""

    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@frozen
class Leaf:
    """A small thing.

    Attributes:
        name: What it is called.
        weight: What it weighs,
            in grams.
    """

    name: Annotated[str, Meta(min_length=1, max_length=20, examples=["oak"])]
    weight: Annotated[float, Meta(ge=0, le=1000)] = 1.0


@frozen
class Branch:
    """A thing that holds itself."""

    leaf: Leaf
    branches: tuple[Branch, ...] = ()


@frozen
class Types:
    """A field of each type that a contract may use."""

    text: str
    whole: int
    real: float
    truth: bool
    raw: bytes
    exact: Decimal
    moment: datetime
    naive: Annotated[datetime, Meta(tz=False)]
    day: date
    clock: time
    zoned: Annotated[time, Meta(tz=True)]
    span: timedelta
    id: UUID
    color: Color
    level: Level
    word: Literal["a", "b"] | None
    pair: tuple[int, str]
    many: tuple[int, ...]
    few: Annotated[tuple[str, ...], Meta(min_length=1, max_length=3)]
    some: frozenset[str]
    named: Mapping[str, Leaf]
    name: Name
    code: Annotated[str, Meta(pattern="^[a-z]{2,4}$")]
    small: Annotated[int, Meta(ge=1, lt=10)]
    either: Leaf | int | None = None
    branch: Branch | None = None


@frozen
class Missing(DeclaredError, status=404):
    """There is no such thing."""

    name: str


@frozen
class Taken(DeclaredError, status=409):
    """Another has it.

    It may come free.

    Attributes:
        by: Who.
    """

    by: Leaf


@frozen
class Odd(DeclaredError, status=409):
    number: int


@frozen
class Echo(Command[Types]):
    """Send everything, and get it back."""

    value: Types


@frozen
class Touch(Command[None], raises=(Missing, Taken, Odd), timeout_s=20):
    """Do as told.

    Nothing is kept.

    Attributes:
        name: What to touch.
    """

    name: str
    number: int = 0


@frozen
class Nothing(Command[bool]):
    """Takes no fields."""


@frozen
class Secret(Command[None], public=False):
    """What other modules may ask for, and nobody outside."""

    word: str


@frozen
class Search(Query[tuple[Leaf, ...]], raises=(Missing, Odd), max_age_s=60):
    """Search for things.

    Attributes:
        text: What their names contain.
    """

    text: Annotated[str, Meta(max_length=50, examples=["oak"])]
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    real: float = 0.5
    truth: bool = False
    maybe: str | None = None
    raw: bytes | None = None
    exact: Decimal | None = None
    after: datetime | None = None
    day: date | None = None
    clock: time | None = None
    span: timedelta | None = None
    id: UUID | None = None
    color: Color = Color.RED
    level: Level | None = None
    word: Literal["a", "b"] = "a"
    number: Literal[1, 2] = 1
    tags: tuple[str, ...] = ()
    numbers: tuple[Annotated[int, Meta(ge=0)], ...] = (1,)
    few: Annotated[tuple[Color, ...], Meta(max_length=2)] = ()
    pair: tuple[int, str] | None = None
    like: Leaf | None = None
    labels: Mapping[str, int] = field(factory=dict[str, int])


@frozen
class Needs(Query[Mapping[str, str] | None]):
    """Needs one of each kind of parameter."""

    names: tuple[str, ...]
    leaf: Leaf
    whole: int


@frozen
class Count(Query[int]):
    """Takes no parameters."""


@frozen
class Quiet(Query[None]):
    """Answers nothing."""

    name: str = ""


@frozen
class Touched(Event):
    """Something was touched."""

    name: str
    leaf: Leaf | None = None


@frozen
class Broken(Event):
    name: str


@frozen
class Hidden(Event):
    word: str


def name_of(event: Touched | Broken) -> str:
    return event.name


touches: Topic[Touched | Broken] = Topic("everything.touches", Touched, Broken, key=name_of, retention_s=60)
hidden: Topic[Hidden] = Topic("everything.hidden", Hidden, key=lambda event: event.word, public=False)

module = Module(contract)


@module.command(Echo, idempotent=True)
async def echo(command: Echo) -> Types:
    return command.value


@module.command(Touch, idempotent=True)
async def touch(command: Touch, bus: Bus) -> None:
    refuse(command.name, command.number)
    await bus.publish(Touched(command.name))


@module.command(Nothing, idempotent=True)
async def nothing(command: Nothing) -> bool:
    return True


@module.command(Secret, idempotent=True)
async def secret(command: Secret, bus: Bus) -> None:
    await bus.publish(Hidden(command.word))


@module.query(Search)
async def search(query: Search) -> tuple[Leaf, ...]:
    refuse(query.text, query.limit)
    return (Leaf("oak"), *((query.like,) if query.like else ()))


@module.query(Needs)
async def needs(query: Needs) -> Mapping[str, str] | None:
    return dict.fromkeys(query.names, query.leaf.name) if query.whole else None


@module.query(Count)
async def count(query: Count) -> int:
    return 3


@module.query(Quiet)
async def quiet(query: Quiet) -> None:
    return None


def refuse(name: str, number: int) -> None:
    if name == "missing":
        raise Missing(name)
    if name == "taken":
        raise Taken(Leaf("elm"))
    if number % 2:
        raise Odd(number)
