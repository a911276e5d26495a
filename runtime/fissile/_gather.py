"""Asks several modules at a time, under one deadline: what a page, or a handler that composes, is made of.

A part is required or optional. When a required one fails, the others are cancelled and its error is raised, as if it had been called alone. When
an optional one fails, its value is None, and `missing` tells why. What is the caller's own mistake (a message that nobody handles, or that
does not fit its contract) fails the whole in any case.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Generic, TypeVar, cast, overload

import anyio
import anyio.abc
import msgspec

from fissile._bus import Bus, Queries
from fissile._errors import CallRefused, DeadlineExceeded, HandlerFailed, Overloaded, Unavailable
from fissile._messages import Command, DeclaredError, Query
from fissile._names import kebab_case

R = TypeVar("R")

_ABSENT_BECAUSE = (DeclaredError, HandlerFailed, Overloaded, Unavailable, DeadlineExceeded)
"""What may become of an optional part: outcomes of its module, or of the way to it. All else is a mistake of the caller's."""

_PENDING: Any = object()


class Part(Generic[R]):
    """One answer of several. Its value is there when the block of `gather` has ended.

    Attributes:
        name: What it is called: that of its message's class in kebab-case unless told.
        error: Why there is no value, of an optional part that failed; None otherwise.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.error: Exception | None = None
        self._value: R = _PENDING

    @property
    def value(self) -> R:
        """The reply; None for an optional part that failed.

        Raises:
            CallRefused: The block of `gather` has not ended yet.
        """
        if self._value is _PENDING:
            raise CallRefused(
                f"The part {self.name!r} has no value yet: its block of `gather` has not ended. Read it below."
            )
        return self._value

    def __repr__(self) -> str:
        state = "pending" if self._value is _PENDING else "there" if self.error is None else f"missing: {self.error}"
        return f"<Part {self.name}: {state}>"


class Missing(msgspec.Struct, frozen=True):
    """An optional part without a value.

    Attributes:
        name: The part's name.
        error: Why.
    """

    name: str
    error: Exception


class Parts:
    """What `gather` gives: asks begin at once and run side by side until its block ends."""

    def __init__(self, bus: Queries, tasks: anyio.abc.TaskGroup, timeout_s: float) -> None:
        self._bus = bus
        self._tasks = tasks
        self._timeout_s = timeout_s
        self._deadline = anyio.current_time() + timeout_s
        self._parts: list[Part[Any]] = []  # Any: each has a type of its own
        self._failure: Exception | None = None

    def ask(self, query: Query[R], *, name: str | None = None) -> Part[R]:
        """Ask for something that the whole cannot do without.

        Args:
            query: The query.
            name: What the part is called; after the query unless told.
        """
        part: Part[R] = Part(name or _name_of(query))
        self._start(part, lambda: self._bus.ask(query), is_required=True)
        return part

    def try_ask(self, query: Query[R], *, name: str | None = None) -> Part[R | None]:
        """Ask for something that the whole can do without; arguments as for `ask`."""
        part: Part[R | None] = Part(name or _name_of(query))
        self._start(part, lambda: self._bus.ask(query), is_required=False)
        return part

    @property
    def missing(self) -> tuple[Missing, ...]:
        """The optional parts that have failed, in the order in which they were asked for."""
        return tuple(Missing(part.name, part.error) for part in self._parts if part.error is not None)

    def _start(self, part: Part[Any], call: Callable[[], Coroutine[Any, Any, Any]], *, is_required: bool) -> None:
        self._parts.append(part)
        self._tasks.start_soon(self._run, part, call, is_required)

    async def _run(
        self,
        part: Part[Any],
        call: Callable[[], Coroutine[Any, Any, Any]],
        is_required: bool,  # noqa: FBT001 -- start_soon passes no keywords
    ) -> None:
        error: Exception
        try:
            # The deadline travels with each call, as that of any scope does.
            with anyio.CancelScope(deadline=self._deadline):
                part._value = await call()
                return
            error = DeadlineExceeded(
                f"{part.name} did not answer within the {self._timeout_s:g} s of its `gather`. "
                "A query has no effects; a command may have happened."
            )
        except Exception as raised:  # noqa: BLE001 -- kept as it is: the task group would put it into a group
            error = raised
        if not is_required and isinstance(error, _ABSENT_BECAUSE):
            part.error, part._value = error, None
        elif self._failure is None:
            self._failure = error
            self._tasks.cancel_scope.cancel()


class CommandParts(Parts):
    """What `gather` gives where commands may be executed, too. One that is cancelled, because another part failed, may have happened."""

    def execute(self, command: Command[R], *, name: str | None = None) -> Part[R]:
        """Have a command done that the whole cannot do without; arguments as for `ask`."""
        part: Part[R] = Part(name or _name_of(command))
        self._start(part, self._execution(command), is_required=True)
        return part

    def try_execute(self, command: Command[R], *, name: str | None = None) -> Part[R | None]:
        """Have a command done that the whole can do without; arguments as for `ask`."""
        part: Part[R | None] = Part(name or _name_of(command))
        self._start(part, self._execution(command), is_required=False)
        return part

    def _execution(self, command: Command[R]) -> Callable[[], Coroutine[Any, Any, R]]:
        bus = cast("Bus", self._bus)
        # Made now: Trio starts tasks in any order, and a handler that is repeated has to repeat the ids of its commands.
        message_id = bus._next_child_id()
        return lambda: bus.execute(command, id=message_id)


@overload
def gather(bus: Bus, *, timeout_s: float) -> AbstractAsyncContextManager[CommandParts]: ...
@overload
def gather(bus: Queries, *, timeout_s: float) -> AbstractAsyncContextManager[Parts]: ...
def gather(bus: Queries, *, timeout_s: float) -> AbstractAsyncContextManager[Parts]:
    """Ask several modules at a time, under one deadline.

    `async with gather(bus, timeout_s=2) as parts:` and in it `parts.ask(…)` and `parts.try_ask(…)`. The block ends when all parts have, or at
    the deadline. An error in the block cancels them all.

    Args:
        bus: What to ask with.
        timeout_s: How long all of it may take, in seconds; less where the scope around it ends earlier.

    Raises:
        Exception: That of the required part which failed first; `DeadlineExceeded` where one had no answer in time.
        ValueError: The time is not positive.
    """
    if not timeout_s > 0:
        raise ValueError(f"timeout_s is {timeout_s}; it has to be positive")
    return _gather(bus, timeout_s)


@asynccontextmanager
async def _gather(bus: Queries, timeout_s: float) -> AsyncGenerator[Parts]:
    error: Exception | None = None
    parts: Parts | None = None
    async with anyio.create_task_group() as tasks:
        parts = (CommandParts if isinstance(bus, Bus) else Parts)(bus, tasks, timeout_s)
        try:
            yield parts
        except Exception as raised:  # noqa: BLE001 -- likewise
            error = raised
            tasks.cancel_scope.cancel()
    if parts is not None and parts._failure is not None:
        raise parts._failure
    if error is not None:
        raise error


def _name_of(message: Query[Any] | Command[Any]) -> str:
    return kebab_case(type(message).__name__)
