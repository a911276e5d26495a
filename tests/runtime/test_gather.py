"""Several asks under one deadline, with required and optional parts."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from attrs import frozen

from fissile import (
    Bus,
    CallRefused,
    Command,
    Contract,
    DeadlineExceeded,
    DeclaredError,
    HandlerFailed,
    InvalidMessage,
    Module,
    Queries,
    Query,
    gather,
)
from tests.runtime.helpers import PATIENCE_S, app_of


@frozen
class Nothing(DeclaredError):
    name: str


@frozen
class Get(Query[str], raises=(Nothing,)):
    name: str


@frozen
class Note(Command[str]):
    text: str


@frozen
class Compose(Query[tuple[str, str | None]]):
    names: tuple[str, str]


@frozen
class NoteAll(Command[tuple[str, ...]]):
    texts: tuple[str, ...]


contract = Contract("parts", messages=[Nothing, Get, Note, Compose, NoteAll])


class Desk:
    """What the handlers of a test wait for."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.ids: list[str] = []
        self.together = anyio.Event()


def parts_module(desk: Desk) -> Module:
    module = Module(contract)

    @module.query(Get)
    async def get(query: Get) -> str:
        desk.begun.append(query.name)
        if query.name == "nothing":
            raise Nothing(query.name)
        if query.name == "broken":
            raise RuntimeError("secret")
        if query.name.startswith("with"):
            if len(desk.begun) > 1:
                desk.together.set()
            await desk.together.wait()
        if query.name == "hang":
            try:
                await anyio.sleep_forever()
            finally:
                desk.cancelled.append(query.name)
        return f"the {query.name}"

    @module.query(Compose)
    async def compose(query: Compose, bus: Queries) -> tuple[str, str | None]:
        async with gather(bus, timeout_s=PATIENCE_S) as parts:
            first, second = parts.ask(Get(query.names[0])), parts.try_ask(Get(query.names[1]))
        return first.value, second.value

    @module.command(Note, idempotent=True)
    async def note(command: Note, bus: Bus) -> str:
        desk.ids.append(f"{command.text} {bus._message_id().partition('.')[2]}")
        return command.text

    @module.command(NoteAll, idempotent=True)
    async def note_all(command: NoteAll, bus: Bus) -> tuple[str, ...]:
        async with gather(bus, timeout_s=PATIENCE_S) as parts:
            noted = [parts.execute(Note(text)) for text in command.texts]
        return tuple(part.value for part in noted)

    return module


@pytest.fixture(params=[False, True], ids=["local", "through-the-log"])
def is_loopback(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_parts_run_side_by_side_and_have_their_values_below_the_block(is_loopback: bool) -> None:
    desk = Desk()
    async with app_of(parts_module(desk), is_loopback=is_loopback) as app:
        with anyio.fail_after(PATIENCE_S):
            async with gather(app.bus, timeout_s=60) as parts:
                one, two = parts.ask(Get("with one")), parts.ask(Get("with two"))
                with pytest.raises(CallRefused, match="has not ended"):
                    _ = one.value
        assert (one.value, two.value, parts.missing) == ("the with one", "the with two", ())


@pytest.mark.parametrize(("name", "kind"), [("nothing", Nothing), ("broken", HandlerFailed)])
async def test_an_optional_part_that_fails_is_absent_and_says_why(
    name: str, kind: type[Exception], is_loopback: bool
) -> None:
    async with app_of(parts_module(Desk()), is_loopback=is_loopback) as app:
        async with gather(app.bus, timeout_s=PATIENCE_S) as parts:
            there, absent = parts.ask(Get("book")), parts.try_ask(Get(name), name="review")
        assert there.value == "the book"
        assert absent.value is None
        (missing,) = parts.missing
        assert missing.name == "review"
        assert isinstance(missing.error, kind)


async def test_a_required_part_that_fails_cancels_the_others_and_raises_its_own_error(is_loopback: bool) -> None:
    desk = Desk()
    async with app_of(parts_module(desk), is_loopback=is_loopback) as app:
        with anyio.fail_after(PATIENCE_S):
            with pytest.raises(Nothing) as failed:  # noqa: PT012 -- what is raised is the whole block's
                async with gather(app.bus, timeout_s=600) as parts:
                    parts.try_ask(Get("hang"))
                    while not desk.begun:
                        await anyio.sleep(0.001)
                    parts.ask(Get("nothing"))
                    await anyio.sleep_forever()
            assert failed.value == Nothing("nothing")
            while not desk.cancelled:
                await anyio.sleep(0.001)


async def test_at_the_deadline_an_optional_part_is_absent_and_a_required_one_fails_the_whole(is_loopback: bool) -> None:
    async with app_of(parts_module(Desk()), is_loopback=is_loopback) as app:
        async with gather(app.bus, timeout_s=0.05) as parts:
            absent = parts.try_ask(Get("hang"))
        assert absent.value is None
        assert isinstance(parts.missing[0].error, DeadlineExceeded)
        with pytest.raises(DeadlineExceeded, match=r"get did not answer within the 0\.05 s"):
            async with gather(app.bus, timeout_s=0.05) as parts:
                parts.ask(Get("hang"))


async def test_a_mistake_of_the_caller_fails_the_whole_even_where_the_part_is_optional() -> None:
    async with app_of(parts_module(Desk())) as app:
        with pytest.raises(InvalidMessage):
            async with gather(app.bus, timeout_s=PATIENCE_S) as parts:
                parts.try_ask(Get(7))  # type: ignore[arg-type]


async def test_an_error_in_the_block_cancels_the_parts_and_goes_on_as_it_is() -> None:
    desk = Desk()
    async with app_of(parts_module(desk)) as app:
        with anyio.fail_after(PATIENCE_S), pytest.raises(ZeroDivisionError):  # noqa: PT012 -- likewise
            async with gather(app.bus, timeout_s=600) as parts:
                parts.ask(Get("hang"))
                while not desk.begun:
                    await anyio.sleep(0.001)
                raise ZeroDivisionError
        assert desk.cancelled == ["hang"]


async def test_a_cancelled_caller_cancels_its_parts_and_the_cancellation_goes_on() -> None:
    desk = Desk()
    async with app_of(parts_module(desk)) as app:
        with anyio.move_on_after(PATIENCE_S) as scope:
            async with gather(app.bus, timeout_s=600) as parts:
                parts.ask(Get("hang"))
                while not desk.begun:
                    await anyio.sleep(0.001)
                scope.cancel()
        assert scope.cancelled_caught
        assert desk.cancelled == ["hang"]


async def test_a_query_handler_composes_with_queries_alone(is_loopback: bool) -> None:
    async with app_of(parts_module(Desk()), is_loopback=is_loopback) as app:
        assert await app.bus.ask(Compose(("book", "nothing"))) == ("the book", None)


async def test_commands_have_ids_in_the_order_in_which_they_were_asked_for(is_loopback: bool) -> None:
    desk = Desk()
    texts = tuple("abcdef")
    async with app_of(parts_module(desk), is_loopback=is_loopback) as app:
        for _ in range(2):
            assert await app.bus.execute(NoteAll(texts), id="x") == texts
    first, second = sorted(desk.ids[:6]), sorted(desk.ids[6:])
    assert first == second
    numbers = [int(line.split()[1]) for line in first]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_time_that_is_not_positive_is_refused(timeout_s: float) -> None:
    make: Callable[..., object] = gather
    with pytest.raises(ValueError, match="has to be positive"):
        make(None, timeout_s=timeout_s)
