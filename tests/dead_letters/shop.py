"""What the tests of dead letters share: a module that publishes, and one whose handler fails when told to."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from attrs import field, frozen

from fissile import App, Bus, Caller, Command, Contract, DeadLetter, Event, Module, Retry, Topic
from fissile.testing import ManualClock
from tests.runtime.helpers import PATIENCE_S

ONCE = Retry(attempts=1)


@frozen
class Placed(Event):
    sku: str
    quantity: int = 1


@frozen
class Charge(Command[None]):
    amount: int


placed = Topic("orders.placed", Placed, key=lambda event: event.sku)
orders = Module(Contract("orders", messages=[Placed], topics=[placed]))
billing_contract = Contract("billing", messages=[Charge])


@frozen(eq=False)
class Billing:
    """A module with two subscribers and a command; what it saw, and what it is to fail at.

    Args:
        fails: Whether to fail at an event.
        retry: The policy of the subscriber that can fail.
    """

    fails: Callable[[Placed], bool] = lambda event: False
    retry: Retry = ONCE
    seen: list[tuple[str, int]] = field(factory=list)
    ids: list[str] = field(factory=list)
    tried: list[int] = field(factory=list)
    others: list[str] = field(factory=list)
    charged: list[int] = field(factory=list)

    def module(self, *, without_handler: bool = False) -> Module:
        module = Module(billing_contract)

        async def on_placed(event: Placed, caller: Caller) -> None:
            self.ids.append(caller.message_id)
            self.tried.append(caller.attempt)
            for _ in range(max(0, 20 - event.quantity)):
                await anyio.lowlevel.checkpoint()  # the larger the quicker: what is not held back is out of order
            if self.fails(event):
                raise ValueError(f"no {event.sku}")
            self.seen.append((event.sku, event.quantity))

        if not without_handler:
            module.subscribe(placed, retry=self.retry)(on_placed)

        @module.subscribe(placed)
        async def also(event: Placed) -> None:
            self.others.append(event.sku)

        @module.command(Charge, idempotent=True, retry=ONCE)
        async def charge(command: Charge, bus: Bus) -> None:
            if command.amount < 0:
                raise ValueError("negative")
            self.charged.append(command.amount)

        return module


async def letters_when(app: App, condition: Callable[[tuple[DeadLetter, ...]], bool]) -> tuple[DeadLetter, ...]:
    """Wait until the dead letters are so; return them."""
    found: tuple[DeadLetter, ...] = ()
    with anyio.move_on_after(PATIENCE_S):
        while True:
            found = await app.dead_letters()
            if condition(found):
                return found
            await anyio.sleep(0.001)
    pytest.fail(f"Waited in vain; there are {[(letter.state, letter.reason) for letter in found]}")


async def one_letter(app: App) -> DeadLetter:
    """Wait until there is one dead letter; return it."""
    (letter,) = await letters_when(app, lambda letters: [each.state for each in letters] == ["dead"])
    return letter


async def no_letters(app: App) -> None:
    """Wait until there is no dead letter."""
    await letters_when(app, lambda letters: letters == ())


def clock() -> ManualClock:
    return ManualClock()
