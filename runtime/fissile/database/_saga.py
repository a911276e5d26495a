"""What the function of a saga uses: each call is a step, which is written down and done once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, overload

import anyio

from fissile._bus import Scheduled
from fissile._contract import Topic
from fissile._errors import CallRefused
from fissile._messages import Command, Event, Query
from fissile._requests import REPLIED
from fissile.abc import Outgoing
from fissile.database._database import Transaction
from fissile.database._digest import digest_of, digest_of_both
from fissile.database._saga_codecs import DONE, TIMED_OUT, Call, decode_error, decode_value
from fissile.database._saga_effects import take_event, transact, type_returned, within
from fissile.database._saga_journal import Journal, Stuck, Suspended, Undo
from fissile.database._saga_rows import StepRow
from fissile.database._unit import encode

R = TypeVar("R")
E = TypeVar("E", bound=Event)
P = ParamSpec("P")

_NOTHING = b""


class Saga:
    """A long-running process, as its function sees it.

    The function runs again from its start whenever the saga goes on: after a restart, an event, a timer, a failed attempt. Its steps then
    return, or raise, what they did the first time, and nothing is done twice. So between its steps it must do the same each time: take the
    time, ids and randomness from here, and whatever else varies from the reply of a step. Steps are awaited one after the other.

    Attributes:
        id: The saga's id.
        random: Randomness that is the same each time.
    """

    def __init__(self, journal: Journal, topics: Sequence[Topic[Any]]) -> None:
        self._journal = journal
        self._topics = {topic.name: topic for topic in topics}
        self._seen: dict[tuple[str, bytes], int] = {}
        self._ids = 0
        self.id: str = journal.row.saga_id
        self.random = Random(journal.row.run)  # noqa: S311 -- it is there to be foreseen

    def __repr__(self) -> str:
        return f"<Saga {self._journal.title}>"

    # --- calls -------------------------------------------------------------------------------------------------------

    async def execute(
        self,
        command: Command[R],
        *,
        undo: Command[Any] | Callable[[R], Command[Any]] | None = None,
        timeout_s: float | None = None,
    ) -> R:
        """Have a command done, once, and wait for its reply.

        An attempt that fails with anything but an error that the command declares is repeated, with the same id, as the saga's `retry` says.

        Args:
            command: The command.
            undo: The command that undoes it, done if the saga fails later; or a function that makes it of the reply. It is also done where
                nobody knows whether the command took effect (a deadline has passed, its handler failed), so it must bear that there is
                nothing to undo. A function cannot be called then, for there is no reply.
            timeout_s: How long an attempt may take, in seconds; what the settings say unless told.

        Raises:
            DeclaredError: One of the errors that the command names in `raises`. It is not undone: nothing happened.
            CallError: The last attempt failed with this.
        """
        (reply,) = await self._call("execute", [command], [undo], 1, timeout_s)
        return cast("R", reply)

    async def ask(self, query: Query[R], *, timeout_s: float | None = None) -> R:
        """Ask a query; the first reply is what the saga goes on with. Otherwise like `execute`."""
        (reply,) = await self._call("ask", [query], [None], 1, timeout_s)
        return cast("R", reply)

    async def gather(
        self,
        commands: Iterable[Command[R]],
        *,
        limit: int = 10,
        undo: Iterable[Command[Any]] = (),
        timeout_s: float | None = None,
    ) -> list[R]:
        """Have several commands done, some at a time, and wait for all of their replies. Each is written down when it comes.

        Args:
            commands: The commands.
            limit: How many are under way at a time.
            undo: The commands that undo them, one for each; see `execute`.
            timeout_s: How long an attempt of one may take, in seconds.

        Returns:
            The replies, in the order of the commands.

        Raises:
            DeclaredError: The first one, in the order of the commands; all of them have ended then.
            CallError: The last attempt of a command failed with this; likewise.
        """
        listed = list(commands)
        if not listed:
            return []
        if limit < 1:
            raise ValueError(f"limit={limit}: at least one command is to be under way")
        undos: list[Undo] = list(undo) or [None] * len(listed)
        if len(undos) != len(listed):
            raise ValueError(f"{len(listed)} commands and {len(undos)} to undo them: each needs its own")
        return cast("list[R]", await self._call("gather", listed, undos, limit, timeout_s))

    async def _call(
        self,
        kind: str,
        messages: Sequence[Command[Any] | Query[Any]],
        undos: Sequence[Undo],
        limit: int,
        timeout_s: float | None,
    ) -> list[Any]:
        journal = self._journal
        calls = [journal.host.codecs.call(message) for message in messages]
        async with journal.one_step(f"{kind} {calls[0].name}"):
            steps = await journal.enter(kind, [(call.name, call.digest) for call in calls])
            if not steps[0].is_stored:
                # That it is begun is written down before it is, for what is begun may have to be undone.
                for step, undo in zip(steps, undos, strict=True):
                    known = _known(undo)
                    if known is not None:
                        journal.add_undo(step, known)
                await journal.write(steps)
            pending = [each for each in zip(steps, calls, strict=True) if journal.is_due(each[0])]
            if len(pending) == 1:
                await self._attempt(*pending[0], undos[0], timeout_s)
            elif pending:
                places = anyio.Semaphore(limit)
                async with anyio.create_task_group() as tasks:
                    for step, call in pending:
                        await places.acquire()
                        tasks.start_soon(self._attempt_in, places, step, call, timeout_s)
            await journal.wait_for_retry(steps)
            journal.history.passed(steps)
            return [await self._result(step, call) for step, call in zip(steps, calls, strict=True)]

    async def _attempt_in(self, places: anyio.Semaphore, step: StepRow, call: Call, timeout_s: float | None) -> None:
        try:
            if not self._journal.drains():
                await self._attempt(step, call, None, timeout_s)
        finally:
            places.release()

    async def _attempt(self, step: StepRow, call: Call, undo: Undo, timeout_s: float | None) -> None:
        journal, message = self._journal, call.message
        message_id = f"{journal.row.run}.{step.position}.{step.branch}"
        is_query = step.kind == "ask"

        async def make() -> Any:
            if is_query:
                return await journal.host.bus.ask(message)
            return await journal.host.bus.execute(message, id=message_id)

        await journal.call(step, call, lambda: within(timeout_s, call.name, make), undo)

    async def _result(self, step: StepRow, call: Call) -> Any:
        outcome, body = step.outcome, step.body or _NOTHING
        assert outcome is not None
        if outcome == REPLIED:
            return await self._journal.read(lambda: decode_value(call.reply, body))
        raise await self._journal.read(lambda: decode_error(outcome, body, call.errors))

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def sleep(self, seconds: float) -> None:
        """Wait, without holding anything in memory; restarts do not prolong it."""
        async with self._journal.one_step("sleep"):
            journal = self._journal
            (step,) = await journal.enter("sleep", [(f"{seconds:g} s", _NOTHING)])
            if not step.is_stored:
                step.due_ms = step.began_ms + int(seconds * 1000)
                await journal.write([step])
            if step.outcome is None:
                if not journal.is_due(step):
                    await journal.stop(Suspended(step.due_ms))
                step.outcome, step.ended_ms = DONE, journal.host.now_ms()
                await journal.write([step])
            journal.history.passed([step])

    @overload
    async def wait_for(self, topic: Topic[E], *, key: str, timeout_s: float | None = None) -> E: ...
    @overload
    async def wait_for(self, topic: Topic[Any], event: type[E], *, key: str, timeout_s: float | None = None) -> E: ...
    async def wait_for(
        self, topic: Topic[Any], event: type[Any] | None = None, *, key: str, timeout_s: float | None = None
    ) -> Any:
        """Wait for the next event of a key: the first one that the module has got since the saga began, and that the saga has not seen yet.

        So an event that comes before the saga waits for it is not lost. The saga names the topic in `awaits`.

        Args:
            topic: The topic.
            event: The one event class to wait for, where the topic carries several; others of the key that come before it are passed over.
            key: The key.
            timeout_s: How long to wait, in seconds; for ever unless told.

        Raises:
            TimeoutError: No event came in time.
            CallRefused: The saga does not name the topic in `awaits`.
        """
        if self._topics.get(topic.name) is not topic:
            raise CallRefused(
                f"{self._journal.title} cannot wait for {topic.name}: write awaits=[...] with the topic where the saga is declared, "
                "so that the module reads it."
            )
        journal, codecs = self._journal, self._journal.host.codecs
        events: dict[str, type] = {codecs.name_of(cls): cls for cls in ((event,) if event else topic.events)}
        where = (topic.name, key.encode())
        async with journal.one_step(f"wait-for {topic.name}"):
            # Which events a topic carries may change while a saga waits for any of them.
            digest = digest_of_both((key, sorted(events)), (key, None if event is None else codecs.name_of(event)))
            (step,) = await journal.enter("wait-for", [(topic.name, digest)])
            if not step.is_stored:
                step.due_ms = None if timeout_s is None else step.began_ms + int(timeout_s * 1000)
                await journal.write([step])
            if step.outcome is None:
                await take_event(journal, step, where, self._seen.get(where, journal.row.first_seq), tuple(events))
            journal.history.passed([step])
            if step.outcome == TIMED_OUT:
                raise TimeoutError(f"no event of {topic.name} with the key {key!r} came in time")
            assert step.seq is not None
            self._seen[where] = step.seq
            name, _, body = (step.body or _NOTHING).partition(b" ")
            cls = events.get(name.decode())
            if cls is None:
                await journal.stop(
                    Stuck(f"the topic {topic.name} carries no {name.decode()} any more, which the saga got from it")
                )
            return await journal.read(lambda: decode_value(codecs.message(cls), body))

    # --- effects of its own ------------------------------------------------------------------------------------------

    async def publish(self, event: Event) -> None:
        """Publish an event, once, through the outbox.

        Raises:
            InvalidMessage: The event does not fit its contract, or is too large.
        """
        bus = self._journal.host.bus
        await self._send("publish", event, lambda: encode(bus, "events", event, None, None))

    async def send(self, command: Command[Any]) -> None:
        """Send a command without waiting for it, once, through the outbox.

        Raises:
            InvalidMessage: The command does not fit its contract, or is too large.
        """
        journal = self._journal
        message_id = f"{journal.row.run}.{journal.history.position}.0"
        await self._send("send", command, lambda: encode(journal.host.bus, "sends", command, message_id, None))

    async def _send(self, kind: str, message: Any, make: Callable[[], Outgoing | Scheduled]) -> None:
        journal = self._journal
        record, name = make(), journal.host.codecs.name_of(message.__class__)
        async with journal.one_step(f"{kind} {name}"):
            (step,) = await journal.enter(kind, [(name, digest_of(message))])
            if step.outcome is None:
                step.outcome, step.ended_ms = DONE, journal.host.now_ms()
                await journal.write([step], [record])
            journal.history.passed([step])

    async def transaction(
        self,
        function: Callable[Concatenate[Transaction, P], Coroutine[Any, Any, R]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R:
        """Call a function with a transaction in the module's database: its effects, and that it is done, commit together.

        It is a function and no block, because the block of a `with` statement cannot be left out when the saga runs again.

        Args:
            function: Takes the transaction, and what follows here. What it returns is written down, so its annotation says a type that a
                contract may use.
            args: Its further arguments.
            kwargs: The same.

        Raises:
            DeclaredError: One of the module's own contract that the function has raised. Nothing of it happened.
            StepFailed: It raised anything else, at each attempt. Nothing of it happened.
        """
        journal = self._journal
        label = getattr(function, "__qualname__", repr(function))
        codec = journal.host.codecs.value(f"what {label} returns", type_returned(function))
        async with journal.one_step(f"transaction {label}"):
            (step,) = await journal.enter("transaction", [(label, _NOTHING)])
            if journal.is_due(step):
                try:
                    await transact(journal, step, codec.encode, lambda tx: function(tx, *args, **kwargs))
                except Exception as error:  # noqa: BLE001 -- the developer's function may raise anything
                    step.outcome = step.body = None
                    await journal.note_failure(step, error, journal.host.errors, is_undone=True)
            await journal.wait_for_retry([step])
            journal.history.passed([step])
            outcome, body = step.outcome, step.body or _NOTHING
            assert outcome is not None
            if outcome == REPLIED:
                return cast("R", await journal.read(lambda: decode_value(codec, body)))
            raise await journal.read(lambda: decode_error(outcome, body, journal.host.errors))

    async def on_failure(self, command: Command[Any]) -> None:
        """Have a command done if the saga fails from here on: it undoes what steps before it did that name no `undo` of their own.

        Args:
            command: The command.
        """
        journal = self._journal
        name = journal.host.codecs.name_of(type(command))
        async with journal.one_step(f"on-failure {name}"):
            (step,) = await journal.enter("on-failure", [(name, digest_of(command))])
            if step.outcome is None:
                journal.add_undo(step, command)
                step.outcome, step.ended_ms = DONE, journal.host.now_ms()
                await journal.write([step])
            journal.history.passed([step])

    # --- what is the same each time ----------------------------------------------------------------------------------

    def now(self) -> datetime:
        """Return the time at which the step before ended, in UTC; at first, when the saga was started."""
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=self._journal.history.time_ms)

    def new_id(self) -> str:
        """Return an id that nothing else has."""
        self._ids += 1
        return f"{self._journal.row.run}-{self._ids:x}"


def _known(undo: Undo) -> Command[Any] | None:
    return cast("Command[Any]", undo) if isinstance(undo, Command) else None  # type: ignore[redundant-cast]  # not for pyright
