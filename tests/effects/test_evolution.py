"""A contract that got a field with a default: what was done before the deployment is known after it, and before it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import attrs
import pytest
from attrs import frozen

from fissile import App, Command, Contract, Event, InvalidMessage, Module, Settings, Topic
from fissile.database import Saga, Sagas, Schema
from tests.effects.shop import metadata

# Any, all through this file: a message of one of two contracts.


class First:
    """The contract before."""

    @frozen
    class Item:
        name: str

    @frozen
    class Order(Command[str]):
        item: FirstItem
        count: int


FirstItem = First.Item


class Second:
    """The contract after."""

    @frozen
    class Item:
        name: str
        tags: tuple[str, ...] = ()

    @frozen
    class Order(Command[str]):
        item: SecondItem
        count: int
        note: str = ""


SecondItem = Second.Item


def version_1() -> tuple[Contract, Callable[..., Any]]:
    return Contract("evolving", messages=(First.Order,)), lambda name: First.Order(First.Item(name), 1)


def version_2() -> tuple[Contract, Callable[..., Any]]:
    contract = Contract("evolving", messages=(Second.Order,))
    return contract, lambda name, *note: Second.Order(Second.Item(name), 1, *note)


def make(contract: Contract, order: Callable[..., Any], handled: list[str]) -> Module:
    module = Module(contract, database=Schema(metadata, migrations=None))
    message: Any = type(order("any"))

    async def handle(command: Any) -> str:
        handled.append(command.item.name)
        return f"{command.item.name} {len(handled)}"

    handle.__annotations__ = {"command": message, "return": str}
    module.command(message)(handle)
    return module


@pytest.mark.parametrize(("before", "after"), [(version_1, version_2), (version_2, version_1)], ids=["on", "back"])
async def test_a_repeat_of_what_another_version_has_handled_gets_the_first_outcome(
    settings: Settings, before: Callable[[], Any], after: Callable[[], Any]
) -> None:
    handled: list[str] = []
    for version in (before, after):
        contract, order = version()
        async with App([make(contract, order, handled)], settings=settings) as app:
            assert await app.bus.execute(order("a"), id="one") == "a 1"
            with pytest.raises(InvalidMessage, match="was used before"):
                await app.bus.execute(order("b"), id="one")
            if version is version_2:
                with pytest.raises(InvalidMessage, match="was used before"):
                    await app.bus.execute(order("a", "and a note"), id="one")
    assert handled == ["a"]


async def test_a_saga_goes_on_when_its_messages_got_fields_and_its_topic_another_event(settings: Settings) -> None:
    done: list[str] = []

    def version(number: int) -> tuple[Module, Any, Any]:
        @frozen
        class Begin(Command[str]):
            id: str

        if number == 1:

            @frozen
            class Work(Command[None]):
                id: str

        else:

            @frozen
            class Work(Command[None]):  # type: ignore[no-redef]
                id: str
                note: str = ""

        @frozen
        class Said(Event):
            id: str

        @frozen
        class Whispered(Event):
            id: str

        events: tuple[Any, ...] = (Said,) if number == 1 else (Said, Whispered)
        said: Any = Topic("evolving.said", *events, key=lambda event: event.id)
        contract = Contract("evolving", messages=(Begin, Work, *events), topics=(said,))
        module = Module(contract, database=Schema(metadata, migrations=None))

        async def work(command: Any) -> None:
            done.append(f"work {command.id}")

        work.__annotations__ = {"command": Work, "return": None}
        module.command(Work, idempotent=True)(work)

        async def begin(command: Any, saga: Saga) -> None:
            await saga.execute(Work(command.id), undo=Work("undone"))
            await saga.wait_for(said, key=command.id)
            await saga.wait_for(said, key=command.id)
            done.append("ended")

        begin.__annotations__ = {"command": Begin, "saga": Saga, "return": None}
        module.saga(Begin, id=lambda command: command.id, awaits=[said], name="begin")(begin)

        async def look(sagas: Sagas) -> None:
            while True:
                found = await sagas.find("begin", "A1")
                states.append("" if found is None else f"{found.status} {len(found.history)}")
                await anyio.sleep(0.02)

        look.__annotations__ = {"sagas": Sagas, "return": None}
        module.worker(look)  # it has nothing to end, and is cancelled
        return module, Begin, Said

    states: list[str] = []
    settings = attrs.evolve(settings, drain_s=0.3)

    async def until_it_is(wanted: str) -> None:
        with anyio.fail_after(20):
            while not states or states[-1] != wanted:
                assert not states or "stuck" not in states[-1], states[-1]
                await anyio.sleep(0.01)

    module, begin, said = version(1)
    async with App([module], settings=settings) as app:
        await app.bus.execute(begin("A1"))
        await until_it_is("waiting 2")
        await app.bus.publish(said("A1"))
        await until_it_is("waiting 3")
    module, _, said = version(2)
    async with App([module], settings=settings) as app:
        await app.bus.publish(said("A1"))
        await until_it_is("completed 3")
    assert done == ["work A1", "ended"]
