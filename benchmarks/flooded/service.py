"""Handlers whose cost is known."""

from time import thread_time

import anyio

from benchmarks.flooded.contract import Compute, Fetch, contract
from fissile import Module

module = Module(contract)

COMPUTE_S = 0.002
FETCH_S = 0.010


@module.command(Compute, idempotent=True)
async def compute(command: Compute) -> int:
    """Use the processor."""
    until = thread_time() + COMPUTE_S
    while thread_time() < until:
        pass
    return command.number


@module.command(Fetch, idempotent=True)
async def fetch(command: Fetch) -> int:
    """Wait."""
    await anyio.sleep(FETCH_S)
    return command.number
