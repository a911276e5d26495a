"""What the tests of the runtime share: quick settings, and waiting for a condition instead of for a time."""

from collections.abc import Callable
from random import Random
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from fissile import App, Environment, Ids, Module, Settings
from fissile.abc import Transport
from fissile.testing import ManualClock
from fissile.transports.memory import MemoryLog, MemoryTransport

NEVER_S = 1e9
"""A pause that no test waits for."""
PATIENCE_S = 30.0
"""How long a test waits for what has to come."""


def quick(**values: Any) -> Settings:
    """Settings under which no timer fires by itself."""
    return Settings(**{"commit_interval_s": NEVER_S, "partitions": 4, "drain_s": 5.0, **values})


def app_of(*modules: Module, clock: ManualClock | None = None, settings: Settings | None = None, **more: Any) -> App:
    """An application with quick settings, whose clock, ids and randomness the test owns where it passes a clock."""
    if clock is not None:
        more["environment"] = Environment(clock=clock, ids=Ids("id"), random=Random(1))
    return App(modules, settings=settings or quick(), **more)


async def until(condition: Callable[[], object], what: str = "the condition holds") -> None:
    """Wait for a condition that nothing announces; it is looked at in every turn of the event loop."""
    with anyio.move_on_after(PATIENCE_S):
        while not condition():
            await anyio.sleep(0.0005)
        return
    pytest.fail(f"Waited in vain until {what}")


async def settle() -> None:
    """Give every other task its turns: what has not happened by now waits for something that the test holds back."""
    for _ in range(60):
        await anyio.lowlevel.checkpoint()


def log_of(
    clock: ManualClock | None = None, *, retention_bytes: int = 1 << 20, record_bytes: int = 1 << 20
) -> MemoryLog:
    """A log that several applications of a test can share, as processes share a broker."""
    return MemoryLog(clock or ManualClock(), retention_bytes, record_bytes)


def client_of(log: MemoryLog) -> Transport:
    """One process's connection to the log."""
    return MemoryTransport(log)
