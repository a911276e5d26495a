"""Run a handler in a fresh `contextvars.Context`, in the task of its caller.

A task of its own would isolate as well, but costs 20 µs, and an error, a cancellation or a reply made under a shield behaves differently
in a task group than in a plain call. So the coroutine is driven by hand: each step of it runs in the handler's context, and what it
yields to the event loop is yielded on from here. Scopes, deadlines, task groups and threads all follow, since they belong to the task or
are inherited through the context in which they are made. What is lost: `Task.print_stack` stops at this file.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from fissile._bus import Queries

R = TypeVar("R")

current_bus: ContextVar[Queries] = ContextVar("fissile.current_bus")
"""The bus of the message being handled here, for the log."""


async def run_isolated(context: Context, coroutine: Coroutine[Any, Any, R]) -> R:
    """Await a coroutine, running each of its steps in the given context."""
    run = context.run
    try:
        yielded = run(coroutine.send, None)
    except StopIteration as stop:
        result: R = stop.value
        return result
    return await drive(run, coroutine, yielded)


@types.coroutine
def drive(run: Callable[..., Any], coroutine: Coroutine[Any, Any, R], yielded: Any) -> Generator[Any, Any, R]:
    """Go on with a coroutine that was started in a context and has yielded once."""
    # Any: what passes here is between the coroutine and the event loop.
    send, throw = coroutine.send, coroutine.throw
    try:
        while True:
            try:
                received = yield yielded
            except BaseException as error:  # noqa: BLE001 -- whatever the event loop throws is for the coroutine
                yielded = run(throw, error)
            else:
                yielded = run(send, received)
    except StopIteration as stop:
        result: R = stop.value
        return result
