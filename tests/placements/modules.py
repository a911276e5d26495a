"""Two modules that call each other and do everything that a handler can do. They keep no state, so that replicas are alike."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextvars import ContextVar

import anyio
import anyio.lowlevel
from attrs import frozen

from fissile import (
    Bus,
    Caller,
    Command,
    Contract,
    DeclaredError,
    Event,
    Module,
    Overloaded,
    Queries,
    Query,
    Retry,
    Topic,
    forbid_calls,
)

COMMANDS_RUNNING = 3
"""The bound of handlers running of each module; `Nap` tells when it is not kept."""

mood: ContextVar[str] = ContextVar("mood", default="calm")
"""What no handler may inherit from its caller, and no caller from a handler."""

# --- the contract of `front` -----------------------------------------------------------------------------------------


@frozen
class Refused(DeclaredError, status=409):
    reason: str
    amounts: tuple[int, ...] = ()


@frozen
class Unnamed(DeclaredError):
    """An error that no message names."""

    reason: str


@frozen
class Happened(Event):
    key: str
    what: str


@frozen
class Followed(Event):
    key: str
    what: str


@frozen
class Reflection:
    text: str
    numbers: tuple[int, ...]
    by_name: Mapping[str, float | None]
    chain: tuple[str, ...]
    caller: str | None
    mood: str = "calm"


@frozen
class Reflect(Query[Reflection]):
    """Returns what it was given, and what it knows of its caller. For the text `execute` it tries what a query may not do."""

    text: str
    numbers: tuple[int, ...]
    by_name: Mapping[str, float | None]


@frozen
class Act(Command[str], raises=(Refused,)):
    """Does one thing after the other; see `_step`, `_end` and `_play`."""

    key: str
    steps: tuple[str, ...]


@frozen
class ActInOrder(Command[str], raises=(Refused,), key="key"):
    """The same, one after the other per key."""

    key: str
    steps: tuple[str, ...]


events = Topic("front.events", Happened, key=lambda event: event.key)
front_contract = Contract(
    "front", messages=[Refused, Unnamed, Happened, Reflection, Reflect, Act, ActInOrder], topics=[events]
)

# --- the contract of `back` ------------------------------------------------------------------------------------------


@frozen
class Answer(Command[int], raises=(Refused,)):
    """Returns the number, refuses a negative one, fails for 13."""

    number: int


@frozen
class CallFront(Command[str], raises=(Refused,)):
    """Has `front` act, from here."""

    key: str
    steps: tuple[str, ...]
    in_order: bool = False


@frozen
class Identify(Command[str]):
    """Returns its id."""


@frozen
class Nap(Command[bool]):
    """Waits, and tells whether more handlers than the bound were running."""

    seconds: float


@frozen
class AskFront(Query[Reflection]):
    """Asks `front`, from here."""

    text: str


followed = Topic("back.followed", Followed, key=lambda event: event.key)
back_contract = Contract("back", messages=[Followed, Answer, CallFront, Identify, Nap, AskFront], topics=[followed])

# --- front -----------------------------------------------------------------------------------------------------------

front = Module(front_contract)


@front.query(Reflect)
async def reflect(query: Reflect, caller: Caller, bus: Queries) -> Reflection:
    if query.text == "execute":
        await bus.execute(Answer(1))  # type: ignore[attr-defined]  # the fault under test
    return Reflection(query.text, query.numbers, query.by_name, caller.chain, caller.module, mood.get())


@front.command(Act, idempotent=True)
async def act(command: Act, bus: Bus, caller: Caller) -> str:
    return await _act(command.key, command.steps, bus, caller)


@front.command(ActInOrder, idempotent=True)
async def act_in_order(command: ActInOrder, bus: Bus, caller: Caller) -> str:
    return await _act(command.key, command.steps, bus, caller)


async def _act(key: str, steps: tuple[str, ...], bus: Bus, caller: Caller) -> str:
    done: list[str] = []
    for number, step in enumerate(steps):
        name, _, value = step.partition(":")
        if name == "wrong":
            return number  # type: ignore[return-value]  # the fault under test
        if name == "fill":
            return "x" * int(value)
        _end(name, value, number, caller)
        if (told := await _call(key, name, value, bus)) is not None:
            done.append(told)
        elif not await _play(key, name, value, bus):
            done.append(_tell(name, value, caller))
    return " ".join(done)


def _end(name: str, value: str, number: int, caller: Caller) -> None:
    """The steps that end a handler with an error."""
    match name:
        case "refuse":
            raise Refused(value, (number,))
        case "hidden":
            raise Refused(value, (number,)) from ValueError("hidden")
        case "group":
            raise ExceptionGroup("of one", [Refused(value, (number,))])
        case "unnamed":
            raise Unnamed(value)
        case "fail":
            raise ValueError(value)
        case "flaky":
            if caller.attempt == 1:
                raise ValueError("the first attempt")
        case "stray":
            raise asyncio.CancelledError
        case "exit":
            raise SystemExit(3)
        case _:
            pass


def _tell(name: str, value: str, caller: Caller) -> str:
    """The steps that tell what a handler knows."""
    match name:
        case "mark":
            mood.set(value)
            return "marked"
        case "mood":
            return f"mood {mood.get()}"
        case "budget":
            left_s = caller.deadline - anyio.current_time()
            return next(f"budget {s:g}" for s in (5, 60, math.inf) if left_s <= s)
        case "id":
            return _given(caller)
        case _:
            return name


def _given(caller: Caller) -> str:
    """The id of a message if it follows from one that the caller gave; any other is made anew in every run."""
    return caller.message_id if caller.message_id.startswith("given") else "an id"


async def _call(key: str, name: str, value: str, bus: Bus) -> str | None:
    """The steps that call the other module; None for any other."""
    match name:
        case "call":
            return str(await bus.execute(Answer(int(value))))
        case "try":
            try:
                return str(await bus.execute(Answer(int(value))))
            except Refused as refused:
                return f"refused {refused.reason}"
        case "invalid":
            return str(await bus.execute(Answer(value)))  # type: ignore[arg-type]  # the fault under test
        case "child":
            return await bus.execute(Identify())
        case "locked":
            with forbid_calls("a transaction of front is open"):
                return str(await bus.execute(Answer(int(value))))
        case "cancelled":
            with anyio.CancelScope() as scope:
                scope.cancel()
                await bus.execute(Answer(int(value)))
            return "was stopped" if scope.cancelled_caught else "went through"
        case "down":
            return await bus.execute(CallFront(key, (f"down:{int(value) - 1}",))) if int(value) else "bottom"
        case "again":
            return await bus.execute(CallFront(key, (value,), in_order=True))
        case "parallel":
            return await _parallel([int(part) for part in value.split(",")], bus)
        case "crowd":
            return await _crowd(int(value), bus)
        case _:
            return None


async def _parallel(numbers: list[int], bus: Bus) -> str:
    results: list[int] = []

    async def one(number: int) -> None:
        results.append(await bus.execute(Answer(number)))

    async with anyio.create_task_group() as tasks:
        for number in numbers:
            tasks.start_soon(one, number)
    return str(sorted(results))


async def _crowd(count: int, bus: Bus) -> str:
    """Make many calls at a time: they begin in one turn of the event loop, so that those beyond the bound find all others in flight."""
    results: list[bool | None] = []

    async def one() -> None:
        try:
            results.append(await bus.execute(Nap(0.005)))
        except Overloaded:
            results.append(None)

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(one)
    refused = results.count(None)
    return f"{count - refused} answered{', crowded' if any(results) else ''}, {refused} refused"


async def _play(key: str, name: str, value: str, bus: Bus) -> bool:
    """The steps that publish, or take time; tells whether it was one."""
    match name:
        case "publish":
            await bus.publish(Happened(key, value))
        case "progress":
            await bus.publish_now(Happened(key, value))
        case "shout":
            await bus.publish(Happened(key, "x" * int(value)))
        case "wait":
            await anyio.sleep(30)
        case "stumble":
            try:
                await anyio.sleep(30)
            finally:
                raise ValueError("while it was being cancelled")
        case "linger":
            await _linger(key, float(value), bus)
        case "overlap":
            await bus.publish_now(Happened(key, f"in {value}"))
            await anyio.sleep(0.03)
            await bus.publish_now(Happened(key, f"out {value}"))
        case "turn":
            await anyio.lowlevel.checkpoint()
        case _:
            return False
    return True


async def _linger(key: str, seconds: float, bus: Bus) -> None:
    await bus.publish_now(Happened(key, "began"))
    try:
        await anyio.sleep(seconds)
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await bus.publish_now(Happened(key, "stopped"))
        raise
    await bus.publish_now(Happened(key, "went on"))


# --- back ------------------------------------------------------------------------------------------------------------

back = Module(back_contract)

_napping = 0


@back.command(Answer, idempotent=True)
async def answer(command: Answer) -> int:
    if command.number < 0:
        raise Refused("negative", (command.number,))
    if command.number == 13:
        raise LookupError("thirteen")
    mood.set("answered")
    return command.number


@back.command(CallFront, idempotent=True)
async def call_front(command: CallFront, bus: Bus) -> str:
    if command.in_order:
        return await bus.execute(ActInOrder(command.key, command.steps))
    return await bus.execute(Act(command.key, command.steps))


@back.command(Identify, idempotent=True)
async def identify(command: Identify, caller: Caller) -> str:
    return _given(caller)


@back.command(Nap, idempotent=True)
async def nap(command: Nap) -> bool:
    global _napping
    _napping += 1
    is_crowded = _napping > COMMANDS_RUNNING
    try:
        await anyio.sleep(command.seconds)
    finally:
        _napping -= 1
    return is_crowded


@back.query(AskFront)
async def ask_front(query: AskFront, bus: Queries) -> Reflection:
    return await bus.ask(Reflect(query.text, (1, 2), {"a": None, "b": 0.5}))


@back.subscribe(events, retry=Retry(attempts=2, first_s=0.01))
async def follow(event: Happened, bus: Bus, caller: Caller) -> None:
    if event.what.startswith("poison") or (event.what.startswith("shaky") and caller.attempt == 1):
        raise RuntimeError(f"cannot follow {event.what}")
    if event.what == "slow":
        await anyio.sleep(0.15)
    what = event.what if mood.get() == "calm" else f"{event.what} in the mood {mood.get()}"
    mood.set("followed")
    await bus.publish(Followed(event.key, what))
