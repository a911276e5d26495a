"""Rule 1: every message, reply and declared error crosses the boundary of a module as bytes, in one process too."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from attrs import frozen

from fissile import (
    App,
    Command,
    Contract,
    DeclaredError,
    Event,
    HandlerFailed,
    InvalidMessage,
    MessageTooLarge,
    Module,
    Query,
    Topic,
)
from tests.runtime.helpers import app_of, quick


@frozen
class Line:
    sku: str
    tags: Mapping[str, int]


@frozen
class Place(Command[Line]):
    line: Line


@frozen
class Count(Query[int]):
    number: int


@frozen
class Ratio(Query[float]):
    number: float


@frozen
class Refused(DeclaredError):
    line: Line


@frozen
class Refuse(Command[None], raises=(Refused,)):
    line: Line


@frozen
class Repeat(Query[str]):
    text: str
    times: int


@frozen
class Big(DeclaredError):
    text: str


@frozen
class BigRefusal(Query[None], raises=(Big,)):
    size: int


@frozen
class Lie(Query[int]):
    """Its handler does not keep to the reply type."""


@frozen
class Placed(Event):
    number: int


contract = Contract(
    "shop",
    messages=[Place, Count, Ratio, Refuse, Refused, Repeat, BigRefusal, Big, Lie, Placed],
    topics=[Topic("shop.placed", Placed, key=lambda event: str(event.number))],
)
shop = Module(contract)
seen: list[Any] = []


@shop.command(Place, idempotent=True)
async def place(command: Place) -> Line:
    seen.append(command)
    return command.line


@shop.query(Count)
async def count(query: Count) -> int:
    seen.append(query)
    return query.number


@shop.query(Ratio)
async def ratio(query: Ratio) -> float:
    return query.number if query.number < 1 else float("nan")


refused: list[Refused] = []


@shop.command(Refuse, idempotent=True)
async def refuse(command: Refuse) -> None:
    refused.append(Refused(command.line))
    raise refused[-1]


@shop.query(Repeat)
async def repeat(query: Repeat) -> str:
    return query.text * query.times


@shop.query(BigRefusal)
async def big_refusal(query: BigRefusal) -> None:
    raise Big("x" * query.size)


@shop.query(Lie)
async def lie(query: Lie) -> int:
    return "not a number"  # type: ignore[return-value]


@pytest.fixture(params=["json", "msgpack"])
async def app(request: pytest.FixtureRequest) -> AsyncIterator[App]:
    seen.clear()
    async with app_of(shop, settings=quick(wire=request.param, max_message_bytes=2000)) as app:
        yield app


async def test_a_handler_gets_a_copy_of_its_message(app: App) -> None:
    sent = Place(Line("a", {"x": 1}))
    await app.bus.execute(sent)
    (got,) = seen
    assert got == sent
    assert got is not sent
    assert got.line is not sent.line


async def test_what_the_caller_changes_afterwards_is_not_seen_by_the_handler(app: App) -> None:
    tags = {"x": 1}
    await app.bus.execute(Place(Line("a", tags)))
    tags["x"] = 2
    assert seen[0].line.tags == {"x": 1}


async def test_a_caller_gets_a_copy_of_the_reply(app: App) -> None:
    reply = await app.bus.execute(Place(Line("a", {"x": 1})))
    assert reply == seen[0].line
    assert reply is not seen[0].line
    assert reply.tags is not seen[0].line.tags


async def test_a_declared_error_arrives_as_a_copy(app: App) -> None:
    with pytest.raises(Refused) as raised:
        await app.bus.execute(Refuse(Line("a", {"x": 1})))
    assert raised.value == refused[-1]
    assert raised.value is not refused[-1]
    assert raised.value.line is not refused[-1].line


async def test_a_message_with_a_value_of_a_wrong_type_is_not_sent(app: App) -> None:
    with pytest.raises(InvalidMessage, match=r"shop\.count was not sent: .*number") as raised:
        await app.bus.ask(Count("1"))  # type: ignore[arg-type]
    assert raised.value.happened is False
    assert seen == []


async def test_an_event_with_a_value_of_a_wrong_type_is_not_published(app: App) -> None:
    with pytest.raises(InvalidMessage, match=r"shop\.placed was not sent"):
        await app.bus.publish(Placed("1"))  # type: ignore[arg-type]


async def test_a_reply_of_a_wrong_type_is_a_failure_of_the_handler(app: App) -> None:
    with pytest.raises(HandlerFailed, match="Expected `int`, got `str`"):
        await app.bus.ask(Lie())


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1])
async def test_an_integer_beyond_64_bits_is_not_sent(app: App, number: int) -> None:
    with pytest.raises(InvalidMessage, match="beyond 64 bits"):
        await app.bus.ask(Count(number))
    assert seen == []


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63)])
async def test_the_largest_integers_are_sent(app: App, number: int) -> None:
    assert await app.bus.ask(Count(number)) == number


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
async def test_a_number_that_is_not_finite_is_not_sent(app: App, number: float) -> None:
    with pytest.raises(InvalidMessage, match="cannot be sent"):
        await app.bus.ask(Ratio(number))


async def test_a_reply_that_is_not_finite_is_a_failure_of_the_handler(app: App) -> None:
    with pytest.raises(HandlerFailed, match="cannot be sent"):
        await app.bus.ask(Ratio(1.0))


async def test_a_lone_surrogate_is_not_sent(app: App) -> None:
    with pytest.raises(InvalidMessage):
        await app.bus.ask(Repeat("\ud800", 1))


async def test_a_message_over_the_limit_is_not_sent(app: App) -> None:
    with pytest.raises(MessageTooLarge, match="FISSILE_MAX_MESSAGE_BYTES") as raised:
        await app.bus.ask(Repeat("x" * 3000, 0))
    assert raised.value.limit_bytes == 2000
    assert raised.value.size_bytes > 3000


async def test_a_command_over_the_limit_is_not_sent_without_waiting_either(app: App) -> None:
    with pytest.raises(MessageTooLarge):
        await app.bus.send(Place(Line("x" * 3000, {})))


async def test_a_reply_over_the_limit_is_a_failure_of_the_handler(app: App) -> None:
    assert len(await app.bus.ask(Repeat("x", 1000))) == 1000
    with pytest.raises(HandlerFailed, match="MessageTooLarge"):
        await app.bus.ask(Repeat("x", 3000))


async def test_a_declared_error_over_the_limit_is_a_failure_of_the_handler(app: App) -> None:
    with pytest.raises(HandlerFailed, match="MessageTooLarge"):
        await app.bus.ask(BigRefusal(3000))


async def test_the_limit_is_one_mebibyte_unless_told() -> None:
    async with App([shop]) as app:
        assert len(await app.bus.ask(Repeat("x", 1024 * 1024 - 2))) == 1024 * 1024 - 2
        with pytest.raises(HandlerFailed, match="MessageTooLarge"):
            await app.bus.ask(Repeat("x", 1024 * 1024 - 1))
