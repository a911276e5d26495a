"""Generated workloads, and what they come to: replies, errors, and the events per key."""

from __future__ import annotations

import math
from collections import defaultdict
from random import Random
from typing import Any

import anyio
from attrs import field, frozen

from fissile import Bus, CallError, Command, DeclaredError, HandlerFailed, Query
from tests.placements.modules import (
    Act,
    ActInOrder,
    Answer,
    AskFront,
    CallFront,
    Followed,
    Happened,
    Reflect,
    events,
    followed,
)

PATIENCE_S = 20.0


@frozen
class Operation:
    """One thing that a workload does.

    Attributes:
        message: What is called.
        timeout_s: When the caller gives up, if it does before the answer.
        is_sent: Whether nobody waits.
    """

    message: Command[Any] | Query[Any]
    timeout_s: float | None = None
    is_sent: bool = False


def generate(seed: int, size: int) -> list[Operation]:
    """Make the workload of a seed."""
    random = Random(seed)
    return [_operation(random, f"{seed}-{random.randrange(3)}") for _ in range(size)]


def _operation(random: Random, key: str) -> Operation:
    kind = random.randrange(10)
    if kind == 0:
        numbers = tuple(random.choice((0, -1, 2**63 - 1, -(2**63), 2**70)) for _ in range(random.randrange(3)))
        by_name = {
            text: random.choice((None, 0.1, -0.0, math.inf)) for text in random.sample("abc", random.randrange(3))
        }
        return Operation(Reflect(random.choice(("", "é", "\x00", "🦆", "\ud800")), numbers, by_name))
    if kind == 1:
        return Operation(Answer(random.choice((1, -1, 13, 2**70))))
    if kind == 2:
        return Operation(AskFront(random.choice("xyz")))
    if kind == 3:
        # It waits whatever comes before: which of two errors is quicker is a matter of time, and may differ.
        before = random.sample(("publish:lost", "call:1", "try:-5", "turn", "word"), random.randrange(4))
        return Operation(Act(key, (*before, "wait")), timeout_s=0.05)
    if kind == 4:
        # A sent command has no order among others: a key of its own, so that histories can be compared.
        key = f"{key}-sent-{random.randrange(10**6)}"
        return Operation(Act(key, tuple(f"publish:{what}" for what in random.sample("xyz", 2))), is_sent=True)
    if kind == 5:
        return Operation(CallFront(key, _steps(random)))
    if kind in (6, 7):
        return Operation(ActInOrder(key, _steps(random)))
    return Operation(Act(key, _steps(random)))


def _steps(random: Random) -> tuple[str, ...]:
    choices = (
        "publish:one",
        "publish:two",
        "publish:poison",
        "publish:shaky",
        "call:1",
        "call:-1",
        "call:13",
        "try:-5",
        "parallel:1,2,3",
        "parallel:1,-2,3",
        "refuse:because",
        "group:of one",
        "fail:broken",
        "exit",
        "wrong",
        "large",
        "invalid",
        "turn",
        "word",
    )
    return tuple(random.choice(choices) for _ in range(random.randrange(5)))


@frozen
class History:
    """What a workload came to.

    Attributes:
        outcomes: The outcome of each operation.
        happened: What was published, by key, in order; what nobody waited for comes last.
        followed: What the subscriber made of it.
    """

    outcomes: list[str]
    happened: dict[str, list[str]] = field(factory=dict[str, list[str]])
    followed: dict[str, list[str]] = field(factory=dict[str, list[str]])


async def perform(bus: Bus, operations: list[Operation], end_key: str) -> History:
    """Do a workload, one operation after the other, and wait until all its events have been followed."""
    history = History([])
    happened: dict[str, list[str]] = defaultdict(list)
    followed_by: dict[str, list[str]] = defaultdict(list)
    keys = sorted({str(key) for operation in operations if (key := getattr(operation.message, "key", None))})
    prefix = end_key.partition("/")[0]
    async with (
        bus.tap(events) as tap,
        bus.tap(followed) as following,
        anyio.create_task_group() as tasks,
    ):
        # Both taps have to come to the end of each key; they read apart from each other.
        ended = {key: anyio.Event() for key in keys}
        read = {key: anyio.Event() for key in keys}

        published = anyio.Event()

        async def listen() -> None:
            async for tapped in tap:
                event: Happened = tapped.event
                if event.what == f"end {end_key}":
                    read[event.key].set()
                elif event.key.startswith(prefix) and not event.what.startswith("end"):
                    happened[event.key].append(event.what)
                    published.set()

        async def listen_to_followed() -> None:
            async for tapped in following:
                event: Followed = tapped.event
                if event.what == f"end {end_key}":
                    ended[event.key].set()
                elif event.key.startswith(prefix):
                    followed_by[event.key].append(event.what)

        tasks.start_soon(listen)
        tasks.start_soon(listen_to_followed)
        for operation in operations:
            if operation.is_sent:
                assert isinstance(operation.message, Act)
                await bus.send(operation.message)
            else:
                history.outcomes.append(await _outcome(bus, operation))
        with anyio.fail_after(PATIENCE_S):
            # What nobody waits for comes when it comes; the end of a key has to come after it.
            for operation in operations:
                key = str(getattr(operation.message, "key", ""))
                while operation.is_sent and len(happened[key]) < 2:
                    published = anyio.Event()
                    await published.wait()
            for key in keys:
                await bus.publish(Happened(key, f"end {end_key}"))
            for event in (*ended.values(), *read.values()):
                await event.wait()
        tasks.cancel_scope.cancel()
    history.happened.update({key: happened[key] for key in sorted(happened)})
    history.followed.update({key: followed_by[key] for key in sorted(followed_by)})
    return history


async def _outcome(bus: Bus, operation: Operation) -> str:
    message = operation.message
    try:
        with anyio.move_on_after(operation.timeout_s) as scope:
            call: Any = bus.ask(message) if isinstance(message, Query) else bus.execute(message)
            return f"reply {await call!r}"
        assert scope.cancelled_caught
        return "gave up"
    except DeclaredError as error:
        return f"declared {error!r} {error.__cause__!r} {error.__context__!r}"
    except HandlerFailed as error:
        return f"failed {error.message_name} {error.error_type} {_without_ids(error.error_text)}"
    except CallError as error:
        return f"{type(error).__name__} {error}"


def _without_ids(text: str) -> str:
    """Return a text without the ids in it, which differ from run to run."""
    return text.partition(" (id ")[0]
