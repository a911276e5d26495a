# mypy: ignore-errors
"""How type checkers see sagas: what is accepted, and what both refuse in the line with the comment. Checked, never run."""

from __future__ import annotations

from typing import assert_type

from fissile import Module
from fissile.database import Saga, Transaction
from tests.sagas.shop import Balance, Begin, Charge, Place, Placed, Refund, Shipped, orders, placed, shipped

module = Module(orders)


async def count(tx: Transaction, name: str) -> int:
    """Count something."""
    return 1


@module.saga(placed, Placed, id=lambda event: event.id, awaits=[shipped])
async def good(order: Placed, saga: Saga) -> None:
    """What is accepted."""
    assert_type(await saga.execute(Charge(order.id), undo=lambda total: Refund(str(total + 1))), int)
    assert_type(await saga.ask(Balance(order.id)), int)
    assert_type(await saga.gather([Charge(order.id)]), list[int])
    assert_type(await saga.wait_for(shipped, Shipped, key=order.id), Shipped)
    assert_type(await saga.transaction(count, "x"), int)


@module.saga(Begin)
async def begun(command: Begin, saga: Saga) -> None:
    """Started by a command that replies with the id."""


@module.saga(Place, id=lambda command: command.id)
async def begun_without_reply(command: Place, saga: Saga) -> None:
    """Started by a command that replies with nothing."""


@module.saga(placed, Placed, id=lambda event: event.id)  # E: another event
async def other_event(order: Shipped, saga: Saga) -> None: ...


module.saga(placed, Placed, id=lambda event: event.total)  # E: no text
module.saga(Charge)  # E: the command replies with a number


async def bad(order: Placed, saga: Saga) -> None:
    """What is refused."""
    await saga.execute(Balance(order.id))  # E: a query
    await saga.execute(Charge(order.id), undo=lambda total: total)  # E: undoing is a command
    await saga.transaction(count, 1)  # E: another type of argument
    await saga.publish(Charge(order.id))  # E: a command
