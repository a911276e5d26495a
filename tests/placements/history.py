"""What a workload comes to: replies, errors, the events per key, the dead letters; and what two histories differ in."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal

import anyio
import anyio.abc
import sniffio
from attrs import define, field, frozen

from fissile import Bus, CallError, DeadLetter, DeclaredError, HandlerFailed, PositionLost, Query, Tapped
from tests.placements.modules import Followed, Happened, events, followed, mood
from tests.placements.sides import Side
from tests.placements.workload import Operation

LATE = "nothing came"
"""What an operation that did not come to an end in time has come to."""


@frozen
class History:
    """What a workload came to.

    Events and dead letters are told once per id: at-least-once delivery may repeat them, and a repeat has the ids of the original.

    Attributes:
        outcomes: The outcome of each operation.
        happened: What was published, by key, in order.
        followed: What the subscriber made of it, by key, in order.
        partitions: The partition of each key.
        letters: The dead letters, by key.
        missing: What was waited for in vain.
    """

    outcomes: list[str] = field(factory=list[str])
    happened: dict[str, list[str]] = field(factory=dict[str, list[str]])
    followed: dict[str, list[str]] = field(factory=dict[str, list[str]])
    partitions: dict[str, int] = field(factory=dict[str, int])
    letters: dict[str, list[str]] = field(factory=dict[str, list[str]])
    missing: list[str] = field(factory=list[str])


Observation = Literal["outcomes", "happened", "followed", "partitions", "letters", "missing"]


@frozen
class Difference:
    """One thing in which two histories differ.

    Attributes:
        observation: What was observed.
        where: The number of the operation, or the key.
        expected: What it came to in one placement.
        found: What it came to in the other.
    """

    observation: Observation
    where: str
    expected: str
    found: str


def differences(expected: History, found: History) -> list[Difference]:
    """Compare what the same workload came to in two placements.

    Args:
        expected: What it came to in one process.
        found: What it came to in the other placement.
    """
    told: list[Difference] = []
    for number in range(max(len(expected.outcomes), len(found.outcomes))):
        one, other = (_at(history.outcomes, number) for history in (expected, found))
        if one != other:
            told.append(Difference("outcomes", str(number), one, other))
    by_key: tuple[Observation, ...] = ("happened", "followed", "partitions", "letters")
    for observation in by_key:
        ones: dict[str, Any] = getattr(expected, observation)
        others: dict[str, Any] = getattr(found, observation)
        told += [
            Difference(observation, key, str(ones.get(key)), str(others.get(key)))
            for key in sorted({*ones, *others})
            if ones.get(key) != others.get(key)
        ]
    if expected.missing or found.missing:
        told.append(Difference("missing", "", str(expected.missing), str(found.missing)))
    return told


def _at(values: list[str], number: int) -> str:
    return values[number] if number < len(values) else "(none)"


# --- performing ------------------------------------------------------------------------------------------------------


@define(eq=False)
class Watch:
    """What is seen of the events of one workload, from outside of all modules.

    Attributes:
        prefix: What the keys of the workload begin with.
        patience_s: How long to wait for what has to come, in seconds. Once that was in vain, nothing is waited for any more.
        history: What has been seen.
    """

    prefix: str
    patience_s: float
    history: History = field(factory=History)
    ends: set[tuple[type, str]] = field(factory=set[tuple[type, str]])
    _told: set[tuple[str, str]] = field(factory=set[tuple[str, str]])
    _positions: dict[type, str] = field(factory=dict[type, str])
    _changed: anyio.Event = field(factory=anyio.Event)

    def see(self, tapped: Tapped[Any], end: str) -> None:
        """Take an event of `events` or `followed`."""
        event: Happened | Followed = tapped.event
        before, self._positions[type(event)] = self._positions.get(type(event), ""), tapped.position
        if not event.key.startswith(self.prefix):
            return
        if event.what.startswith("end "):
            if event.what == end:
                self.ends.add((type(event), event.key))
        elif (tapped.id, event.what) not in self._told:
            self._told.add((tapped.id, event.what))
            seen = self.history.happened if isinstance(event, Happened) else self.history.followed
            seen.setdefault(event.key, []).append(event.what[:40])
            moved = set(tapped.position.split(".")) - set(before.split("."))
            if len(moved) == 1:
                self.history.partitions[event.key] = int(moved.pop().partition(":")[0])
        self.changed()

    def changed(self) -> None:
        """Have those who wait look again."""
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition; note it where it does not come."""
        with anyio.move_on_after(0 if self.history.missing else self.patience_s):
            while not condition():
                await self._changed.wait()
            return
        self.history.missing.append(what)


