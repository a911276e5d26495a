"""A module whose commands wait for a door to be opened, and one that calls it and is made to die: both for processes of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import anyio
from attrs import frozen

from fissile import Bus, Caller, Command, Contract, Module
from tests.faults.history import Effect, append_effect
from tests.faults.modules import EFFECTS

DYING_S = 3.0
"""How long the one that dies would have waited, in seconds."""


@frozen
class Hold(Command[str]):
    """Is answered when the door of its name is open."""

    name: str
    shielded: bool = False


desk_contract = Contract("desk", messages=[Hold])
asker_contract = Contract("asker", messages=[])

desk = Module(desk_contract)
asker = Module(asker_contract)


def door(effects: Path, name: str) -> Path:
    """Return the file that stands for an open door."""
    return effects.with_name(f"{name}.open")


@desk.command(Hold, idempotent=True)
async def hold(command: Hold, caller: Caller) -> str:
    path = Path(os.environ[EFFECTS])

    def tell(what: str) -> None:
        append_effect(
            str(path),
            Effect("command", f"{command.name} {what}", os.getpid(), caller.attempt, time=time.monotonic()),
        )

    tell("began")
    try:
        with anyio.CancelScope(shield=command.shielded):
            while not door(path, command.name).exists():
                await anyio.sleep(0.01)
    except BaseException:
        tell("was cancelled")
        raise
    tell("ended")
    return f"did {command.name}"


@asker.worker
async def ask(bus: Bus) -> None:
    """Call once, and wait for what may never come."""
    with anyio.move_on_after(DYING_S):
        await bus.execute(Hold("of the dead"))
    await anyio.sleep_forever()
