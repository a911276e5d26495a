"""Two modules that call each other and do everything that a handler can do. They keep no state, so that replicas are alike."""

from __future__ import annotations

from collections.abc import Mapping

import anyio
from attrs import frozen

from fissile import Bus, Caller, Command, Contract, DeclaredError, Event, Module, Queries, Query, Retry, Topic

# --- the contract of `front` -----------------------------------------------------------------------------------------


@frozen
class Refused(DeclaredError, status=409):
    reason: str
    amounts: tuple[int, ...] = ()


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


@frozen
class Reflect(Query[Reflection]):
    """Returns what it was given, and what it knows of its caller."""

    text: str
    numbers: tuple[int, ...]
    by_name: Mapping[str, float | None]


@frozen
class Act(Command[str], raises=(Refused,)):
    """Does one thing after the other: `publish`, `call back`, `refuse`, `fail`, `group`, `exit`, `wrong reply`, `wait`, `shield`, `send`."""

    key: str
    steps: tuple[str, ...]


@frozen
class ActInOrder(Command[str], raises=(Refused,), key="key"):
    """The same, one after the other per key."""

    key: str
    steps: tuple[str, ...]


events = Topic("front.events", Happened, key=lambda event: event.key)
front_contract = Contract("front", messages=[Refused, Happened, Reflection, Reflect, Act, ActInOrder], topics=[events])

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


@frozen
class AskFront(Query[Reflection]):
    """Asks `front`, from here."""

    text: str


followed = Topic("back.followed", Followed, key=lambda event: event.key)
back_contract = Contract("back", messages=[Followed, Answer, CallFront, AskFront], topics=[followed])

# --- front -----------------------------------------------------------------------------------------------------------

front = Module(front_contract)


@front.query(Reflect)
async def reflect(query: Reflect, caller: Caller, bus: Queries) -> Reflection:
    return Reflection(query.text, query.numbers, query.by_name, caller.chain, caller.module)


@front.command(Act, idempotent=True)
async def act(command: Act, bus: Bus) -> str:
    return await _act(command.key, command.steps, bus)


@front.command(ActInOrder, idempotent=True)
async def act_in_order(command: ActInOrder, bus: Bus) -> str:
    return await _act(command.key, command.steps, bus)


async def _act(key: str, steps: tuple[str, ...], bus: Bus) -> str:
    done: list[str] = []
    for number, step in enumerate(steps):
        match step.split(":"):
            case ["publish", what]:
                await bus.publish(Happened(key, what))
            case ["progress", what]:
                await bus.publish_now(Happened(key, what))
            case ["call", value]:
                done.append(str(await bus.execute(Answer(int(value)))))
            case ["try", value]:
                try:
                    done.append(str(await bus.execute(Answer(int(value)))))
                except Refused as refused:
                    done.append(f"refused {refused.reason}")
            case ["refuse", reason]:
                raise Refused(reason, (number,))
            case ["group", reason]:
                raise ExceptionGroup("of one", [Refused(reason, (number,))])
            case ["fail", text]:
                raise ValueError(text)
            case ["exit"]:
                raise SystemExit(3)
            case ["wrong"]:
                return number  # type: ignore[return-value]  # the fault under test
            case ["large"]:
                return "x" * 2_000_000
            case ["wait"]:
                await anyio.sleep(30)
            case ["parallel", values]:
                results: list[int] = []

                async def one(value: str, results: list[int] = results) -> None:
                    results.append(await bus.execute(Answer(int(value))))

                async with anyio.create_task_group() as tasks:
                    for value in values.split(","):
                        tasks.start_soon(one, value)
                done.append(str(sorted(results)))
            case ["invalid"]:
                await bus.execute(Answer("no number"))  # type: ignore[arg-type]  # the fault under test
            case ["turn"]:
                await anyio.lowlevel.checkpoint()
            case _:
                done.append(step)
    return " ".join(done)


# --- back ------------------------------------------------------------------------------------------------------------

back = Module(back_contract)


@back.command(Answer, idempotent=True)
async def answer(command: Answer) -> int:
    if command.number < 0:
        raise Refused("negative", (command.number,))
    if command.number == 13:
        raise LookupError("thirteen")
    return command.number


@back.command(CallFront, idempotent=True)
async def call_front(command: CallFront, bus: Bus) -> str:
    return await bus.execute(Act(command.key, command.steps))


@back.query(AskFront)
async def ask_front(query: AskFront, bus: Queries) -> Reflection:
    return await bus.ask(Reflect(query.text, (1, 2), {"a": None, "b": 0.5}))


@back.subscribe(events, retry=Retry(attempts=2, first_s=0.01))
async def follow(event: Happened, bus: Bus, caller: Caller) -> None:
    if event.what.startswith("poison") or (event.what.startswith("shaky") and caller.attempt == 1):
        raise RuntimeError(f"cannot follow {event.what}")
    await bus.publish(Followed(event.key, event.what))
