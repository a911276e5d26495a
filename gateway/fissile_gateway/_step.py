"""Telling whether something waits."""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

R = TypeVar("R")

Steps = Coroutine[Any, Any, R] | Generator[Any, Any, R]
"""What waits. Any, here and below: what passes is between it and the event loop."""


@types.coroutine
def step(waiting: Steps[R], when_it_waits: Callable[[], None]) -> Generator[Any, Any, R]:
    """Wait for something; if it is not there at once, call a function first.

    Args:
        waiting: What is waited for.
        when_it_waits: The function.
    """
    try:
        yielded = waiting.send(None)
        when_it_waits()
        while True:
            try:
                received = yield yielded
            except BaseException as error:  # noqa: BLE001 -- whatever the event loop throws is for what waits
                yielded = waiting.throw(error)
            else:
                yielded = waiting.send(received)
    except StopIteration as stop:
        result: R = stop.value
        return result
