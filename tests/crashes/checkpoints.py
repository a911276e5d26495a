"""The named checkpoints where a process can be made to kill itself, and what each of them wraps: one table.

They are planted by the test, in the process that is to die, before its application is made. Nothing of this is in the product.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field, frozen

from fissile._delivery.attempts import Attempts
from fissile._delivery.consumer import Consumer
from fissile.abc import Assigned
from fissile.database import _storage
from fissile.database._fences import Fences
from fissile.database._inbox import Statements
from fissile.database._outbox import OutboxStatements
from fissile.database._relay import Relay
from fissile.database._schedules import Schedules
from fissile.database._store import Store
from fissile.database._store_transaction import StoreTransaction
from fissile.database._unit import Once, Unit
from fissile.transports._sqlite_file import open_file
from tests.crashes.notes import append_note

Hit = Callable[[], None]


@define(eq=False)
class Plan:
    """Where, and at which passage, this process is to die.

    Attributes:
        checkpoint: The name of a checkpoint; none if empty.
        passage: 1 for the first time that it gets there.
        notes: The file that tells what has happened in the processes that were killed.
    """

    checkpoint: str
    passage: int
    notes: str
    _passages: int = field(default=0, init=False)
    _guard: Any = field(factory=threading.Lock, init=False)  # Any: the type of a lock has no name

    def reach(self) -> None:
        """Count a passage; die at the one that was chosen."""
        with self._guard:
            self._passages += 1
            if self._passages == self.passage:
                append_note(self.notes, f"died at {self.checkpoint}")
                os.kill(os.getpid(), signal.SIGKILL)


@frozen
class Checkpoint:
    """A place in the code.

    Attributes:
        plant: Wraps the code, so that it calls the function that it is given whenever it gets there.
        log: The one transport that has it; empty if all have.
    """

    plant: Callable[[Hit], None]
    log: str = ""


def plant(plan: Plan) -> None:
    """Plant the checkpoint of a plan in this process, and what counts repeats."""
    _note_repeats(plan.notes)
    _note_ticks(plan.notes)
    if plan.checkpoint:
        CHECKPOINTS[plan.checkpoint].plant(plan.reach)


# --- ways to wrap ----------------------------------------------------------------------------------------------------


def _replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:  # Any: a class or a module, and its functions
    original = getattr(owner, name)
    setattr(owner, name, functools.wraps(original)(make(original)))


def _before(owner: Any, name: str, is_it: Callable[..., bool] = lambda *_: True) -> Callable[[Hit], None]:
    """Just before a call, if `is_it` says so of its arguments; whether it is a coroutine function does not matter."""

    def plant(hit: Hit) -> None:
        def make(original: Any) -> Any:
            def wrapped(*arguments: Any, **more: Any) -> Any:
                if is_it(*arguments):
                    hit()
                return original(*arguments, **more)

            return wrapped

        _replace(owner, name, make)

    return plant


def _after(owner: Any, name: str, is_it: Callable[..., bool] = lambda *_: True) -> Callable[[Hit], None]:
    """Just after a call that has succeeded, if `is_it` says so of its result and its arguments."""

    def plant(hit: Hit) -> None:
        def make(original: Any) -> Any:
            def wrapped(*arguments: Any, **more: Any) -> Any:
                result = original(*arguments, **more)
                if is_it(result, *arguments):
                    hit()
                return result

            return wrapped

        _replace(owner, name, make)

    return plant


def _awaited(owner: Any, name: str, is_it: Callable[..., bool] = lambda *_: True) -> Callable[[Hit], None]:
    """Just after a coroutine that has succeeded, if `is_it` says so of its result and its arguments."""

    def plant(hit: Hit) -> None:
        def make(original: Any) -> Any:
            async def wrapped(*arguments: Any, **more: Any) -> Any:
                result = await original(*arguments, **more)
                if is_it(result, *arguments):
                    hit()
                return result

            return wrapped

        _replace(owner, name, make)

    return plant


# --- what it is about ------------------------------------------------------------------------------------------------


def _attempts_of(module: str) -> Callable[..., bool]:
    return lambda attempts, *_: attempts.module == module


def _once_of(module: str) -> Callable[..., bool]:
    return lambda once, *_: once.storage.module == module


def _result_of(is_it: Callable[..., bool]) -> Callable[..., bool]:
    return lambda _, *arguments: is_it(*arguments)


def _handlers_of(module: str) -> Callable[..., bool]:
    """Transactions of handlers: the relay and the inbox have theirs in one hop, without a `StoreTransaction`."""
    return lambda transaction, *_: transaction._store.module == module


def _relay_of(module: str) -> Callable[..., bool]:
    return lambda relay, *_: relay._store.module == module


def _begun(module: str) -> Callable[[Hit], None]:
    """After BEGIN and before the first statement: within the function that a transaction is given to run."""

    def plant(hit: Hit) -> None:
        def make(original: Any) -> Any:
            def run(transaction: StoreTransaction, function: Any, job: Any) -> Any:
                def begun(connection: Any) -> Any:
                    if transaction._store.module == module:
                        hit()
                    return function(connection)

                return original(transaction, begun, job)

            return run

        _replace(StoreTransaction, "_run", make)

    return plant


def _before_commit(module: str) -> Callable[[Hit], None]:
    """All is written, the row of the inbox too: just before the COMMIT of a handler's transaction."""

    def plant(hit: Hit) -> None:
        inside = threading.local()

        def make(original: Any) -> Any:
            def commit_with(*arguments: Any) -> Any:
                inside.now = True
                try:
                    return original(*arguments)
                finally:
                    inside.now = False

            return commit_with

        _replace(StoreTransaction, "_commit_with", make)
        _before(Store, "_commit", lambda store, *_: store.module == module and getattr(inside, "now", False))(hit)

    return plant


