"""Rule 2: a handler runs in a context of its own and sees its message, its resources, its bus and its caller, nothing else."""

import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
import sniffio
from attrs import frozen

from fissile import App, Bus, Caller, Command, Contract, Event, Handling, Module, Query, Topic
from tests.runtime.helpers import app_of, until

mark: ContextVar[str] = ContextVar("mark", default="nothing")


@frozen
class Act(Command[str]):
    nested: int = 0


@frozen
class Look(Query[str]):
    pass


@frozen
class Thought(Command[str]):
    """Its handler is sync."""


@frozen
class Happened(Event):
    pass


@frozen
class Introduce(Command[str]):
    pass


happened = Topic("actor.happened", Happened, key=lambda event: "")
contract = Contract("actor", messages=[Act, Look, Thought, Happened, Introduce], topics=[happened])

Acting = Callable[[Act, Bus], Coroutine[Any, Any, str]]


class Stage:
    """A resource that sets something in the context of its module."""


def actor(acting: Acting, *, middleware: tuple[Any, ...] = (), on_event: Callable[[], None] = lambda: None) -> Module:
    module = Module(contract, middleware=middleware)

    @module.resource
    @asynccontextmanager
    async def stage() -> AsyncGenerator[Stage]:
        token = mark.set("of the resource")
        yield Stage()
        mark.reset(token)

    @module.command(Act, idempotent=True)
    async def act(command: Act, stage: Stage, bus: Bus) -> str:
        return await acting(command, bus)

    @module.query(Look)
    async def look(query: Look) -> str:
        return mark.get()

    @module.command(Thought, idempotent=True)
    def thought(command: Thought) -> str:
        mine = mark.get()
        mark.set("of the thread")
        return mine

    @module.subscribe(happened)
    async def on_happened(event: Happened) -> None:
        on_event()

    @module.command(Introduce, idempotent=True)
    async def introduce(command: Introduce, caller: Caller) -> str:
        return f"{caller.module} {' '.join(caller.chain)}"

    return module


async def sees(command: Act, bus: Bus) -> str:
    before = mark.get()
    mark.set("of the handler")
    await anyio.lowlevel.checkpoint()
    assert mark.get() == "of the handler"
    return before


async def test_a_handler_does_not_see_the_context_of_its_caller() -> None:
    async with app_of(actor(sees)) as app:
        mark.set("of the caller")
        assert await app.bus.execute(Act()) == "of the resource"


async def test_what_a_handler_sets_is_gone_afterwards() -> None:
    async with app_of(actor(sees)) as app:
        mark.set("of the caller")
        await app.bus.execute(Act())
        assert mark.get() == "of the caller"
        assert await app.bus.execute(Act()) == "of the resource"
        assert await app.bus.ask(Look()) == "of the resource"


async def test_a_handler_sees_what_the_resources_of_its_module_have_set() -> None:
    async with app_of(actor(sees)) as app:
        assert await app.bus.ask(Look()) == "of the resource"


async def test_what_a_resource_sets_is_not_seen_outside_of_its_module() -> None:
    async with app_of(actor(sees)):
        assert mark.get() == "nothing"


async def test_a_resource_may_reset_when_it_closes_what_it_set_when_it_opened() -> None:
    async with app_of(actor(sees)):
        pass


async def test_a_sync_handler_runs_in_a_context_of_its_own() -> None:
    async with app_of(actor(sees)) as app:
        mark.set("of the caller")
        assert await app.bus.execute(Thought()) == "of the resource"
        assert mark.get() == "of the caller"
        assert await app.bus.execute(Thought()) == "of the resource"


async def test_a_subscriber_runs_in_a_context_of_its_own() -> None:
    seen: list[str] = []

    def note() -> None:
        seen.append(mark.get())
        mark.set("of the subscriber")

    async with app_of(actor(sees, on_event=note)) as app:
        mark.set("of the publisher")
        await app.bus.publish(Happened())
        await app.bus.publish(Happened())
        await until(lambda: len(seen) == 2)
    assert seen == ["of the resource", "of the resource"]


async def test_a_nested_call_has_a_context_of_its_own_a_hundred_levels_deep() -> None:
    async def nest(command: Act, bus: Bus) -> str:
        before = mark.get()
        mark.set(f"level {command.nested}")
        if command.nested:
            assert await bus.execute(Act(command.nested - 1)) == "of the resource"
        assert mark.get() == f"level {command.nested}"
        return before

    from tests.runtime.helpers import quick

    async with app_of(actor(nest), settings=quick(chain_depth=200)) as app:
        assert await app.bus.execute(Act(100)) == "of the resource"


async def test_a_task_group_in_a_handler_inherits_the_context_of_the_handler() -> None:
    async def spawn(command: Act, bus: Bus) -> str:
        mark.set("of the handler")
        seen: list[str] = []

        async def child() -> None:
            await anyio.lowlevel.checkpoint()
            seen.append(mark.get())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(child)
            tasks.start_soon(child)
        return ", ".join(seen)

    async with app_of(actor(spawn)) as app:
        mark.set("of the caller")
        assert await app.bus.execute(Act()) == "of the handler, of the handler"


