"""A module tested alone, beside a stand-in for the one it calls."""

from __future__ import annotations

import pytest
from attrs import frozen

from fissile import App, Bus, Command, Contract, DeclaredError, HandlerFailed, Module, Query
from fissile.testing import fake


@frozen
class Empty(DeclaredError):
    sku: str


@frozen
class CountStock(Query[int], raises=(Empty,)):
    sku: str


@frozen
class Reserve(Command[None]):
    sku: str


stock = Contract("stock", messages=[Empty, CountStock, Reserve])


@frozen
class Order(Command[int], raises=(Empty,)):
    sku: str


orders = Module(Contract("orders", messages=[Order]))


@orders.command(Order, idempotent=True)
async def order(command: Order, bus: Bus) -> int:
    count = await bus.ask(CountStock(command.sku))
    await bus.execute(Reserve(command.sku))
    return count


async def test_a_fake_answers_with_the_reply_it_was_given_and_remembers_what_it_was_asked() -> None:
    other = fake(stock, {CountStock: 3, Reserve: None})
    async with App([orders, other.module]) as app:
        assert await app.bus.execute(Order("a")) == 3
    assert other.received == [CountStock("a"), Reserve("a")]


async def test_a_fake_raises_the_error_it_was_given() -> None:
    async with App([orders, fake(stock, {CountStock: Empty("a")}).module]) as app:
        with pytest.raises(Empty):
            await app.bus.execute(Order("a"))


async def test_a_fake_may_answer_with_a_function_of_the_message() -> None:
    async def count(query: CountStock) -> int:
        return len(query.sku)

    async with App([orders, fake(stock, {CountStock: count, Reserve: lambda command: None}).module]) as app:
        assert await app.bus.execute(Order("four")) == 4


async def test_a_fake_fails_on_what_it_was_given_no_answer_to() -> None:
    async with App([orders, fake(stock).module]) as app:
        with pytest.raises(HandlerFailed, match=r"HandlerFailed.*given no answer to CountStock"):
            await app.bus.execute(Order("a"))
