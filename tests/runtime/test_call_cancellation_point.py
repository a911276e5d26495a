"""Every call is a cancellation point: in a cancelled scope it raises before its handler starts (DESIGN, rule 4)."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from attrs import frozen

from fissile import App, Bus, Command, Contract, Module, _cancellation
from tests.runtime.helpers import app_of

pytestmark = pytest.mark.anyio


@frozen
class Note(Command[int]):
    """Counts how often its handler started."""


@frozen
class Try(Command[None]):
    """Runs a piece of the test in a handler."""


Body = Callable[[Bus], Awaitable[None]]


class Place:
    """An application whose handler `Try` runs what a test gives it, and whose handler `Note` counts."""

    def __init__(self) -> None:
        self.noted = 0
        self.body: Body = self._nothing
        noting = Module(Contract("noting", messages=[Note]))
        trying = Module(Contract("trying", messages=[Try]))

        @noting.command(Note, idempotent=True)
        async def note(_note: Note) -> int:
            self.noted += 1
            return self.noted

        @trying.command(Try, idempotent=True)
        async def run(_try: Try, bus: Bus) -> None:
            await self.body(bus)

        self.modules = (noting, trying)

    async def _nothing(self, bus: Bus) -> None:
        pass

    async def run(self, app: App, body: Body) -> None:
        self.body = body
        with anyio.fail_after(10):
            await app.bus.execute(Try())


async def cancelled_by_itself(bus: Bus, reached: list[str]) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await bus.execute(Note())
        reached.append("after the call")
    assert scope.cancelled_caught


async def out_of_time(bus: Bus, reached: list[str]) -> None:
    with anyio.move_on_after(0) as scope:
        await bus.execute(Note())
        reached.append("after the call")
    assert scope.cancelled_caught


async def cancelled_outside(bus: Bus, reached: list[str]) -> None:
    with anyio.CancelScope() as outer:
        outer.cancel()
        with anyio.CancelScope(), anyio.CancelScope():
            await bus.execute(Note())
            reached.append("after the call")
    assert outer.cancelled_caught


async def cancelled_while_waiting(bus: Bus, reached: list[str]) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel_soon, scope)
            try:
                await anyio.sleep_forever()
            finally:
                await bus.execute(Note())
                reached.append("after the call")


async def cancel_soon(scope: anyio.CancelScope) -> None:
    await anyio.lowlevel.checkpoint()
    scope.cancel()


async def in_a_child_task(bus: Bus, reached: list[str]) -> None:
    async def child() -> None:
        await bus.execute(Note())
        reached.append("after the call")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(child)
        tasks.cancel_scope.cancel()


async def below_a_cancelled_shield(bus: Bus, reached: list[str]) -> None:
    with anyio.CancelScope(shield=True) as shield:
        with anyio.CancelScope():
            shield.cancel()
            await bus.execute(Note())
            reached.append("after the call")
    assert shield.cancelled_caught


CANCELLED = [
    cancelled_by_itself,
    out_of_time,
    cancelled_outside,
    cancelled_while_waiting,
    in_a_child_task,
    below_a_cancelled_shield,
]


@pytest.mark.parametrize("is_warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("case", CANCELLED)
async def test_a_call_in_a_cancelled_scope_does_not_start_its_handler(
    case: Callable[[Bus, list[str]], Awaitable[None]], is_warm: bool
) -> None:
    place, reached = Place(), list[str]()

    async def body(bus: Bus) -> None:
        if is_warm:  # the test for a cancelled scope remembers the task that called last
            await bus.execute(Note())
            await bus.execute(Note())
        before = place.noted
        await case(bus, reached)
        assert place.noted == before

    async with app_of(*place.modules) as app:
        await place.run(app, body)
        assert reached == []
        assert await app.bus.execute(Note()) == (3 if is_warm else 1)


async def shielded(bus: Bus) -> None:
    with anyio.CancelScope() as outer:
        outer.cancel()
        with anyio.CancelScope(shield=True):
            await bus.execute(Note())


async def deep_in_a_shield(bus: Bus) -> None:
    with anyio.CancelScope() as outer:
        outer.cancel()
        with anyio.CancelScope(shield=True), anyio.CancelScope(), anyio.CancelScope():
            await bus.execute(Note())


async def beside_a_cancelled_scope(bus: Bus) -> None:
    with anyio.CancelScope() as scope:  # noqa: ASYNC100 -- its cancellation must not reach what comes after it
        scope.cancel()
    await bus.execute(Note())


async def in_a_child_task_of_a_cancelled_sibling(bus: Bus) -> None:
    async def cancels_itself() -> None:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bus.execute(Note())

    async def calls() -> None:
        await anyio.lowlevel.checkpoint()
        await bus.execute(Note())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancels_itself)
        tasks.start_soon(calls)


@pytest.mark.parametrize(
    "case", [shielded, deep_in_a_shield, beside_a_cancelled_scope, in_a_child_task_of_a_cancelled_sibling]
)
async def test_a_call_outside_of_the_cancelled_scope_is_made(case: Body) -> None:
    place = Place()
    async with app_of(*place.modules) as app:
        await place.run(app, case)
        assert place.noted == 1


async def test_a_call_of_a_task_that_anyio_did_not_start_is_made(anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("only asyncio has such tasks")
    import asyncio

    place = Place()

    async def body(bus: Bus) -> None:
        async def native() -> None:
            await bus.execute(Note())
            with anyio.CancelScope() as scope:  # from here on AnyIO knows the task
                scope.cancel()
                await bus.execute(Note())
            await bus.execute(Note())

        await asyncio.get_running_loop().create_task(native())

    async with app_of(*place.modules) as app:
        await place.run(app, body)
        assert place.noted == 2


async def test_many_tasks_by_turns_each_have_their_own_scope() -> None:
    place, stopped = Place(), list[int]()

    async def body(bus: Bus) -> None:
        async def calls(number: int) -> None:
            with anyio.CancelScope() as scope:
                for turn in range(4):
                    if number % 2 and turn == 2:
                        scope.cancel()
                    await bus.execute(Note())
                    await anyio.lowlevel.checkpoint()
            if scope.cancelled_caught:
                stopped.append(number)

        async with anyio.create_task_group() as tasks:
            for number in range(10):
                tasks.start_soon(calls, number)

    async with app_of(*place.modules) as app:
        await place.run(app, body)
    assert sorted(stopped) == [1, 3, 5, 7, 9]
    assert place.noted == 5 * 4 + 5 * 2


# --- the test for a cancelled scope ----------------------------------------------------------------------------------


async def test_the_quick_test_holds_with_the_installed_versions(anyio_backend_name: str) -> None:
    test = _cancellation._trio_test() if anyio_backend_name == "trio" else _cancellation._asyncio_test()
    assert _cancellation._is_right(test)
    assert not _cancellation.cancellation_test()()


async def test_where_the_quick_test_does_not_hold_every_call_makes_the_full_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def not_there() -> Any:
        raise AttributeError("_task_states")

    monkeypatch.setattr(_cancellation, "_asyncio_test", not_there)
    monkeypatch.setattr(_cancellation, "_trio_test", lambda: lambda: False)  # there, and wrong
    assert _cancellation.cancellation_test()()
    await test_a_call_in_a_cancelled_scope_does_not_start_its_handler(cancelled_by_itself, is_warm=True)
    await test_a_call_outside_of_the_cancelled_scope_is_made(shielded)