async def test_a_thread_of_a_handler_inherits_the_context_of_the_handler() -> None:
    async def think(command: Act, bus: Bus) -> str:
        mark.set("of the handler")
        there = await anyio.to_thread.run_sync(mark.get)
        back = await anyio.to_thread.run_sync(anyio.from_thread.run_sync, mark.get)
        return f"{there}, {back}"

    async with app_of(actor(think)) as app:
        mark.set("of the caller")
        assert await app.bus.execute(Act()) == "of the handler, of the handler"


async def test_a_handler_may_reset_its_own_token_after_it_has_waited() -> None:
    async def reset(command: Act, bus: Bus) -> str:
        token = mark.set("of the handler")
        await anyio.lowlevel.checkpoint()
        mark.reset(token)
        return mark.get()

    async with app_of(actor(reset)) as app:
        assert await app.bus.execute(Act()) == "of the resource"


async def test_an_async_generator_of_a_handler_keeps_the_context_of_the_handler() -> None:
    async def generate(command: Act, bus: Bus) -> str:
        async def numbers() -> AsyncGenerator[str]:
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
                yield mark.get()

        mark.set("of the handler")
        return ", ".join([text async for text in numbers()])

    async with app_of(actor(generate)) as app:
        mark.set("of the caller")
        assert await app.bus.execute(Act()) == "of the handler, of the handler, of the handler"


async def test_the_middleware_runs_in_the_context_of_the_handler() -> None:
    async def tracing(handling: Handling, call_next: Callable[[], Any]) -> Any:
        if handling.name == "actor.look":
            mark.set("of the middleware")
        return await call_next()

    async with app_of(actor(sees, middleware=(tracing,))) as app:
        mark.set("of the caller")
        assert await app.bus.ask(Look()) == "of the middleware"
        assert mark.get() == "of the caller"


async def test_two_handlers_at_a_time_do_not_see_each_other() -> None:
    both = anyio.Event()
    running = 0

    async def meet(command: Act, bus: Bus) -> str:
        nonlocal running
        mark.set(f"of {command.nested}")
        running += 1
        if running == 2:
            both.set()
        await both.wait()
        return mark.get()

    async with app_of(actor(meet)) as app:
        replies: list[str] = []

        async def call(number: int) -> None:
            replies.append(await app.bus.execute(Act(number)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call, 1)
            tasks.start_soon(call, 2)
    assert sorted(replies) == ["of 1", "of 2"]


async def test_a_handler_learns_who_calls_it_and_in_which_chain() -> None:
    async def introduce(command: Act, bus: Bus) -> str:
        return await bus.execute(Introduce())

    async with app_of(actor(introduce)) as app:
        assert await app.bus.execute(Introduce()) == "None "
        assert await app.bus.execute(Act()) == "actor actor.act"


async def test_a_query_handler_gets_a_bus_that_can_only_ask() -> None:
    from fissile import Queries

    reader = Module(Contract("reader", messages=[Look]))
    buses: list[Queries] = []

    @reader.query(Look)
    async def look(query: Look, queries: Queries) -> str:
        buses.append(queries)
        return ""

    async with App([reader]) as app:
        await app.bus.ask(Look())
    assert type(buses[0]) is Queries
    assert not hasattr(buses[0], "execute")
    assert not hasattr(buses[0], "publish")


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_the_current_task_is_that_of_the_caller() -> None:
    import asyncio

    tasks: list[Any] = []

    async def who(command: Act, bus: Bus) -> str:
        tasks.append(asyncio.current_task())
        await anyio.lowlevel.checkpoint()
        tasks.append(asyncio.current_task())
        return ""

    async with app_of(actor(who)) as app:
        await app.bus.execute(Act())
        assert tasks == [asyncio.current_task()] * 2


async def test_locks_streams_and_the_name_of_the_event_loop_work_in_a_handler() -> None:
    lock = anyio.Lock()

    async def use(command: Act, bus: Bus) -> str:
        send, receive = anyio.create_memory_object_stream[str](0)
        async with send, receive, lock, anyio.create_task_group() as tasks:
            tasks.start_soon(send.send, anyio.get_current_task().name or "")
            got = await receive.receive()
        assert got == anyio.get_current_task().name
        return sniffio.current_async_library()

    async with app_of(actor(use)) as app:
        assert await app.bus.execute(Act()) == sniffio.current_async_library()
        assert not lock.statistics().locked


async def test_a_lock_that_one_handler_holds_another_waits_for() -> None:
    lock = anyio.Lock()
    inside: list[int] = []

    async def hold(command: Act, bus: Bus) -> str:
        async with lock:
            inside.append(command.nested)
            await anyio.lowlevel.checkpoint()
            assert inside.pop() == command.nested
            assert inside == []
        return ""

    async with app_of(actor(hold)) as app, anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(app.bus.execute, Act(number))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_a_call_works_in_an_eager_task() -> None:
    import asyncio

    async with app_of(actor(sees)) as app:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]
        try:
            mark.set("of the caller")
            assert await asyncio.create_task(app.bus.execute(Act())) == "of the resource"
        finally:
            asyncio.get_running_loop().set_task_factory(None)
