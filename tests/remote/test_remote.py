"""Requests, replies and cancellations between two processes: here two applications that share one log."""

from __future__ import annotations

import anyio
import pytest

from fissile import Contract, DeadlineExceeded, InvalidMessage, Module, Settings
from fissile.abc import Outgoing
from fissile.transports.memory import MemoryTransport
from tests.remote.site import Deadline, Desk, Dying, Relay, Site, Work, relay_module, until, worker_module


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


async def test_callers_that_give_up_while_many_requests_are_in_the_log_let_none_of_theirs_begin() -> None:
    """More than are in hand at a time: their cancellations come while they still wait for their turn."""
    site, desk = Site(), Desk()
    settings = Settings(partitions=1, reply_partitions=1)
    count = 3 * settings.window
    async with site.process(settings=settings) as caller, anyio.create_task_group() as tasks:

        def waiting() -> int:
            statistics = caller.remote_statistics()
            assert statistics is not None
            return statistics.waiting

        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as calls:
                for number in range(count):
                    calls.start_soon(caller.bus.execute, Work(str(number)))
                await until(lambda: waiting() == count)
                scope.cancel()
        tasks.start_soon(caller.bus.execute, Work("in time"))
        await until(lambda: waiting() == 1)
        async with site.process(worker_module(desk), settings=settings) as host:
            await until(lambda: desk.ended)
            statistics = host.statistics()["worker"].consumer
            assert statistics is not None
            assert statistics.expired == count
            await until(lambda: waiting() == 0)
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


@pytest.mark.parametrize("address", [b"worker.requests/0", b"replies/4", b"replies/99999", b"replies/-1", b"replies"])
async def test_a_request_for_an_answer_elsewhere_is_not_begun(address: bytes) -> None:
    site, desk = Site(), Desk()
    headers = (
        ("ce_type", b"worker.work"),
        ("fissile-correlation", b"c"),
        ("fissile-reply-to", address),
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
