"""The handlers; `reader` is a second module, which subscribes."""

from collections.abc import Callable

import anyio
import anyio.lowlevel

from benchmarks.feed.contract import WAIT_S, Tell, Told, Wait, contract, event, told
from fissile import Bus, Contract, Module

module = Module(contract)


@module.command(Tell, idempotent=True)
async def tell(command: Tell, bus: Bus) -> None:
    """Publish; the events are stored together when this has succeeded."""
    for number in range(command.count):
        await bus.publish(event(number, suspends=command.suspends))


@module.command(Wait, idempotent=True)
async def wait(_command: Wait) -> None:
    """Wait."""
    await anyio.sleep(WAIT_S)


def reader(handled: Callable[[], None]) -> Module:
    """Return a module that subscribes.

    Args:
        handled: Called for each event.
    """
    subscriber = Module(Contract("reader"))

    @subscriber.subscribe(told)
    async def on_told(happened: Told) -> None:
        if happened.suspends:
            await anyio.lowlevel.checkpoint()
        handled()

    return subscriber
