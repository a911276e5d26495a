"""The steps of a saga that have effects in the module's own database, each in one transaction with the record that it is done."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar, get_type_hints

import anyio
from sqlalchemy import Connection

from fissile._bus import Scheduled
from fissile._errors import DeadlineExceeded
from fissile._forbidden_calls import ForbiddenCalls
from fissile._requests import REPLIED
from fissile.abc import Outgoing
from fissile.database._database import Transaction
from fissile.database._errors import DatabaseUnavailable
from fissile.database._saga_codecs import TIMED_OUT
from fissile.database._saga_journal import Abandoned, Journal, Suspended
from fissile.database._saga_rows import Displaced, StepRow, guard, next_event, save_steps
from fissile.database._unit import encode

R = TypeVar("R")


async def transact(
    journal: Journal,
    step: StepRow,
    encode_result: Callable[[Any], bytes],
    function: Callable[[Transaction], Coroutine[Any, Any, Any]],
) -> None:
    """Call a function in a transaction of the module's database, and commit it with the step.

    Args:
        journal: The journal.
        step: The step.
        encode_result: Encodes what the function returns.
        function: Takes the transaction.

    Raises:
        Exception: What the function raises; nothing of it happened.
    """
    host, outgoing = journal.host, list[Outgoing | Scheduled]()
    try:
        opened = await host.store.begin()
    except DatabaseUnavailable as error:
        await journal.stop(Abandoned(error))
    forbids = ForbiddenCalls(f"a transaction of {host.module} is open")
    try:
        try:
            result = await function(Transaction(opened.run, lambda *what: outgoing.append(encode(host.bus, *what))))
            step.body = encode_result(result)
        finally:
            forbids.end()
    except BaseException:
        await opened.rollback()
        raise
    now_ms = host.now_ms()
    step.attempts += 1
    step.outcome, step.ended_ms = REPLIED, now_ms
    step.error = step.due_ms = None

    def last(connection: Connection) -> None:
        guard(connection, journal.row, now_ms, step=f"transaction {step.label}")
        save_steps(connection, journal.row, [step])
        host.statements.keep(connection, outgoing)

    try:
        with anyio.CancelScope(shield=True):
            await opened.commit(last)
    except Displaced:
        await journal.stop(Abandoned(None))
    step.is_stored = True
    if outgoing:
        host.sent()


async def take_event(
    journal: Journal, step: StepRow, where: tuple[str, bytes], after: int, messages: tuple[str, ...]
) -> None:
    """Take the next event of a key, or find that the time is over; stop the function if there is neither.

    Args:
        journal: The journal.
        step: The step.
        where: The topic and the key.
        after: The last event of the key that the saga has seen.
        messages: The names of the messages to take.
    """
    is_over = step.due_ms is not None and journal.is_due(step)

    def take(connection: Connection) -> bool:
        found = next_event(connection, journal.row, *where, after, messages)
        if found is not None:
            step.outcome, step.seq, step.body = REPLIED, found.seq, found.message.encode() + b" " + found.body
        elif is_over:
            step.outcome = TIMED_OUT
        else:
            return False
        step.ended_ms = journal.host.now_ms()
        save_steps(connection, journal.row, [step])
        return True

    if not await journal.transact(take):
        await journal.stop(Suspended(step.due_ms, (*where, after, messages)))


async def within(timeout_s: float | None, name: str, make: Callable[[], Coroutine[Any, Any, R]]) -> R:
    """Await something under a deadline.

    Raises:
        DeadlineExceeded: It has passed.
    """
    if timeout_s is None:
        return await make()
    with anyio.move_on_after(timeout_s):
        return await make()
    raise DeadlineExceeded(f"{name} did not answer within {timeout_s:g} s. It may have happened.")


def type_returned(function: Callable[..., Any]) -> Any:  # Any: a type expression
    """Return what a function's annotation says that it returns; None if it says nothing."""
    with suppress(NameError, TypeError, AttributeError):
        return get_type_hints(function, include_extras=True).get("return")
    return None