async def perform(side: Side, operations: list[Operation], seed: int, patience_s: float) -> History:
    """Do a workload, one operation after the other, and wait until all its events have been followed.

    Args:
        side: The placement.
        operations: The workload.
        seed: Its seed, with which all its keys begin.
        patience_s: How long to wait for what has to come, in seconds.
    """
    watch = Watch(f"{seed}-", patience_s)
    history, end = watch.history, f"end {seed}"
    keys = sorted(
        {operation.key for operation in operations}
        | {str(getattr(message, "key", "")) for operation in operations for message in operation.messages}
    )
    async with (
        side.observer.bus.tap(events) as happening,
        side.observer.bus.tap(followed) as following,
        anyio.create_task_group() as tasks,
    ):
        for tap in (happening, following):
            watch._positions[tap.topic.events[0]] = tap.position

        async def listen(tap: Any) -> None:
            async for tapped in tap:
                watch.see(tapped, end)

        tasks.start_soon(listen, happening)
        tasks.start_soon(listen, following)
        for operation in operations:
            history.outcomes.append(await _PERFORM[operation.kind](side, operation, watch))
        for operation in operations:
            if operation.kind in ("send", "crash"):
                await watch.until(partial(_is_done, history, operation.key), f"{operation.kind} {operation.key}")
        wanted: set[tuple[type, str]] = set()
        for key in filter(None, keys):
            await side.observer.bus.publish(Happened(key, end))
            wanted |= {(Happened, key), (Followed, key)}
        await watch.until(lambda: wanted <= watch.ends, "the end of each key")
        tasks.cancel_scope.cancel()
    history.letters.update(_letters(await side.observer.dead_letters(), watch.prefix))
    return history


def _is_done(history: History, key: str) -> bool:
    return "done" in history.happened.get(key, ())


def _letters(letters: tuple[DeadLetter, ...], prefix: str) -> dict[str, list[str]]:
    told: dict[str, dict[str, str]] = defaultdict(dict)
    for one in letters:
        if one.key.startswith(prefix):
            what = f"{one.handler} {one.name} {one.error_type} {_without_ids(one.reason)} {one.attempts} attempts"
            told[one.key].setdefault(f"{one.handler} {one.message_id}", what)
    return {key: list(by_id.values()) for key, by_id in told.items()}


# --- operations ------------------------------------------------------------------------------------------------------


async def _call(side: Side, operation: Operation, watch: Watch) -> str:
    return " and ".join(
        [
            await outcome_of(side.bus, operation.messages[0], watch.patience_s, operation.timeout_s, operation.id)
            for _ in range(operation.repeats)
        ]
    )


async def _cancelled(side: Side, operation: Operation, watch: Watch) -> str:
    with anyio.CancelScope() as scope:
        scope.cancel()
        return await outcome_of(side.bus, operation.messages[0], watch.patience_s)
    return "stopped"


async def _give_up(side: Side, operation: Operation, watch: Watch) -> str:
    """Give up when the handler has begun, and wait until it tells what has become of it."""
    told: list[str] = []
    scope = anyio.CancelScope()

    async def call() -> None:
        with scope:
            told.append(await outcome_of(side.bus, operation.messages[0], 2 * watch.patience_s))
        watch.changed()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        happened = watch.history.happened.setdefault(operation.key, [])
        await watch.until(lambda: happened or told, "a handler that begins")
        scope.cancel()
    await watch.until(lambda: {"stopped", "went on"} & set(happened), "a handler that stops")
    return told[0] if told else "given up"


async def _overlap(side: Side, operation: Operation, watch: Watch) -> str:
    """Call the second while the handler of the first one runs."""
    told = ["", ""]
    first, second = operation.messages

    async def call(number: int, message: Any) -> None:
        told[number] = await outcome_of(side.bus, message, watch.patience_s)
        watch.changed()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, 0, first)
        await watch.until(lambda: watch.history.happened.get(operation.key) or told[0], "a handler that begins")
        tasks.start_soon(call, 1, second)
    return " and ".join(told)


async def _send(side: Side, operation: Operation, watch: Watch) -> str:
    for message in operation.messages:
        await side.bus.send(message)  # type: ignore[arg-type]  # the workload sends commands only
    return "sent"


