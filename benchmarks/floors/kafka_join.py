"""The floor of a split process's start: import Quart and Hypercorn, join one consumer group by bare aiokafka.

Usage: `python -m benchmarks.floors.kafka_join SERVERS GROUP TOPIC`; it says when it has partitions, and leaves on SIGTERM.
"""

from __future__ import annotations

import asyncio
import signal
import sys

import hypercorn.asyncio  # noqa: F401 -- imported to be measured
import quart  # noqa: F401 -- likewise
from aiokafka import AIOKafkaConsumer


async def main(servers: str, group: str, topic: str) -> None:
    """Join, and stay."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=servers, group_id=group, enable_auto_commit=False)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await consumer.start()
    try:
        while not consumer.assignment():
            await asyncio.sleep(0.001)
        sys.stderr.write("has partitions\n")
        sys.stderr.flush()
        await stop.wait()
    finally:
        await consumer.stop()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
