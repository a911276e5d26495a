"""Requests, replies and cancellations between two processes: here two applications that share one log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from attrs import define, field, frozen

from fissile import (
    App,
    Bus,
    Caller,
    CallError,
    Command,
    Contract,
    DeadlineExceeded,
    InvalidMessage,
    Module,
    Query,
    Settings,
)
from fissile._clock import SystemClock
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
        self, *modules: Module, settings: Settings = SETTINGS, transport: Transport | None = None
    ) -> AsyncGenerator[App]:
        contracts = [worker, relay]
        names = {module.name for module in modules}
        app = App(
            modules,
            contracts=[contract for contract in contracts if contract.name not in names],
            settings=settings,
            transport=transport or MemoryTransport(self.log),
            is_loopback=True,
        )
        async with app:
            yield app


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.005)


async def test_a_call_reaches_a_module_in_another_process_and_its_reply_comes_back() -> None:
    site, desk = Site(), Desk()
    async with site.process(worker_module(desk)), site.process() as caller:
        assert await caller.bus.execute(Work("a")) == "did a"
    assert desk.ended == ["a"]


async def test_a_chain_goes_through_three_processes() -> None:
    site, desk = Site(), Desk()
    async with site.process(worker_module(desk)), site.process(relay_module()), site.process() as caller:
        assert await caller.bus.execute(Relay("a")) == "did a"


async def test_a_thousand_calls_at_a_time_get_each_its_own_reply() -> None:
    site, desk = Site(), Desk()
    replies: dict[str, str] = {}
    async with site.process(worker_module(desk)), site.process() as caller, anyio.create_task_group() as tasks:

        async def call(name: str) -> None:
            replies[name] = await caller.bus.execute(Work(name))

        for number in range(1000):
            tasks.start_soon(call, str(number))
    assert replies == {str(number): f"did {number}" for number in range(1000)}


async def test_the_callers_deadline_travels_as_a_budget() -> None:
    site = Site()
    async with site.process(worker_module(Desk())), site.process() as caller:
        with anyio.fail_after(5):
            remaining = await caller.bus.ask(Deadline())
        assert 0 < remaining <= 5
        assert 5 < await caller.bus.ask(Deadline()) <= 30


async def test_a_caller_that_gives_up_while_the_handler_runs_stops_it() -> None:
    site, desk = Site(), Desk(doors={"a": anyio.Event()})
    async with site.process(worker_module(desk)) as host, site.process() as caller:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(caller.bus.execute, Work("a"))
            await until(lambda: desk.began == ["a"])
            tasks.cancel_scope.cancel()
        await until(lambda: desk.cancelled == ["a"])
        statistics = host.statistics()["worker"].consumer
        assert statistics is not None
        assert statistics.cancelled == 1


async def test_a_caller_that_gives_up_while_its_request_is_in_the_log_lets_it_never_begin() -> None:
    site, desk = Site(), Desk()
    async with site.process() as caller:
        with anyio.move_on_after(0.05):
            await caller.bus.execute(Work("too late"))
        async with site.process(worker_module(desk)) as host:
            assert await caller.bus.execute(Work("in time")) == "did in time"
            statistics = host.statistics()["worker"].consumer
            assert statistics is not None
            assert statistics.expired == 1
    assert desk.began == ["in time"]


async def test_a_call_without_a_scope_ends_at_the_default_deadline_and_its_handler_with_it() -> None:
    site, desk = Site(), Desk(doors={"a": anyio.Event()})
    settings = Settings(partitions=2, reply_partitions=4, call_timeout_s=0.2)
    async with site.process(worker_module(desk)), site.process(settings=settings) as caller:
        with pytest.raises(DeadlineExceeded, match="may have happened"):
            await caller.bus.execute(Work("a"))
        await until(lambda: desk.cancelled == ["a"])


async def test_a_handler_whose_caller_died_ends_at_its_deadline() -> None:
    site, desk = Site(), Desk(doors={"a": anyio.Event()})
    async with site.process(worker_module(desk)):
        async with site.process(transport=Dying(site.log)) as caller:
            with anyio.move_on_after(0.3):
                await caller.bus.execute(Work("a"))
        await until(lambda: desk.cancelled == ["a"])


async def test_a_late_reply_is_counted_and_dropped() -> None:
    site, desk = Site(), Desk(doors={"a": anyio.Event()})
    async with site.process(worker_module(desk, shielded=True)), site.process() as caller:
        with anyio.move_on_after(0.1):
            await caller.bus.execute(Work("a"))
        desk.doors["a"].set()

        def late() -> bool:
            statistics = caller.remote_statistics()
            return statistics is not None and statistics.late == 1

        await until(late)
        assert await caller.bus.execute(Work("b")) == "did b"


async def test_a_request_survives_the_restart_of_its_callee() -> None:
    site, first, second = Site(), Desk(doors={"a": anyio.Event()}), Desk()
    replies: list[str] = []
    async with site.process() as caller, anyio.create_task_group() as tasks:

        async def call() -> None:
            replies.append(await caller.bus.execute(Work("a")))

        with anyio.CancelScope() as life:
            async with site.process(worker_module(first)):
                tasks.start_soon(call)
                await until(lambda: first.began == ["a"])
                life.cancel()
                await anyio.sleep_forever()
        async with site.process(worker_module(second)):
            await until(lambda: replies)
    assert replies == ["did a"]
    assert (first.ended, second.ended) == ([], ["a"])


async def test_processes_that_share_a_partition_of_replies_get_each_their_own() -> None:
    site, desk = Site(), Desk()
    settings = Settings(partitions=2, reply_partitions=1)
    async with (
        site.process(worker_module(desk), settings=settings),
        site.process(settings=settings) as one,
        site.process(settings=settings) as other,
    ):
        for number in range(10):
            assert await one.bus.execute(Work(f"one {number}")) == f"did one {number}"
            assert await other.bus.execute(Work(f"other {number}")) == f"did other {number}"
        statistics = one.remote_statistics()
        assert statistics is not None
        assert (statistics.replies, statistics.late) == (10, 10)


async def test_a_message_that_its_module_does_not_know_is_refused_at_once_and_kept() -> None:
    """As while a newer caller meets an older callee."""
    site = Site()
    older = Module(Contract("worker", messages=[Deadline]))

    @older.query(Deadline)
    async def deadline(query: Deadline) -> float:
        return 1.0

    async with site.process(older) as host, site.process() as caller:
        with anyio.fail_after(5), pytest.raises(InvalidMessage, match=r"worker handles no 'worker\.work'"):
            await caller.bus.execute(Work("a"))

        async def kept() -> bool:
            return [letter.name for letter in await host.dead_letters("worker")] == ["worker.work"]

        with anyio.fail_after(5):
            while not await kept():
                await anyio.sleep(0.005)


async def test_a_request_for_an_answer_elsewhere_is_not_begun() -> None:
    site, desk = Site(), Desk()
    headers = (
        ("ce_type", b"worker.work"),
        ("fissile-correlation", b"c"),
        ("fissile-reply-to", b"worker.requests/0"),
        ("fissile-budget-ms", b"9999"),
    )
    async with site.process(worker_module(desk)) as host, site.process() as caller:
        await MemoryTransport(site.log).append([Outgoing("worker.requests", b"k", b'{"name":"a"}', headers)])

        async def kept() -> bool:
            return len(await host.dead_letters("worker")) == 1

        with anyio.fail_after(5):
            while not await kept():
                await anyio.sleep(0.005)
        assert await caller.bus.execute(Work("b")) == "did b"
    assert desk.began == ["b"]
