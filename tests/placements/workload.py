"""Generated workloads: what is called, sent, given up, repeated, tapped and crashed, by the seed of a random number."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any, Literal

import attrs
from attrs import frozen

from fissile import Command, Query
from tests.placements.modules import Act, ActInOrder, Answer, AskFront, CallFront, Reflect

Kind = Literal["call", "cancelled", "give up", "overlap", "send", "tap", "crash"]

CALLS_IN_FLIGHT = 16
MAX_MESSAGE_BYTES = 65_536


@frozen
class Operation:
    """One thing that a workload does.

    Attributes:
        kind: What; `history.py` has a function for each.
        messages: What is called or sent, in this order.
        key: The key of the events that it leads to.
        timeout_s: When the caller gives up, if it does before the answer.
        id: The id that the caller gives, if it does.
        repeats: How often it is called.
    """

    kind: Kind
    messages: tuple[Command[Any] | Query[Any], ...]
    key: str = ""
    timeout_s: float | None = None
    id: str | None = None
    repeats: int = 1


def generate(
    seed: int, size: int, *, linger_s: float = 10.0, crashes: bool = False, strays: bool = True
) -> list[Operation]:
    """Make the workload of a seed.

    Args:
        seed: The seed.
        size: How many operations.
        linger_s: How long a handler goes on that nobody stops, in seconds.
        crashes: Whether the processes crash now and then; only those in this process can be made to.
        strays: Whether handlers raise a cancellation that is nobody's; the rehearsals of `repeats` do not bear it.
    """
    random = Random(seed)
    operations: list[Operation] = []
    for number in range(size):
        make = random.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        operations.append(make(random, f"{seed}-{random.randrange(3)}", f"{seed}-{number}"))
    if crashes and random.randrange(8) == 0:
        operations.insert(random.randrange(size), Operation("crash", (), f"{seed}-crash"))
    return [_suited(operation, linger_s, strays=strays) for operation in operations]


def _suited(operation: Operation, linger_s: float, *, strays: bool) -> Operation:
    if operation.kind == "give up":
        return attrs.evolve(operation, messages=(Act(operation.key, (f"linger:{linger_s:g}",)),))
    if strays:
        return operation

    def tame(message: Any) -> Any:
        if not isinstance(message, Act | ActInOrder | CallFront):
            return message
        return attrs.evolve(message, steps=tuple("word" if step == "stray" else step for step in message.steps))

    return attrs.evolve(operation, messages=tuple(tame(message) for message in operation.messages))


# Each takes the key of the workload that others use too, and one of its own.


def _reflect(random: Random, _key: str, _own: str) -> Operation:
    numbers: Any = tuple(random.choice((0, -1, 2**63 - 1, -(2**63), 2**70)) for _ in range(random.randrange(3)))
    by_name = {text: random.choice((None, 0.1, -0.0, math.inf)) for text in random.sample("abc", random.randrange(3))}
    text = random.choice(("", "é", "\x00", "🦆", "\ud800", "execute", "x" * MAX_MESSAGE_BYTES, "x" * 60_000))
    if random.randrange(4) == 0:
        numbers = list(numbers)  # a tuple on the other side
    return Operation("call", (Reflect(text, numbers, by_name),))


def _ask(random: Random, _key: str, _own: str) -> Operation:
    return Operation("call", (AskFront(random.choice(("x", "y", "execute"))),))


def _answer(random: Random, _key: str, _own: str) -> Operation:
    number: Any = random.choice((1, -1, 13, 2**70, "7"))
    return Operation("call", (Answer(number),))


def _act(random: Random, key: str, _own: str) -> Operation:
    return Operation("call", (Act(key, _steps(random)),))


def _act_in_order(random: Random, key: str, _own: str) -> Operation:
    steps = ("again:word",) if random.randrange(8) == 0 else _steps(random)
    return Operation("call", (ActInOrder(key, steps),))


def _call_front(random: Random, key: str, _own: str) -> Operation:
    return Operation("call", (CallFront(key, _steps(random)),), timeout_s=random.choice((None, 5.0)))


def _deep(random: Random, key: str, _own: str) -> Operation:
    return Operation("call", (Act(key, (f"down:{random.choice((2, 3, 4))}",)),))


def _crowded(random: Random, key: str, _own: str) -> Operation:
    return Operation("call", (Act(key, (f"crowd:{random.choice((2, CALLS_IN_FLIGHT, CALLS_IN_FLIGHT + 4))}",)),))


def _repeated(random: Random, key: str, own: str) -> Operation:
    steps = ("id", *random.sample(("child", "publish:one", "progress:early", "publish:two", "child"), 2), "id")
    return Operation("call", (Act(key, steps),), id=f"given-{own}", repeats=random.choice((1, 2)))


def _waits(random: Random, key: str, _own: str) -> Operation:
    # It waits whatever comes before: which of two errors is quicker is a matter of time, and may differ.
    before = random.sample(("publish:lost", "call:1", "try:-5", "turn", "word"), random.randrange(4))
    return Operation("call", (Act(key, (*before, random.choice(("wait", "stumble")))),), timeout_s=0.05)


def _gives_up(_random: Random, _key: str, own: str) -> Operation:
    return Operation("give up", (), f"{own}-lingers")


def _is_cancelled(random: Random, key: str, _own: str) -> Operation:
    return Operation("cancelled", (random.choice((Act(key, ("publish:never",)), Answer(1), AskFront("x"))),))


def _overlap(_random: Random, _key: str, own: str) -> Operation:
    key = f"{own}-overlaps"
    return Operation("overlap", (ActInOrder(key, ("overlap:a",)), ActInOrder(key, ("overlap:b",))), key)


def _send(random: Random, _key: str, own: str) -> Operation:
    # A sent command has no order among others: a key of its own, so that histories can be compared.
    key = f"{own}-sent"
    first = random.choice(("publish:x", "flaky", "refuse:because"))
    return Operation("send", (ActInOrder(key, (first, "publish:y")), ActInOrder(key, ("publish:done",))), key)


def _tap(_random: Random, _key: str, own: str) -> Operation:
    return Operation("tap", (), f"{own}-tapped")


_WEIGHTS: dict[Callable[[Random, str, str], Operation], int] = {
    _act: 20,
    _act_in_order: 16,
    _call_front: 12,
    _reflect: 9,
    _ask: 6,
    _answer: 6,
    _repeated: 7,
    _send: 6,
    _waits: 5,
    _is_cancelled: 5,
    _gives_up: 4,
    _deep: 3,
    _crowded: 3,
    _overlap: 3,
    _tap: 3,
}

_STEPS = (
    "publish:one",
    "publish:two",
    "publish:poison",
    "publish:shaky",
    "progress:early",
    "shout:70000",
    "call:1",
    "call:-1",
    "call:13",
    "try:-5",
    "parallel:1,2,3",
    "parallel:1,-2,3",
    "refuse:because",
    "hidden:because",
    "unnamed:because",
    "group:of one",
    "fail:broken",
    "flaky",
    "stray",
    "exit",
    "wrong",
    f"fill:{MAX_MESSAGE_BYTES - 2}",
    f"fill:{MAX_MESSAGE_BYTES - 1}",
    "invalid:no number",
    "invalid:7",
    "locked:1",
    "cancelled:1",
    "mark:angry",
    "mood",
    "budget",
    "id",
    "child",
    "turn",
    "word",
)
_ENDS = (("wrong",), ("fail:broken",), (f"fill:{MAX_MESSAGE_BYTES - 1}",), ("publish:shaky", "publish:two"), ("mood",))
_HARMLESS = ("publish:one", "publish:shaky", "publish:poison", "progress:early", "mark:angry", "word", "call:1", "mood")


def _steps(random: Random) -> tuple[str, ...]:
    # What ends a handler often comes first by chance; so something often goes before it.
    before = random.sample(_HARMLESS, random.randrange(3))
    end = random.choice(_ENDS) if random.randrange(3) == 0 else ()
    return (*before, *(random.choice(_STEPS) for _ in range(random.randrange(3))), *end)
