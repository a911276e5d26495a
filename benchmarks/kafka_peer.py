"""The programs that are measured over Kafka, one process each: `python -m benchmarks.kafka_peer ROLE BACKEND SERVERS PREFIX [INSTANCE]`.

They are ordinary applications with the settings of production. `_load.py` says how they are told what to do.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from time import monotonic

import anyio
from attrs import evolve

from benchmarks._load import Tally, load, obey
from benchmarks.executor import service as executor
from benchmarks.executor.contract import RunCode
from benchmarks.executor.contract import contract as executor_contract
from benchmarks.feed import service as feed
from benchmarks.feed.contract import Tell, Wait, event
from benchmarks.feed.contract import contract as feed_contract
from fissile import App, Bus, Settings

WAITING_RUNNING = 2
"""How many handlers of `Wait` run at a time in one process; it is what limits their rate."""
EVENTS_PER_COMMAND = 500
COMMANDS_AT_A_TIME = 4


async def call(settings: Settings) -> None:
    """Be the caller, a process that hosts nothing."""
    async with App([], contracts=[executor_contract, feed_contract], settings=settings) as app:
        bus, message, wait = app.bus, RunCode("python", "print(6*7)"), Wait()

        async def calls(*, in_flight: int, count: int) -> Mapping[str, float]:
            return await load(lambda: bus.execute(message), in_flight, count)

        async def waits(*, in_flight: int, count: int) -> Mapping[str, float]:
            return await load(lambda: bus.execute(wait), in_flight, count)

        await obey({"calls": calls, "waits": waits})


async def serve(settings: Settings) -> None:
    """Be the callee."""
    async with App([executor.module], settings=settings):
        await obey({})


async def serve_waiting(settings: Settings) -> None:
    """Be a replica of a module whose handler waits."""
    async with App([feed.module], settings=settings):
        await obey({})


async def publish(settings: Settings) -> None:
    """Be the publisher."""
    async with App([feed.module], settings=settings) as app:

        async def in_handlers(*, count: int, suspends: bool) -> Mapping[str, float]:
            began = monotonic()
            tell = Tell(EVENTS_PER_COMMAND, suspends)
            await load(lambda: app.bus.execute(tell), COMMANDS_AT_A_TIME, count // EVENTS_PER_COMMAND)
            return {"began": began}

        async def one_by_one(*, count: int, publishers: int) -> Mapping[str, float]:
            return await _publish_one_by_one(app.bus, count, publishers)

        await obey({"in_handlers": in_handlers, "one_by_one": one_by_one})


async def _publish_one_by_one(bus: Bus, count: int, publishers: int) -> Mapping[str, float]:
    began, number = monotonic(), 0

    async def publish_one() -> None:
        nonlocal number
        number += 1
        await bus.publish(event(number, suspends=False))

    await load(publish_one, publishers, count)
    return {"began": began}


async def subscribe(settings: Settings) -> None:
    """Be the subscriber."""
    tally = Tally()
    async with App([feed.reader(tally.add)], contracts=[feed_contract], settings=settings):

        async def expect(*, count: int) -> Mapping[str, bool]:
            tally.expect(count)
            return {"is_counting": True}

        async def at() -> Mapping[str, float]:
            return {"at": await tally.at()}

        await obey({"expect": expect, "at": at})


ROLES = {
    "caller": call,
    "callee": serve,
    "waiting": serve_waiting,
    "publisher": publish,
    "subscriber": subscribe,
}


def main(role: str, backend: str, servers: str, prefix: str, instance: str = "") -> None:
    """Run one of them."""
    logging.basicConfig(level=logging.WARNING)
    settings = Settings(bus=f"kafka://{servers}", kafka_prefix=prefix, kafka_instance=instance)
    if role == "waiting":
        settings = evolve(settings, commands_running=WAITING_RUNNING)
    options = {"use_uvloop": True} if backend == "asyncio" else {}
    anyio.run(ROLES[role], settings, backend=backend, backend_options=options)


if __name__ == "__main__":
    main(*sys.argv[1:])
