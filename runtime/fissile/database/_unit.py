"""The unit of work of a handler: its effects, what it publishes, and the record that its message was handled, in one transaction."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint_if_cancelled
from attrs import define, field
from sqlalchemy import Connection

from fissile._bus import Queries, Scheduled, schedule
from fissile._delivery.lifecycle import State
from fissile._errors import CallRefused, IdReused, InvalidMessage
from fissile._forbidden_calls import ForbiddenCalls
from fissile._handler import Handler, only_leaf
from fissile._messages import DeclaredError
from fissile._requests import DECLARED, REPLIED, outcome_name
from fissile._storage import Call, Effects
from fissile.abc import Outgoing
from fissile.database._database import Transaction, current_unit, no_effects
from fissile.database._digest import digest_of, is_same
from fissile.database._errors import CommitUnknown, DatabaseUnavailable
from fissile.database._fences import Epoch
from fissile.database._inbox import DONE, Fenced, Outcome, Repeated
from fissile.database._store_transaction import StoreTransaction

if TYPE_CHECKING:
    from fissile._delivery.lifecycle import Delivery
    from fissile.database._storage import ModuleStorage

T = TypeVar("T")

_logger = logging.getLogger("fissile.database")

_LOOK_AGAIN_S = (0.1, 0.3, 1.0)
"""When to look whether a transaction has happened whose commit was cut off, in seconds."""


_inside: ContextVar[object] = ContextVar(
    "the block of a transaction in which this task, or the one that started it, is"
)


class Unit:
    """What becomes of the transactions of one handler; see `Effects`.

    Those that are one take turns: a block that another task of the handler opens, and a statement of another task, wait for the end of a block
    that they are not in. Else the savepoints of two tasks would lie across each other.

    Args:
        storage: The module's database.
        bus: The bus of the message.
        effects: What becomes of them.
        epoch: Under which each of them commits; `once` takes it for the last one only.
    """

    __slots__ = ("_blocks", "_bus", "_effects", "_epoch", "_forbids", "_open", "_savepoints", "_storage", "_turns")

    def __init__(self, storage: ModuleStorage, bus: Queries, effects: Effects, epoch: Epoch | None = None) -> None:
        self._storage = storage
        self._bus = bus
        self._effects = effects
        self._epoch = epoch
        self._open: StoreTransaction | None = None
        self._forbids: ForbiddenCalls | None = None
        self._savepoints = 0
        self._blocks: list[object] = []
        self._turns: anyio.Event | None = None

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Transaction]:
        """Open a transaction, or go on with the one that the handler has open; see `Database.transaction`."""
        if self._effects == "none":
            raise no_effects("No transaction was opened")
        if self._effects == "each":
            async with self._storage.transaction(self._bus, self._epoch) as transaction:
                yield transaction
            return
        await self._wait_for_turn()
        block, outside = object(), _inside.get(None)
        self._blocks.append(block)
        _inside.set(block)
        try:
            kept, opened, savepoint = await self._begin()

            async def run(function: Callable[[Connection], T]) -> T:
                await self._wait_for_turn()
                return await opened.run(function)

            try:
                yield Transaction(run, self._keep)
            except BaseException:
                if self._bus._outgoing:
                    del self._bus._outgoing[kept:]
                if savepoint is None:
                    await self.roll_back()
                elif opened.is_open:
                    await _roll_back_to(opened, savepoint)
                raise
        finally:
            _inside.set(outside)
            self._blocks.remove(block)
            if self._turns is not None:
                self._turns.set()
                self._turns = None

    async def _begin(self) -> tuple[int, StoreTransaction, str | None]:
        """Begin a block; return how many messages had been kept, the transaction, and the savepoint where it is an inner one."""
        kept = len(self._bus._outgoing or ())
        if self._open is None:
            self._open = opened = await self._storage.store.begin()
            self._forbids = ForbiddenCalls(
                f"a transaction of {self._storage.module} is open, and stays open until its handler ends"
            )
            savepoint = None
        else:
            opened = self._open
            self._savepoints += 1
            savepoint = f"fissile_{self._savepoints}"
            await opened.run(lambda connection: connection.exec_driver_sql(f"SAVEPOINT {savepoint}"))
        return kept, opened, savepoint

    async def _wait_for_turn(self) -> None:
        """Wait until no block is open that this task is not in.

        Raises:
            CallRefused: One is open for too long: it waits for this very task, perhaps.
        """
        blocks = self._blocks
        if not blocks or blocks[-1] is _inside.get(None):
            return
        seconds = self._storage.store.lock_s
        with anyio.move_on_after(seconds):
            while blocks and blocks[-1] is not _inside.get(None):
                self._turns = self._turns or anyio.Event()
                await self._turns.wait()
            return
        raise CallRefused(
            f"A transaction of {self._storage.module} did not get its turn within {seconds:g} s (FISSILE_DATABASE_LOCK_S). All transactions of "
            "a handler are one, so its tasks take turns, and another task has had one open for so long. Do what takes long outside of it, and "
            "let none of them wait for another."
        )

    def _keep(self, kind: str, message: Any, message_id: str | None, at: datetime | None) -> None:
        self._bus._keep(encode(self._bus, kind, message, message_id, at))

    async def roll_back(self) -> None:
        """Undo what the handler has done. It has then nothing open, and may begin anew."""
        opened, self._open = self._open, None
        self._allow_calls()
        if opened is not None:
            await opened.rollback()

    async def commit(self, last: Callable[[Connection], T]) -> T:
        """Do the last step of the handler's transaction and commit it, or do the step in a transaction of its own."""
        opened, self._open = self._open, None
        self._allow_calls()
        with anyio.CancelScope(shield=True):
            return await (self._storage.store.run(last) if opened is None else opened.commit(last))
        raise AssertionError("nothing cancels the shield")

    def _allow_calls(self) -> None:
        if self._forbids is not None:
            self._forbids.end()
            self._forbids = None