def _commits_offsets(hit: Hit, *, is_after: bool) -> None:
    """Around a commit of offsets that has something to commit."""

    def make(original: Any) -> Any:
        async def commit(consumer: Consumer, member: Any, states: Any) -> None:
            before = [(state, state.committed) for state in states]
            risen = any(state.watermark() not in (None, committed) for state, committed in before)
            if risen and not is_after:
                hit()
            await original(consumer, member, states)
            if is_after and any(state.committed != committed for state, committed in before):
                hit()

        return commit

    _replace(Consumer, "_commit", make)


_scheduling = threading.local()


def _watch_schedules(on_moved: Hit, *, is_committed: bool) -> None:
    """Call back when a tick is in the outbox: before the COMMIT, or after it."""
    moved = threading.Event()

    def make_keep(original: Any) -> Any:
        def keep(*arguments: Any) -> None:
            original(*arguments)
            if getattr(_scheduling, "is_in", False):
                moved.set()

        return keep

    def make_step(original: Any) -> Any:
        def make(*arguments: Any) -> Any:
            step = original(*arguments)

            def watched(connection: Any) -> Any:
                _scheduling.is_in = True
                try:
                    result = step(connection)
                finally:
                    _scheduling.is_in = False
                if moved.is_set() and not is_committed:
                    moved.clear()
                    on_moved()
                return result

            return watched

        return make

    def make_tick(original: Any) -> Any:
        async def tick(*arguments: Any) -> Any:
            result = await original(*arguments)
            if moved.is_set():
                moved.clear()
                on_moved()
            return result

        return tick

    _replace(Statements, "keep", make_keep)
    _replace(Schedules, "_step", make_step)
    if is_committed:
        _replace(Schedules, "tick", make_tick)


def _log_commit(hit: Hit, *, is_after: bool) -> None:
    """Around the COMMIT of the sqlite log's thread that writes, where records are in it."""
    from fissile.transports import _sqlite_writer as writer

    class Watched:
        """A connection that tells of COMMIT. Any: it stands for sqlite3's, which is not to be subclassed for this."""

        def __init__(self, connection: Any) -> None:
            self.connection = connection
            self.has_records = False

        def __getattr__(self, name: str) -> Any:
            return getattr(self.connection, name)

        def execute(self, sql: str, *arguments: Any) -> Any:
            is_commit = sql == "COMMIT" and self.has_records
            if is_commit and not is_after:
                hit()
            result = self.connection.execute(sql, *arguments)
            if is_commit and is_after:
                hit()
            if sql in ("COMMIT", "ROLLBACK"):
                self.has_records = False
            return result

        def executemany(self, sql: str, *arguments: Any) -> Any:
            self.has_records = self.has_records or sql.startswith("INSERT INTO records")
            return self.connection.executemany(sql, *arguments)

    setattr(writer, "open_file", lambda path: Watched(open_file(path)))  # noqa: B010 -- no name that it exports


