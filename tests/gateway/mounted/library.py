"""A module that the examples beside this file serve."""

from __future__ import annotations

from attrs import frozen

from fissile import Bus, Command, Contract, Event, Module, Query, Topic

contract = Contract("library")


@frozen
class GetTitle(Query[str]):
    """Get the title of a book."""

    isbn: str


@frozen
class Borrow(Command[int]):
    """Borrow a book; the reply is for how many days."""

    isbn: str


@frozen
class Borrowed(Event):
    isbn: str


borrowed = Topic("library.borrowed", Borrowed, key=lambda event: event.isbn)

module = Module(contract)


@module.query(GetTitle)
async def get_title(query: GetTitle) -> str:
    return f"Title of {query.isbn}"


@module.command(Borrow, idempotent=True)
async def borrow(command: Borrow, bus: Bus) -> int:
    await bus.publish(Borrowed(command.isbn))
    return 14
