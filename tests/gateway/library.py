"""A library that lends books: commands and queries that say how they behave over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from attrs import define, field, frozen

from fissile import Command, Contract, DeclaredError, Module, Query
from fissile._api_keys import new_key


@define(eq=False)
class Desk:
    """What tests see of the handlers, and how they hold them up."""

    handled: list[str] = field(factory=list[str])
    titles: dict[str, str] = field(factory=dict[str, str])
    begun: anyio.Event = field(factory=anyio.Event)
    go_on: anyio.Event = field(factory=anyio.Event)
    cancelled: anyio.Event = field(factory=anyio.Event)
    is_broken: bool = False


def two_principals(folder: Path) -> tuple[str, str, str]:
    """Write a file of API keys; return its path and the keys of two who have no more in common."""
    made = [new_key(key_id) for key_id in ("one", "other")]
    entries = [{"id": key_id, "sha256": sha256} for key_id, (_, sha256) in zip(("one", "other"), made, strict=True)]
    file = folder / "keys.json"
    file.write_text(json.dumps({"key": entries}))
    return str(file), made[0][0], made[1][0]


contract = Contract("library")


@frozen
class Gone(DeclaredError, status=410):
    """The book is gone."""

    book: str


@frozen
class Borrow(Command[str], raises=(Gone,), idempotency_key="required"):
    book: str


@frozen
class Shelve(Command[int]):
    book: str
    where: str = ""


@frozen
class Dust(Command[None]):
    """Takes until the test lets it go on."""


@frozen
class Title(Query[str], max_age_s=60):
    book: str


@frozen
class Burn(Query[None]):
    """A query without a reply."""


module = Module(contract)


@module.resource
@asynccontextmanager
async def desk() -> AsyncGenerator[Desk]:
    yield Desk()


@module.command(Borrow, idempotent=True)
async def borrow(command: Borrow, desk: Desk) -> str:
    desk.handled.append(command.book)
    if desk.is_broken:
        raise RuntimeError("the desk is broken")
    if command.book == "gone":
        raise Gone(command.book)
    return f"{command.book} {len(desk.handled)}"


@module.command(Shelve, idempotent=True)
async def shelve(command: Shelve, desk: Desk) -> int:
    desk.handled.append(command.book)
    return len(desk.handled)


@module.command(Dust, idempotent=True)
async def dust(_command: Dust, desk: Desk) -> None:
    desk.handled.append("dust")
    desk.begun.set()
    try:
        await desk.go_on.wait()
    except BaseException:
        desk.cancelled.set()
        raise


@module.query(Title)
async def title(query: Title, desk: Desk) -> str:
    return desk.titles.get(query.book, query.book)


@module.query(Burn)
async def burn(_query: Burn) -> None:
    return None