async def _tap(side: Side, operation: Operation, watch: Watch) -> str:
    """Publish, open two taps, publish again: what is stored before is no news, and each tap reads for itself."""
    told: list[str] = []
    key = operation.key
    await side.bus.publish(Happened(key, "before"))
    async with side.bus.tap(events, key=key) as first, side.bus.tap(events, key=key) as second:
        await side.bus.publish(Happened(key, "after"))
        for tap in (first, second):
            with anyio.move_on_after(watch.patience_s):
                told.append((await anext(tap)).event.what)
    try:
        async with side.bus.tap(events, after="0:999999999"):
            told.append("a position that never was")
    except PositionLost:
        told.append("position lost")
    return f"read {told}"


async def _crash(side: Side, operation: Operation, watch: Watch) -> str:
    """Crash while an event is in hand, after a later one of its partition was followed and offsets have been committed."""
    key = operation.key
    happened = side.observer.bus
    neighbour = await _neighbour(happened, key, watch)
    await happened.publish(Happened(key, "slow"))
    await happened.publish(Happened(neighbour, "one"))
    await watch.until(lambda: watch.history.followed.get(neighbour), "the event behind a slow one")
    await anyio.sleep(3 * side.commit_interval_s)
    await side.crash()
    await happened.publish(Happened(key, "done"))
    return "crashed"


async def _neighbour(bus: Bus, key: str, watch: Watch) -> str:
    """Find another key of the same partition."""
    await bus.publish(Happened(key, "first"))
    await watch.until(lambda: key in watch.history.partitions, "the partition of a key")
    for number in range(100):
        other = f"{key}-{number}"
        await bus.publish(Happened(other, "first"))
        await watch.until(partial(watch.history.partitions.__contains__, other), "the partition of a key")
        if watch.history.missing or watch.history.partitions[other] == watch.history.partitions[key]:
            return other
    raise AssertionError("a hundred keys have avoided a partition")


_PERFORM: dict[str, Callable[[Side, Operation, Watch], Awaitable[str]]] = {
    "call": _call,
    "cancelled": _cancelled,
    "give up": _give_up,
    "overlap": _overlap,
    "send": _send,
    "tap": _tap,
    "crash": _crash,
}


async def outcome_of(
    bus: Bus, message: Any, patience_s: float, timeout_s: float | None = None, message_id: str | None = None
) -> str:
    """Call, and tell what came of it as text.

    Args:
        bus: The bus.
        message: A command or a query.
        patience_s: When to give up a call that does not end, in seconds. The handler is told nothing of it beforehand.
        timeout_s: When the caller gives up, in seconds.
        message_id: The id that the caller gives.
    """
    mood.set("outside")
    told = LATE
    async with anyio.create_task_group() as tasks:

        async def lose_patience() -> None:
            await anyio.sleep(patience_s)
            tasks.cancel_scope.cancel()

        tasks.start_soon(lose_patience)
        told = await _outcome(bus, message, timeout_s, message_id)
        tasks.cancel_scope.cancel()
    if mood.get() != "outside":
        told += f" and has left the mood {mood.get()}"
    return told if len(told) < 500 else f"{told[:200]}… ({len(told)} characters)"


async def _outcome(bus: Bus, message: Any, timeout_s: float | None, message_id: str | None) -> str:
    try:
        with anyio.move_on_after(timeout_s):
            call: Any = bus.ask(message) if isinstance(message, Query) else bus.execute(message, id=message_id)
            return f"reply {await call!r}"
        return "gave up"
    except DeclaredError as error:
        return f"declared {error!r}{_causes(error)}"
    except HandlerFailed as error:
        return f"failed {error.message_name} {error.error_type} {_without_ids(error.error_text)}{_causes(error)}"
    except CallError as error:
        return f"{type(error).__name__} {error}"
    except (Exception, SystemExit) as error:  # noqa: BLE001 -- whatever gets out is what there is to see
        return f"escaped {error!r}{_causes(error)}"
    except asyncio.CancelledError:
        task = asyncio.current_task() if sniffio.current_async_library() == "asyncio" else None
        if task is not None and task.cancelling():
            raise
        return "escaped a stray cancellation"


def _causes(error: BaseException) -> str:
    if error.__cause__ is None and error.__context__ is None:
        return ""
    return f" because of {error.__cause__!r}, {error.__context__!r}"


def _without_ids(text: str) -> str:
    """Return a text without the ids in it, which differ from run to run."""
    return text.partition(" (id ")[0]