async def _roll_back_to(opened: StoreTransaction, savepoint: str) -> None:
    """Undo the inner one of two transactions. If that cannot be, what it failed with matters more; the outer one cannot be committed then."""
    try:
        with anyio.CancelScope(shield=True):
            await opened.run(lambda connection: connection.exec_driver_sql(f"ROLLBACK TO SAVEPOINT {savepoint}"))
    except Exception as error:  # noqa: BLE001 -- whatever a connection that is lost comes to
        _logger.debug("a part of a transaction could not be undone by itself: %s", error)


def encode(
    bus: Queries, kind: str, message: object, message_id: str | None, at: datetime | None
) -> Outgoing | Scheduled:
    """Turn an event or a command into a record, to be sent at once or later."""
    routes = bus._routes
    cls: type[Any] = type(message)
    record = routes.events[cls](bus, message) if kind == "events" else routes.sends[cls](bus, message, message_id)
    return record if at is None else schedule(record, at, routes.renew)


# --- around a handler ------------------------------------------------------------------------------------------------


@define(eq=False)
class Once:
    """Handles each message of one handler once, whatever is delivered again.

    Args:
        storage: The module's database.
        handler: The handler.
        name: What its messages are known by in the inbox.
        call: Runs the handler.
    """

    storage: ModuleStorage
    handler: Handler
    name: str
    call: Call
    _running: dict[str, anyio.Event | None] = field(factory=dict[str, "anyio.Event | None"], init=False)

    async def __call__(self, message: Any, bus: Queries) -> Any:
        """Handle a message, or return what it came to before."""
        is_new = _is_new(bus)
        message_id = bus._message_id()
        digest = digest_of(message)
        while message_id in self._running:  # a repeat of what is still running waits for it
            event = self._running[message_id] = self._running[message_id] or anyio.Event()
            await event.wait()
            is_new = False
        self._running[message_id] = None
        try:
            outcome = None if is_new else await self._look_up(message_id)
            if outcome is not None and not _is_tried_again(outcome, digest, bus):
                return self._repeat(outcome, digest, message_id, bus)
            return await self._handle(message, bus, message_id, digest)
        finally:
            waited_for = self._running.pop(message_id)
            if waited_for is not None:
                waited_for.set()

    async def _handle(self, message: Any, bus: Queries, message_id: str, digest: bytes) -> Any:
        unit = Unit(self.storage, bus, "once")
        current_unit.set(unit)
        try:
            epoch = await self._claim(bus._delivery)
            reply = await self.call(message, bus)
            outcome = Outcome(digest, DONE if self.handler.kind == "event" else REPLIED, self.handler.cross(reply))
        except BaseException as error:
            await unit.roll_back()
            bus._outgoing = None
            leaf = only_leaf(error)
            if not isinstance(leaf, DeclaredError) or type(leaf) not in self.handler.errors:
                first = await self._first_of(error, message_id, digest, bus)
                if first is None:
                    raise
                return self._repeat(first, digest, message_id, bus)
            await checkpoint_if_cancelled()
            # The answer is kept as a reply is: a repeat gets this error, even if it would succeed by now.
            outcome = Outcome(digest, outcome_name(leaf), self.handler.errors[type(leaf)].encode(leaf))
            first = await self._finish(unit, bus, message_id, outcome, await self._claim(bus._delivery))
            if first is not None:
                return self._repeat(first, digest, message_id, bus)
            raise
        first = await self._finish(unit, bus, message_id, outcome, epoch)
        return reply if first is None else self._repeat(first, digest, message_id, bus)

    async def _first_of(self, error: BaseException, message_id: str, digest: bytes, bus: Queries) -> Outcome | None:
        """Return what a message came to in another process while it failed here, perhaps because of what that process wrote."""
        if not isinstance(error, Exception) or _is_new(bus):
            return None
        if isinstance(error, DatabaseUnavailable) and error.is_away:
            return None
        with anyio.CancelScope(shield=True), suppress(DatabaseUnavailable):  # the error is worth more than either
            outcome = await self._look_up(message_id)
            return None if outcome is None or _is_tried_again(outcome, digest, bus) else outcome
        return None

    async def _finish(
        self, unit: Unit, bus: Queries, message_id: str, outcome: Outcome, epoch: Epoch | None
    ) -> Outcome | None:
        """Commit the unit with its outcome; return the first outcome if somebody else was faster."""
        storage, statements, now_ms = self.storage, self.storage.statements, self.storage.now_ms()
        outgoing, bus._outgoing = bus._outgoing or (), None
        delivery = bus._delivery
        if delivery is not None and delivery.state is State.ABANDONED:
            await unit.roll_back()
            raise storage.lost(delivery)

        def last(connection: Connection) -> int | None:
            if epoch is not None:
                statements.check_epoch(connection, *epoch)
            if delivery is not None and delivery.retried is not None:
                statements.forget_error(connection, self.name, message_id)
            return statements.finish(connection, outgoing, self.name, message_id, outcome, now_ms)

        try:
            first = await unit.commit(last)
        except Repeated:
            return await self._look_up(message_id)
        except Fenced:
            assert delivery is not None
            raise storage.fenced(delivery) from None
        except CommitUnknown:
            return await self._find_out(message_id)
        if outgoing:
            storage.wake(outgoing, first)
        return None

    async def _find_out(self, message_id: str) -> Outcome | None:
        """Look whether a transaction has happened whose commit was cut off.

        Raises:
            DatabaseUnavailable: It has not, or that cannot be found out now.
        """
        for pause_s in _LOOK_AGAIN_S:
            await anyio.sleep(pause_s)
            try:
                outcome = await self._look_up(message_id)
            except DatabaseUnavailable:
                continue
            if outcome is None:
                break
            self.storage.wake()  # the commit was there after all
            return outcome
        target = self.storage.store.target
        raise DatabaseUnavailable(self.storage.module, str(target), "it was lost during a commit, which is not there")

    async def _claim(self, delivery: Delivery | None) -> Epoch | None:
        return None if delivery is None else await self.storage.fences.claim(delivery.owner)

    async def _look_up(self, message_id: str) -> Outcome | None:
        statements, name = self.storage.statements, self.name
        return await self.storage.store.read(lambda connection: statements.outcome(connection, name, message_id))

    def _repeat(self, outcome: Outcome, digest: bytes, message_id: str, bus: Queries) -> Any:
        """Return, or raise, what the message came to the first time."""
        bus._outgoing = None
        if not is_same(outcome.digest, digest):
            raise IdReused(self.handler.name, message_id)
        if outcome.name == DONE:
            return None
        if outcome.name == REPLIED:
            return self.handler.reply.decode(outcome.body)
        wanted = outcome.name.removeprefix(DECLARED)
        for cls, codec in self.handler.errors.items():
            if cls.__name__ == wanted:
                raise codec.decode(outcome.body)
        raise InvalidMessage(
            self.handler.name,
            f"it came to the error {wanted!r} when it was handled, which its contract no longer declares",
        )


