"""The journal of one run of a saga: holds the function against the history, writes down what is done, stops the function where it has to wait.

A function is stopped by cancelling the scope in which it runs: no `except Exception` sees it, and what it has open is closed on the way, as in
any structured program. It does not go on from there; it runs again, from its start, when there is something to go on with.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from random import Random
from typing import Any, NoReturn, TypeVar

import anyio
import msgspec
from attrs import define, field
from sqlalchemy import Connection

from fissile._bus import Bus, Scheduled
from fissile._codec import ErrorCodec
from fissile._errors import CallError, CallRefused, InvalidMessage
from fissile._handler import only_leaf
from fissile._messages import Command, DeclaredError
from fissile._requests import REPLIED
from fissile._retry import Retry
from fissile.abc import Outgoing
from fissile.database._errors import DatabaseUnavailable
from fissile.database._inbox import Statements
from fissile.database._saga_codecs import Call, Codecs, Unreadable, encode_error
from fissile.database._saga_history import History, Mismatch, described
from fissile.database._saga_rows import Displaced, SagaRow, StepRow, clip, guard, guard_outcome, save_steps
from fissile.database._store import Store

T = TypeVar("T")

PERMANENT = (InvalidMessage, CallRefused)
"""What no second attempt makes better."""


class SagaHost(msgspec.Struct, frozen=True):
    """What the sagas of a module run with.

    Attributes:
        module: The module's name.
        store: Its database.
        statements: Writes the outbox.
        codecs: Of messages, replies and errors.
        bus: Calls other modules, in the name of the module.
        context: What the resources of the module have set, copied for each run.
        errors: The declared errors of the module's own contract, by name.
        commands: The commands that can be called, by their names on the wire.
        random: For jitter.
        steps: How many steps a saga may have.
        now_ms: Tells the time.
        sent: Called when something was put into the outbox.
    """

    module: str
    store: Store
    statements: Statements
    codecs: Codecs
    bus: Bus
    context: Context
    errors: Mapping[str, ErrorCodec]
    commands: Mapping[str, type[Command[Any]]]
    random: Random
    steps: int
    now_ms: Callable[[], int]
    sent: Callable[[], None]


class Suspended(msgspec.Struct, frozen=True):
    """The function has to wait.

    Attributes:
        due_ms: For a time, in milliseconds since 1970; None: for an event alone.
        event: For an event: its topic and its key, the last one that the saga has seen of that key, and the names of the messages.
    """

    due_ms: int | None
    event: tuple[str, bytes, int, tuple[str, ...]] | None = None


class Stuck(msgspec.Struct, frozen=True):
    """The function does something else than the history says."""

    why: str


class Abandoned(msgspec.Struct, frozen=True):
    """Nothing can be written down: the database is away (an error), or the saga is another process's by now (None)."""

    error: DatabaseUnavailable | None


End = Suspended | Stuck | Abandoned


