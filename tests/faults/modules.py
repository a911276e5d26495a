"""Modules that write down what they handle, in a file that outlives their process."""

from __future__ import annotations

import os
import time
from zlib import crc32

import anyio
import anyio.lowlevel
from attrs import frozen

from fissile import Caller, Command, Contract, DeclaredError, Event, Module, Topic
from tests.faults.history import Effect, append_effect

EFFECTS = "FISSILE_TEST_EFFECTS"
"""The environment variable that names the file."""
WORK_S = 0.1
"""How long a command takes, so that there is a middle to be killed in: longer than from one commit to the next."""
SLOW_S = 0.3
"""How long an event takes now and then: others of its partition overtake it, and what is committed must not."""
SLOW_EVENTS = 60
"""One of how many events does."""


@frozen
class Odd(DeclaredError):
    number: int


@frozen
class Note(Command[str], raises=(Odd,)):
    """Is written down; every tenth is refused after that."""

    number: int
    text: str = ""


@frozen
class Noted(Event):
    key: str
    number: int
    text: str = ""


noted = Topic("ledger.noted", Noted, key=lambda event: event.key)
ledger_contract = Contract("ledger", messages=[Odd, Note, Noted], topics=[noted])
reader_contract = Contract("reader", messages=[])

ledger = Module(ledger_contract)
reader = Module(reader_contract)


@ledger.command(Note, idempotent=True)
async def note(command: Note, caller: Caller) -> str:
    await anyio.sleep(WORK_S / 2)
    effect = Effect("command", caller.message_id, os.getpid(), caller.attempt, time=time.monotonic())
    append_effect(os.environ[EFFECTS], effect)
    await anyio.sleep(WORK_S / 2)
    if command.number % 10 == 7:
        raise Odd(command.number)
    return f"did {caller.message_id}"


@reader.subscribe(noted)
async def read(event: Noted, caller: Caller) -> None:
    name = f"{event.key}/{event.number}"
    if crc32(name.encode()) % SLOW_EVENTS == 0:
        await anyio.sleep(SLOW_S)
    effect = Effect("event", name, os.getpid(), caller.attempt, event.key, event.number, time.monotonic())
    append_effect(os.environ[EFFECTS], effect)
    await anyio.lowlevel.checkpoint()
