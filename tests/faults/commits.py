"""Looks at what the groups have committed, again and again, from outside of all processes under test. For tests on asyncio."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio

from tests.faults.driver import Site
from tests.faults.history import Commit
from tests.faults.log import TOPICS, place


@asynccontextmanager
async def watching_commits(site: Site) -> AsyncGenerator[None]:
    """Write into the history what is committed, until the end of the block, and once more then."""
    from aiokafka.admin import AIOKafkaAdminClient

    admin = AIOKafkaAdminClient(bootstrap_servers=site.settings.bus.removeprefix("kafka://"))
    await admin.start()

    async def look() -> None:
        for group in TOPICS:
            found = await admin.list_consumer_group_offsets(site.settings.kafka_prefix + group)
            for partition, one in found.items():
                line = Commit(time.monotonic(), place(group, partition), one.offset)
                site.history.write(line)

    async def look_regularly() -> None:
        while True:
            await look()
            await anyio.sleep(0.1)

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look_regularly)
            yield
            tasks.cancel_scope.cancel()
        await look()
    finally:
        with anyio.CancelScope(shield=True), suppress(Exception):
            await admin.close()