@define(eq=False)
class Journal:
    """What the steps of one run are done with.

    Attributes:
        host: What sagas run with.
        row: The saga.
        history: What it has done.
        retry: When a step that failed is tried again.
        scope: The scope of the function.
        end: Why the function was stopped, if it was.
        drains: Whether the process drains, and no further step is to begin.
    """

    host: SagaHost
    row: SagaRow
    history: History
    retry: Retry
    drains: Callable[[], bool]
    scope: anyio.CancelScope = field(factory=anyio.CancelScope)
    end: End | None = None
    _in_step: str | None = None

    @property
    def title(self) -> str:
        """How people call the saga."""
        return f"{self.host.module}.{self.row.name} {self.row.saga_id}"

    async def stop(self, end: End) -> NoReturn:
        """Stop the function; whatever it has open is closed."""
        if self.end is None:
            self.end = end
        self.scope.cancel()
        await anyio.sleep_forever()
        raise AssertionError("a cancelled scope was passed over")

    @asynccontextmanager
    async def one_step(self, what: str) -> AsyncGenerator[None]:
        """Keep steps apart: their order is what they are found by.

        Raises:
            CallRefused: Another one has not ended.
        """
        if self.end is not None:
            await self.stop(self.end)  # the function has swallowed the cancellation
        if self._in_step is not None:
            raise CallRefused(
                f"{what} was not begun: the saga has {self._in_step} under way, and steps are found by their order after a restart. "
                "Await one after the other, or use saga.gather for several commands at a time."
            )
        self._in_step = what
        try:
            yield
        finally:
            self._in_step = None

    async def enter(self, kind: str, wanted: Sequence[tuple[str, bytes]]) -> list[StepRow]:
        """Go on to the next step; see `History.next`."""
        try:
            steps = self.history.next(kind, wanted, self.host.now_ms())
        except Mismatch as mismatch:
            await self.stop(Stuck(str(mismatch)))
        if self.drains() and any(step.outcome is None for step in steps):
            await self.stop(Suspended(self.host.now_ms()))
        return steps

    async def transact(self, function: Callable[[Connection], T], *, is_sent: bool = False, **values: Any) -> T:
        """Do something in the module's database if the saga is still ours.

        Args:
            function: What to do, in the transaction.
            is_sent: Whether something is put into the outbox.
            values: What changes in the saga's row. Any: of the columns' types.
        """
        now_ms = self.host.now_ms()

        def work(connection: Connection) -> T:
            guard(connection, self.row, now_ms, **values)
            return function(connection)

        result = await self._transact(work)
        if is_sent:
            self.host.sent()
        return result

    async def _transact(self, work: Callable[[Connection], T]) -> T:
        try:
            with anyio.CancelScope(shield=True):
                return await self.host.store.run(work)
        except Displaced:
            await self.stop(Abandoned(None))
        except DatabaseUnavailable as error:
            await self.stop(Abandoned(error))
        raise AssertionError("nothing cancels the shield")

    async def write_outcome(self, step: StepRow) -> None:
        """Write down what an attempt came to. It has happened even if the saga was given up meanwhile, and is to be undone then."""
        now_ms = self.host.now_ms()

        def work(connection: Connection) -> bool:
            is_given_up = guard_outcome(connection, self.row, now_ms, step=f"{step.kind} {step.label}")
            save_steps(connection, self.row, [step])
            return is_given_up

        is_given_up = await self._transact(work)
        step.is_stored = True
        if is_given_up:
            await self.stop(Abandoned(None))

    async def write(self, steps: Sequence[StepRow], outgoing: Sequence[Outgoing | Scheduled] = ()) -> None:
        """Write steps down, and with them what is to be sent."""

        def work(connection: Connection) -> None:
            save_steps(connection, self.row, steps)
            self.host.statements.keep(connection, outgoing)

        label = f"{steps[0].kind} {described([step.label for step in steps])}"
        await self.transact(work, is_sent=bool(outgoing), step=label)
        for step in steps:
            step.is_stored = True

    # --- attempts ----------------------------------------------------------------------------------------------------

    def is_due(self, step: StepRow) -> bool:
        """Tell whether the next attempt of a step may begin."""
        return step.outcome is None and (step.due_ms is None or step.due_ms <= self.host.now_ms())

    async def note_failure(
        self, step: StepRow, error: Exception, errors: Mapping[str, ErrorCodec], *, is_undone: bool = False
    ) -> None:
        """Write down what a failed attempt means: the outcome, or when the next one is due.

        Args:
            step: The step.
            error: The error.
            errors: The errors that are declared.
            is_undone: Whether the attempt certainly had no effects.
        """
        if isinstance(error, DatabaseUnavailable) and error.module == self.host.module:
            await self.stop(Abandoned(error))
        is_declared = isinstance(error, DeclaredError) and type(error).__name__ in errors
        step.attempts += 1
        if not is_declared:
            step.error = clip(f"{type(error).__name__}: {error}")
            happened = not is_undone and not (isinstance(error, CallError) and error.happened is False)
            step.is_uncertain = step.is_uncertain or happened
        if is_declared or isinstance(error, PERMANENT) or self.retry.is_over(step.attempts, error):
            step.outcome, step.body = encode_error(error, errors, step.label)
            step.ended_ms, step.due_ms = self.host.now_ms(), None
        else:
            step.due_ms = self.host.now_ms() + int(self.retry.pause_s(step.attempts, self.host.random) * 1000)
        await self.write_outcome(step)

    async def call(self, step: StepRow, call: Call, make: Callable[[], Awaitable[Any]], undo: Undo) -> None:
        """Make one attempt of a command or a query, and write down what it came to."""
        try:
            reply = await make()
            body = call.reply.encode(reply)
        except Exception as error:  # noqa: BLE001 -- whatever a call comes to is written down
            await self.note_failure(step, _leaf(error), call.errors)
            return
        step.attempts += 1
        step.outcome, step.body, step.ended_ms = REPLIED, body, self.host.now_ms()
        step.error = step.due_ms = None
        try:
            if undo is not None and not isinstance(undo, Command):
                self.add_undo(step, undo(call.reply.decode(body)))
        finally:
            await self.write_outcome(step)

    def add_undo(self, step: StepRow, undo: Command[Any]) -> None:
        """Say what undoes a step."""
        step.undo_name = self.host.codecs.name_of(type(undo))
        step.undo_body = self.host.codecs.message(type(undo)).encode(undo)
        if step.undo_name not in self.host.commands:
            raise CallRefused(f"{step.undo_name} cannot undo anything: no module of the application handles it.")

    async def wait_for_retry(self, steps: Sequence[StepRow]) -> None:
        """Stop the function if steps are to be tried again."""
        due = [step.due_ms or 0 for step in steps if step.outcome is None]
        if due:
            await self.stop(Suspended(min(due)))

    async def read(self, decode: Callable[[], T]) -> T:
        """Decode what was written down, or stop if the program can no longer read it."""
        try:
            return decode()
        except Unreadable as error:
            await self.stop(Stuck(f"step {self.history.position} cannot be read any more: {error}"))


Undo = Command[Any] | Callable[[Any], Command[Any]] | None
"""The command that undoes a step, or a function that makes it of the reply. Any: whatever the reply is."""


def _leaf(error: Exception) -> Exception:
    leaf = only_leaf(error)
    return leaf if isinstance(leaf, Exception) else error
