"""A reader: partitions read directly, without a group, from positions that are known before the first record comes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from attrs import define

from fissile._errors import PositionLost, Unavailable
from fissile.abc import Partition, Reader, Record, Start, Status
from fissile.transports._inbox import Inbox
from fissile.transports._kafka_damage import Damage
from fissile.transports._kafka_library import kafka_error, partition_of, within
from fissile.transports._kafka_source import Source


class DirectSource(Source):
    """A reader, in the loop."""

    passed_on = (Unavailable, PositionLost)
    drops_on_failure = False

    async def start(
        self, partitions: Sequence[Partition], start: Start | Mapping[Partition, int]
    ) -> tuple[dict[Partition, int], dict[Partition, int]]:
        """Connect, find out where to begin, and begin.

        Returns:
            The first offset that will come, and the end of the log, per partition.

        Raises:
            Unavailable: No broker answers, or none has such a partition.
        """
        await self.consumer.start()
        physical = {
            partition: partition_of(self.options.prefix + partition[0], partition[1]) for partition in partitions
        }
        self.consumer.assign(list(physical.values()))
        bounds = self.consumer.bounds(list(physical.values()))
        firsts, lasts = await within(self.options.request_s, f"{self.inbox.name} cannot find its positions", bounds)
        begins: dict[Partition, int] = {}
        for partition, there in physical.items():
            first, last = firsts[there], lasts[there]
            wanted = start if isinstance(start, str) else start.get(partition, "latest")
            if wanted == "latest":
                begins[partition] = last
            elif wanted == "earliest" or not first <= int(wanted) <= last:
                begins[partition] = first
            else:
                begins[partition] = int(wanted)
            self.consumer.seek(there, begins[partition])
        ends = {partition: lasts[there] for partition, there in physical.items()}
        self.bridge.to_home(self.inbox.begin, begins, ends)
        self.start_pump()
        self.start_watch()
        return begins, ends

    async def on_error(self, error: Exception) -> None:
        """Turn an expired position into what a reader is told of it."""
        if isinstance(error, kafka_error("OffsetOutOfRangeError")):
            lost: dict[Partition, int] = error.args[0]
            places = ", ".join(f"{self.names[topic]}[{number}] at {offset}" for (topic, number), offset in lost.items())
            raise PositionLost(f"The log no longer has what comes next: {places}.")
        await super().on_error(error)
        await asyncio.sleep(0)

    def on_damage(self, damage: Damage) -> None:
        """End: where to go on is for whoever reads, as with a position that has expired."""
        raise PositionLost(f"{self.told(damage)} Read on from offset {damage.next_offset}.")


@define(eq=False)
class KafkaReader(Reader):
    """A reader, at home."""

    inbox: Inbox
    source: DirectSource
    begins: Mapping[Partition, int]
    ends: Mapping[Partition, int]

    async def receive(self) -> Sequence[Record]:
        await self.inbox.checkpoint()
        while True:
            taken = self.inbox.take()
            if isinstance(taken, list):
                return taken
            await self.inbox.wait()

    def positions(self) -> Mapping[Partition, int]:
        return self.inbox.positions()

    def status(self) -> Status:
        return self.inbox.status()