# --- the table -------------------------------------------------------------------------------------------------------


def _of_both(module: str) -> Mapping[str, Checkpoint]:
    """What happens to a message in either module: from the log into the handler, and out again."""
    once, attempts, handlers, relay = _once_of(module), _attempts_of(module), _handlers_of(module), _relay_of(module)
    found = {
        "received, before the handler": _before(Attempts, "handle", attempts),
        "inbox looked up": _awaited(Once, "_look_up", _result_of(once)),
        "partition claimed": _awaited(Fences, "claim", lambda _, fences, *__: fences._store.module == module),
        "transaction begun": _begun(module),
        "row written": _after(StoreTransaction, "_run", _result_of(handlers)),
        "published into the transaction": _after(Unit, "_keep", lambda _, unit, *__: unit._storage.module == module),
        "handler returned, before the commit": _before(Once, "_finish", once),
        "before COMMIT": _before_commit(module),
        "after COMMIT": _after(StoreTransaction, "_commit_with", _result_of(handlers)),
        "done, before its offset": _before(
            Attempts, "_settle", lambda attempts, *_: attempts.module == module and attempts.handled > 0
        ),
        "relay: before append": _before(Relay, "_send", relay),
        "relay: appended, before delete": _awaited(Relay, "_send", _result_of(relay)),
        "relay: deleted": _awaited(Relay, "_delete", _result_of(relay)),
    }
    return {f"{module}: {name}": Checkpoint(wrap) for name, wrap in found.items()}


CHECKPOINTS: dict[str, Checkpoint] = {
    "start: tables are there": Checkpoint(_awaited(_storage, "_prepare")),
    "start: partitions assigned": Checkpoint(
        _before(Consumer, "_take", lambda _, __, news: isinstance(news, Assigned))
    ),
    **_of_both("orders"),
    **_of_both("ledger"),
    "orders: answer, before it is stored": Checkpoint(_before(Attempts, "_send_answer")),
    "relay: read": Checkpoint(_after(OutboxStatements, "read", lambda found, *_: bool(found.rows))),
    "relay: before COMMIT of a delete": Checkpoint(_after(OutboxStatements, "delete")),
    "offsets: before the commit": Checkpoint(lambda hit: _commits_offsets(hit, is_after=False)),
    "offsets: after the commit": Checkpoint(lambda hit: _commits_offsets(hit, is_after=True)),
    "dead letter: before append": Checkpoint(_before(Attempts, "_store_letter")),
    "dead letter: appended": Checkpoint(_awaited(Attempts, "_store_letter")),
    "schedule: tick written, before COMMIT": Checkpoint(lambda hit: _watch_schedules(hit, is_committed=False)),
    "schedule: tick committed": Checkpoint(lambda hit: _watch_schedules(hit, is_committed=True)),
    "log: before COMMIT": Checkpoint(lambda hit: _log_commit(hit, is_after=False), "sqlite"),
    "log: after COMMIT, before anybody is told": Checkpoint(lambda hit: _log_commit(hit, is_after=True), "sqlite"),
}


# --- what is counted -------------------------------------------------------------------------------------------------


def _note_repeats(notes: str) -> None:
    """Write down each message that the inbox saw through."""

    def note(once: Once, *_: Any) -> bool:
        append_note(notes, f"repeat in {once.storage.module}")
        return False

    _before(Once, "_repeat", note)(lambda: None)


def _note_ticks(notes: str) -> None:
    """Write down the tick of a schedule that was committed, before anything else happens: its effect must come."""
    _watch_schedules(lambda: append_note(notes, "tick"), is_committed=True)
