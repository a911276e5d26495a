"""How a test of conformance uses a transport: as the delivery engine does, through `fissile.abc` only."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from attrs import define, field

from fissile.abc import Assigned, Member, Outgoing, Partition, Reader, Record, Revoked, Start, TopicSpec, Transport

PATIENCE_S = 20.0
DAY_S = 86_400.0


def spec(name: str, partitions: int = 4) -> TopicSpec:
    return TopicSpec(name, partitions, DAY_S)


def out(topic: str, value: str, key: str | None = "k", partition: int | None = None) -> Outgoing:
    return Outgoing(topic, None if key is None else key.encode(), value.encode(), (("h", b"1"),), partition)


def values(records: Sequence[Record]) -> list[str]:
    return [record.value.decode() for record in records]


async def until(condition: Callable[[], object], what: str = "the condition holds") -> None:
    with anyio.move_on_after(PATIENCE_S):
        while not condition():
            await anyio.sleep(0.001)
        return
    pytest.fail(f"Waited in vain until {what}")


async def settle() -> None:
    for _ in range(60):
        await anyio.lowlevel.checkpoint()


async def read_all(transport: Transport, topic: str, partitions: int = 4) -> list[Record]:
    """Return what a topic holds now."""
    async with transport.read([(topic, number) for number in range(partitions)], "earliest") as reader:
        wanted = sum(reader.ends[each] - reader.begins[each] for each in reader.ends)
        return await read_some(reader, wanted)


async def read_some(reader: Reader, count: int) -> list[Record]:
    found: list[Record] = []
    with anyio.fail_after(PATIENCE_S):
        while len(found) < count:
            found.extend(await reader.receive())
    return found


@define(eq=False)
class Follower:
    """A member that goes on receiving, as the contract asks, and writes down what it is told."""

    member: Member
    told: list[Assigned | Revoked] = field(factory=list)
    records: list[Record] = field(factory=list)
    held: dict[Partition, int] = field(factory=dict)
    next_offsets: dict[Partition, int] = field(factory=dict)
    generation: int = 0
    generations: list[int] = field(factory=list)
    """The generation in which each record came."""
    commits_in_hand_over: bool = True

    async def run(self) -> None:
        while True:
            news = await self.member.receive()
            if isinstance(news, Assigned):
                self.told.append(news)
                self.held, self.generation = dict(news.positions), news.generation
                self.next_offsets = dict(news.positions)
            elif isinstance(news, Revoked):
                self.told.append(news)
                if self.commits_in_hand_over:
                    await self.member.commit(self.generation, self.next_offsets)
                self.held = {}
            else:
                for record in news:
                    partition = (record.topic, record.partition)
                    assert partition in self.held, f"{record} is of a partition that this member does not hold"
                    assert record.offset >= self.next_offsets[partition], f"{record} came twice in one generation"
                    self.next_offsets[partition] = record.offset + 1
                    self.records.append(record)
                    self.generations.append(self.generation)

    async def commit(self) -> bool:
        return await self.member.commit(self.generation, self.next_offsets)

    @property
    def values(self) -> list[str]:
        return values(self.records)


@asynccontextmanager
async def following(
    transport: Transport, group: str, topic: str, start: Start = "earliest", *, commits_in_hand_over: bool = True
) -> AsyncIterator[Follower]:
    """Be a member of a group that goes on receiving."""
    async with transport.join(group, {topic: start}) as member, anyio.create_task_group() as tasks:
        follower = Follower(member, commits_in_hand_over=commits_in_hand_over)
        tasks.start_soon(follower.run)
        yield follower
        tasks.cancel_scope.cancel()
