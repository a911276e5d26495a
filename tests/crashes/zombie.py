"""A process that stops itself in the middle of a handler, or the one that takes over: `python -m tests.crashes.zombie NAME KIND SETTINGS`.

`stopped` sends itself a command and stops in its handler, as a machine does that is suspended; `other` handles what it is given. Each writes to
stdout when it is ready, and what its handler came to.
"""

from __future__ import annotations

import os
import signal
import sys

import anyio
import msgspec
from attrs import frozen
from sqlalchemy import Column, Integer, MetaData, String, Table, insert

from fissile import App, Command, Contract, Module, Settings
from fissile.database import Database, Schema


@frozen
class Take(Command[None]):
    """Is handled by whoever has the partition."""


metadata = MetaData()
taken = Table("taken", metadata, Column("seq", Integer, primary_key=True), Column("name", String(50), nullable=False))
contract = Contract("zombies", messages=[Take])


def tell(line: str) -> None:
    """Write a line at once."""
    os.write(1, f"{line}\n".encode())


def make(name: str, kind: str) -> Module:
    """Make the module as one of the processes has it."""
    module = Module(contract, database=Schema(metadata, migrations=None))

    @module.command(Take, idempotent=kind == "idempotent")
    async def take(command: Take, database: Database) -> None:
        with anyio.CancelScope(shield=True):  # only the fence can keep it from committing
            if name == "stopped":
                os.kill(os.getpid(), signal.SIGSTOP)
            try:
                async with database.transaction() as tx:
                    await tx.execute(insert(taken).values(name=name))
            except BaseException as error:
                tell(type(error).__name__)
                raise
            tell("taken")

    return module


async def run(name: str, kind: str, settings: Settings) -> None:
    """Run until a line comes, or the input ends."""
    async with App([make(name, kind)], settings=settings, process=name) as app:
        tell("ready")
        if name == "stopped":
            await app.bus.send(Take())
        await anyio.to_thread.run_sync(sys.stdin.readline)


def main() -> None:
    """Be one of the processes."""
    name, kind, settings = sys.argv[1], sys.argv[2], msgspec.json.decode(sys.argv[3], type=Settings)
    anyio.run(run, name, kind, settings, backend=settings.backend)


if __name__ == "__main__":
    main()
