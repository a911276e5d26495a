"""A module with a database, whose commands take effect once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from attrs import frozen
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

from fissile import Command, Contract, DeclaredError, Module
from fissile.database import Database, Schema
from tests.gateway.library import Desk

contract = Contract("archive")
metadata = MetaData()
entries = Table(
    "entries", metadata, Column("seq", Integer, primary_key=True), Column("book", String(100), nullable=False)
)


@frozen
class Burnt(DeclaredError, status=410):
    """The book is burnt."""

    book: str


@frozen
class Enter(Command[str], raises=(Burnt,)):
    book: str


module = Module(contract, database=Schema(metadata, migrations=None))


@module.resource
@asynccontextmanager
async def desk() -> AsyncGenerator[Desk]:
    yield Desk()


@module.command(Enter)
async def enter(command: Enter, database: Database, desk: Desk) -> str:
    desk.handled.append(command.book)
    if command.book == "burnt":
        raise Burnt(command.book)
    async with database.transaction() as tx:
        await tx.execute(insert(entries).values(book=command.book))
    if command.book == "slow":
        desk.begun.set()
        await desk.go_on.wait()
    return f"entry {len(desk.handled)}"
