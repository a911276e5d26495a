"""A stand-in for another module, so that a module is tested alone."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fissile._contract import Contract
from fissile._messages import Request, reply_type
from fissile._module import Module

Answer = Any
"""A reply, an error to raise, or a function of the message that returns or raises one; async if need be. Any: a reply of any type."""


class Fake:
    """A module that stands in for another one. It remembers what it was asked.

    Attributes:
        module: The module, to be hosted beside the one under test.
        received: The messages it was asked, in order.
    """

    def __init__(self, contract: Contract, answers: Mapping[type[Request[Any]], Answer]) -> None:
        self.module = Module(contract)
        self.received: list[Any] = []
        for query in contract.queries:
            self.module.query(query)(self._handler(query, answers.get(query, _NOT_GIVEN)))
        for command in contract.commands:
            self.module.command(command, idempotent=True)(self._handler(command, answers.get(command, _NOT_GIVEN)))

    def _handler(self, message_type: type[Any], answer: Answer) -> Callable[..., Any]:
        async def handle(message: Any) -> Any:
            self.received.append(message)
            if answer is _NOT_GIVEN:
                raise AssertionError(f"the fake of {self.module.name} was given no answer to {message_type.__name__}")
            given = answer(message) if callable(answer) and not isinstance(answer, type) else answer
            if inspect.isawaitable(given):
                awaited: Awaitable[Any] = given
                given = await awaited
            if isinstance(given, BaseException):
                raise given
            return given

        handle.__annotations__ = {"message": message_type, "return": reply_type(message_type)}
        handle.__name__ = handle.__qualname__ = f"fake_{message_type.__name__}"
        return handle


_NOT_GIVEN = object()


def fake(contract: Contract, answers: Mapping[type[Request[Any]], Answer] | None = None) -> Fake:
    """Make a stand-in for the module behind a contract.

        stock = fake(stock_contract, {CheckStock: 3, Reserve: OutOfStock("sku")})
        async with App([orders, stock.module]) as app:
            await app.bus.execute(PlaceOrder("sku"))

    Args:
        contract: The contract of the module.
        answers: What it answers, by message: a reply, an error to raise, or a function of the message. A message that is not named here
            fails when it is asked.
    """
    return Fake(contract, answers or {})
