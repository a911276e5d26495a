"""What the tests of remote calls share: a module that works, one that relays, and a log that several applications share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
from attrs import define, field, frozen

from fissile import (
    App,
    Bus,
    Caller,
    CallError,
    Command,
    Contract,
    Module,
    Query,
    Settings,
)
from fissile._clock import Environment, SystemClock
from fissile.abc import Outgoing, Stored, Transport
from fissile.transports.memory import MemoryLog, MemoryTransport


@frozen
class Work(Command[str]):
    name: str


@frozen
class Deadline(Query[float]):
    """How many seconds the handler has."""


@frozen
class Relay(Command[str]):
    """Calls `Work` from another module."""

    name: str


@define
class Desk:
    """What the worker's handlers do, and have done."""

    began: list[str] = field(factory=list[str])
    ended: list[str] = field(factory=list[str])
    cancelled: list[str] = field(factory=list[str])
    doors: dict[str, anyio.Event] = field(factory=dict[str, anyio.Event])


worker = Contract("worker", messages=[Work, Deadline])
relay = Contract("relay", messages=[Relay])


def worker_module(desk: Desk, *, shielded: bool = False) -> Module:
    module = Module(worker)

    @module.command(Work, idempotent=True)
    async def work(command: Work) -> str:
        desk.began.append(command.name)
        try:
            with anyio.CancelScope(shield=shielded):
                if command.name in desk.doors:
                    await desk.doors[command.name].wait()
        except BaseException:
            desk.cancelled.append(command.name)
            raise
        desk.ended.append(command.name)
        return f"did {command.name}"

    @module.query(Deadline)
    async def deadline(query: Deadline, caller: Caller) -> float:
        return caller.deadline - anyio.current_time()

    return module


def relay_module() -> Module:
    module = Module(relay)

    @module.command(Relay, idempotent=True)
    async def forward(command: Relay, bus: Bus) -> str:
        return await bus.execute(Work(command.name))

    return module


SETTINGS = Settings(partitions=2, reply_partitions=4, commit_interval_s=0.02, drain_s=2.0)


class Dying(MemoryTransport):
    """The log as a process sees it that dies: its requests arrive, and its cancellations are never sent."""

    def append_nowait(self, records: Sequence[Outgoing], done: Callable[[Stored | CallError], None]) -> None:
        if not any("fissile-cancel" in record.headers_by_name() for record in records):
            super().append_nowait(records, done)


class Site:
    """One log, and the processes that share it."""

    def __init__(self) -> None:
        self.log = MemoryLog(SystemClock(), 2**24, 2**20)

    @asynccontextmanager
    async def process(
        self,
        *modules: Module,
        settings: Settings = SETTINGS,
        transport: Transport | None = None,
        environment: Environment | None = None,
    ) -> AsyncGenerator[App]:
        contracts = [worker, relay]
        names = {module.name for module in modules}
        app = App(
            modules,
            contracts=[contract for contract in contracts if contract.name not in names],
            settings=settings,
            transport=transport or MemoryTransport(self.log),
            environment=environment or Environment(),
            is_loopback=True,
        )
        async with app:
            yield app


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.005)
