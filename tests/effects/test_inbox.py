"""A message takes effect once: its effects, what it publishes and its outcome commit together, and a repeat gets the first outcome."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from attrs import frozen
from sqlalchemy import Column, MetaData, String, Table, insert

from fissile import App, Bus, CallRefused, Command, Contract, HandlerFailed, InvalidMessage, Module, Settings
from fissile.database import Database, Schema
from tests.effects.shop import Count, Hooks, Meddle, Note, Place, SoldOut, make
from tests.runtime.helpers import until

unique_metadata = MetaData()
seats = Table("seats", unique_metadata, Column("name", String(50), primary_key=True))


@frozen
class Take(Command[str]):
    """Take a seat, which only one can have."""

    name: str


unique_contract = Contract("seats", messages=[Take])


async def test_a_repeat_of_a_command_gets_the_first_reply_and_has_no_further_effect(settings: Settings) -> None:
    hooks = Hooks()
    async with App([make(hooks)], settings=settings) as app:
        first = await app.bus.execute(Place("a"), id="one")
        await app.bus.execute(Place("b"))
        assert await app.bus.execute(Place("a"), id="one") == first == 1
        assert await app.bus.ask(Count("a")) == 1
        await until(lambda: sorted(hooks.seen) == [("a", 1), ("b", 2)])
    assert hooks.handled == ["a", "b"]


async def test_a_repeat_after_a_restart_gets_the_first_reply(settings: Settings) -> None:
    hooks = Hooks()
    for _ in range(2):
        async with App([make(hooks)], settings=settings) as app:
            assert await app.bus.execute(Place("a"), id="one") == 1
    assert hooks.handled == ["a"]


@pytest.mark.parametrize("how", ["sold out before", "sold out inside"])
async def test_a_repeat_gets_the_declared_error_that_the_command_came_to(settings: Settings, how: str) -> None:
    hooks = Hooks()
    async with App([make(hooks)], settings=settings) as app:
        for _ in range(2):
            with pytest.raises(SoldOut) as raised:
                await app.bus.execute(Place("a", how), id="one")
            assert raised.value == SoldOut("a")
        assert await app.bus.ask(Count("a")) == 0
    assert (hooks.handled, hooks.seen) == (["a"], [])


async def test_a_command_that_failed_is_handled_anew_and_had_no_effect(settings: Settings) -> None:
    hooks = Hooks()
    async with App([make(hooks)], settings=settings) as app:
        for _ in range(2):
            with pytest.raises(HandlerFailed):
                await app.bus.execute(Place("a", "fail after"), id="one")
        assert await app.bus.ask(Count("a")) == 0
    assert (hooks.handled, hooks.seen) == (["a", "a"], [])


async def test_an_id_that_was_used_for_another_content_is_refused(settings: Settings) -> None:
    async with App([make(Hooks())], settings=settings) as app:
        await app.bus.execute(Place("a"), id="one")
        with pytest.raises(InvalidMessage, match="the id 'one' was used before"):
            await app.bus.execute(Place("b"), id="one")
        assert await app.bus.ask(Count("b")) == 0


@pytest.mark.parametrize("is_loopback", [False, True])
async def test_the_same_through_the_log(settings: Settings, *, is_loopback: bool) -> None:
    hooks = Hooks()
    async with App([make(hooks)], settings=settings, is_loopback=is_loopback) as app:
        assert [await app.bus.execute(Place("a"), id="one") for _ in range(3)] == [1, 1, 1]
        for _ in range(2):
            with pytest.raises(SoldOut):
                await app.bus.execute(Place("c", "sold out inside"), id="two")
        with pytest.raises(InvalidMessage, match="was used before"):
            await app.bus.execute(Place("b"), id="one")
    assert hooks.handled == ["a", "c"]


async def test_a_repeat_of_a_command_that_is_still_running_waits_for_its_outcome(settings: Settings) -> None:
    hooks, may_go_on = Hooks(), anyio.Event()
    hooks.inside = lambda _: may_go_on.wait()
    replies: list[int] = []
    async with App([make(hooks)], settings=settings) as app, anyio.create_task_group() as tasks:

        async def place() -> None:
            replies.append(await app.bus.execute(Place("a"), id="one"))

        for _ in range(3):
            tasks.start_soon(place)
        await until(lambda: hooks.handled)
        assert replies == []
        may_go_on.set()
        await until(lambda: len(replies) == 3)
        tasks.cancel_scope.cancel()
    assert (replies, hooks.handled) == ([1, 1, 1], ["a"])


@pytest.mark.parametrize("how", ["row", "after all"])
async def test_a_repeat_that_another_replica_handles_at_the_same_time_gets_the_first_outcome(
    settings: Settings, how: str
) -> None:
    """The second one fails, of what the first has written or of something else; by then the first outcome is known."""
    handled, outcomes = list[str](), list[object]()
    may_go_on = anyio.Event()

    def make_replica(name: str) -> Module:
        module = Module(unique_contract, database=Schema(unique_metadata, migrations=None))

        @module.command(Take)
        async def take(command: Take, database: Database) -> str:
            if name == "second":
                handled.append(name)
                if how == "after all":
                    await until(lambda: outcomes)
                    raise RuntimeError("after all")
            async with database.transaction() as tx:
                await tx.execute(insert(seats).values(name=command.name))
                if name == "first":
                    handled.append(name)  # it holds the row before the other one is asked
                    await may_go_on.wait()
            return name

        return module

    async with (
        App([make_replica("first")], settings=settings) as first,
        App([make_replica("second")], settings=settings) as second,
        anyio.create_task_group() as tasks,
    ):

        async def take(app: App) -> None:
            outcomes.append(await app.bus.execute(Take("a"), id="one"))

        tasks.start_soon(take, first)
        await until(lambda: handled == ["first"])
        tasks.start_soon(take, second)
        await until(lambda: handled == ["first", "second"])
        may_go_on.set()
        await until(lambda: len(outcomes) == 2)
    assert outcomes == ["first", "first"]


async def test_a_repeat_that_fails_while_the_first_is_still_running_elsewhere_tells_its_own_failure(
    settings: Settings,
) -> None:
    hooks, others, may_go_on = Hooks(), Hooks(), anyio.Event()
    hooks.before = lambda _: may_go_on.wait()
    async with App([make(hooks)], settings=settings) as first, App([make(others)], settings=settings) as second:

        async def fail(_: Bus) -> None:
            raise LookupError("not this one")

        others.before = fail
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: first.bus.execute(Place("a"), id="one"))
            await until(lambda: hooks.handled)
            with pytest.raises(HandlerFailed, match="not this one"):
                await second.bus.execute(Place("a"), id="one")
            may_go_on.set()


async def test_a_cancelled_command_has_no_effect_and_its_repeat_is_handled(settings: Settings) -> None:
    hooks = Hooks()
    hooks.inside = lambda _: anyio.sleep_forever()
    async with App([make(hooks)], settings=settings) as app:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_when, scope, hooks)
                await app.bus.execute(Place("a"), id="one")
        assert scope.cancelled_caught
        assert await app.bus.ask(Count("a")) == 0
        hooks.inside = None
        assert await app.bus.execute(Place("a"), id="one") == 1


async def _cancel_when(scope: anyio.CancelScope, hooks: Hooks) -> None:
    await until(lambda: hooks.handled)
    scope.cancel()


async def test_what_a_transaction_that_was_given_up_wrote_and_published_is_gone_and_the_rest_is_not(
    settings: Settings,
) -> None:
    hooks = Hooks()
    async with App([make(hooks)], settings=settings) as app:
        await app.bus.execute(Place("a", "inner"))
        assert (await app.bus.ask(Count("inner")), await app.bus.ask(Count("a"))) == (0, 1)
        await until(lambda: hooks.seen)
    assert hooks.seen == [("a", 1)]


async def test_all_transactions_of_a_handler_commit_together(settings: Settings) -> None:
    hooks = Hooks()
    async with App([make(hooks)], settings=settings) as app:
        await app.bus.execute(Place("a", "two"))
        assert await app.bus.ask(Count("a")) == 2


@pytest.mark.parametrize("where", ["inside", "after"])
async def test_a_handler_that_takes_effect_once_cannot_call_from_its_first_transaction_on(
    settings: Settings, where: str
) -> None:
    hooks, refusals = Hooks(), list[CallRefused]()

    async def call(bus: Bus) -> None:
        try:
            await bus.ask(Count("a"))
        except CallRefused as refused:
            refusals.append(refused)

    setattr(hooks, where, call)
    async with App([make(hooks)], settings=settings) as app:
        await app.bus.execute(Place("a"))
        assert await app.bus.ask(Count("a")) == 1  # and whoever called it can call again
    assert "a transaction of shop is open" in str(refusals[0])


async def test_a_handler_can_call_before_its_first_transaction(settings: Settings) -> None:
    hooks, replies = Hooks(), list[Any]()

    async def call(bus: Bus) -> None:
        replies.append(await bus.ask(Count("a")))

    hooks.before = call
    async with App([make(hooks)], settings=settings) as app:
        await app.bus.execute(Place("a"))
    assert replies == [0]


async def test_an_idempotent_handler_commits_each_transaction_and_can_call_between_them(settings: Settings) -> None:
    hooks, replies = Hooks(), list[Any]()

    async def call(bus: Bus) -> None:
        replies.append(await bus.ask(Count("a")))

    hooks.after = call
    async with App([make(hooks, idempotent=True)], settings=settings) as app:
        with pytest.raises(HandlerFailed):
            await app.bus.execute(Place("a", "fail after"), id="one")
        await until(lambda: hooks.seen)
        assert await app.bus.ask(Count("a")) == 1
    assert (replies, hooks.seen) == ([1], [("a", 1)])


async def test_the_handler_of_a_query_cannot_open_a_transaction(settings: Settings) -> None:
    async with App([make(Hooks())], settings=settings) as app:
        with pytest.raises(HandlerFailed, match="the handler of a query has no effects"):
            await app.bus.ask(Meddle())


async def test_a_command_sent_by_a_handler_goes_when_its_transaction_commits(settings: Settings) -> None:
    hooks = Hooks()
    async with App([make(hooks)], settings=settings) as app:
        await app.bus.execute(Place("a", "send"), id="one")
        await app.bus.execute(Place("a", "send"), id="one")
        await until(lambda: hooks.noted)
        await app.bus.execute(Note("last"))
        await until(lambda: len(hooks.noted) == 2)
    assert hooks.noted[0].startswith("a one.")


async def test_deliveries_that_are_repeated_take_effect_once(settings: Settings) -> None:
    hooks = Hooks()
    async with App([make(hooks)], settings=settings, is_loopback=True, repeats=True) as app:
        for number in range(20):
            await app.bus.execute(Place(f"item {number}"))
        await until(lambda: len(hooks.seen) >= 20)
        counts = [await app.bus.ask(Count(f"item {number}")) for number in range(20)]
    assert counts == [1] * 20
    assert sorted(number for _, number in hooks.seen) == list(range(1, 21))


async def test_a_dead_letter_of_a_declared_error_is_handled_anew_when_a_person_tries_it_again(
    settings: Settings,
) -> None:
    hooks = Hooks()
    async with App([make(hooks)], settings=settings) as app:
        hooks.is_sold_out = True
        await app.bus.send(Place("a", "ask"), id="one")
        await until(lambda: hooks.handled == ["a"])
        while not (letters := await app.dead_letters()):
            await anyio.sleep(0.01)
        hooks.is_sold_out = False
        await app.retry_dead_letters(*letters)
        await until(lambda: hooks.seen == [("a", 1)])
        assert await app.bus.execute(Place("a", "ask"), id="one") == 1
        assert await app.dead_letters() == ()
    assert hooks.handled == ["a", "a"]