def _is_tried_again(outcome: Outcome, digest: bytes, bus: Queries) -> bool:
    """Tell whether a person has decided that a command which came to a declared error is to be handled anew: a dead letter is tried again."""
    delivery = bus._delivery
    is_retry = delivery is not None and delivery.retried is not None
    return is_retry and is_same(outcome.digest, digest) and outcome.name.startswith(DECLARED)


def _is_new(bus: Queries) -> bool:
    """Tell whether the id of a message is made for this very call, so that nobody can have used it before."""
    parent = bus._parent
    return bus._id is None and bus._delivery is None and parent is not None and parent._handler is None


def each(storage: ModuleStorage, handler: Handler, call: Call) -> Call:
    """Let each transaction of a handler stand for itself; what the handler publishes besides is kept when it succeeds."""

    async def handle(message: Any, bus: Queries) -> Any:
        # Claimed before the handler begins: one that was stopped meanwhile must not take the partition back.
        epoch = None if bus._delivery is None else await storage.fences.claim(bus._delivery.owner)
        current_unit.set(Unit(storage, bus, "each", epoch))
        reply = await call(message, bus)
        if bus._outgoing:
            handler.cross(reply)  # a handler whose reply cannot be sent has failed, and publishes nothing
            outgoing, bus._outgoing = bus._outgoing, None
            with anyio.CancelScope(shield=True):
                await storage.keep(outgoing, bus, epoch)
        return reply

    return handle


def none(storage: ModuleStorage, call: Call) -> Call:
    """Let a query's handler read only."""

    async def handle(message: Any, bus: Queries) -> Any:
        current_unit.set(Unit(storage, bus, "none"))
        return await call(message, bus)

    return handle
