"""The table of types: what is in it comes back equal from JSON and from MessagePack."""

import enum
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import msgspec
import pytest
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st

from fissile._codec import Codec, ErrorCodec, WireFormat
from fissile._errors import InvalidMessage, MessageTooLarge
from fissile._messages import DeclaredError
from fissile._types import type_problems

WIRES: tuple[WireFormat, ...] = ("json", "msgpack")
LIMIT = 1 << 20


class Suit(enum.Enum):
    HEARTS = "hearts"
    SPADES = "spades"


class Rank(enum.IntEnum):
    ACE = 1
    KING = 13


@frozen
class Point:
    x: int
    label: str = ""


@frozen
class Tree:
    value: int
    children: "tuple[Tree, ...]" = ()


Name = NewType("Name", str)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
integers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
offsets = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
points = st.builds(Point, integers, text)
trees = st.recursive(
    st.builds(Tree, integers), lambda inner: st.builds(Tree, integers, st.lists(inner, max_size=3).map(tuple))
)
decimals = st.decimals(allow_nan=False, allow_infinity=False)

TABLE: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "str": (str, text),
    "int": (int, integers),
    "float": (float, floats),
    "bool": (bool, st.booleans()),
    "None": (None, st.none()),
    "bytes": (bytes, st.binary(max_size=50)),
    "Decimal": (Decimal, decimals),
    "naive datetime": (datetime, st.datetimes()),
    "aware datetime": (datetime, st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=offsets)),
    "date": (date, st.dates()),
    "time": (time, st.times()),
    "timedelta": (timedelta, st.timedeltas(timedelta(days=-100_000), timedelta(days=100_000))),
    "UUID": (UUID, st.uuids()),
    "enum of strings": (Suit, st.sampled_from(Suit)),
    "enum of integers": (Rank, st.sampled_from(Rank)),
    "literal": (Literal["a", "b"], st.sampled_from(["a", "b"])),
    "tuple of one type": (tuple[int, ...], st.lists(integers, max_size=5).map(tuple)),
    "tuple of several": (tuple[int, str], st.tuples(integers, text)),
    "frozenset": (frozenset[str], st.frozensets(text, max_size=5)),
    "mapping": (Mapping[str, float], st.dictionaries(text, floats, max_size=5)),
    "attrs class": (Point, points),
    "recursive class": (Tree, trees),
    "optional": (Point | None, st.none() | points),
    "union": (int | str | None, integers | text | st.none()),
    "annotated": (Annotated[int, msgspec.Meta(ge=-(2**63))], integers),
    "new type": (Name, text),
    "nested": (
        Mapping[str, tuple[Point, ...]],
        st.dictionaries(text, st.lists(points, max_size=3).map(tuple), max_size=3),
    ),
}
CODECS: dict[tuple[str, str], Codec[Any]] = {
    (name, wire): Codec(name, annotation, wire, LIMIT) for name, (annotation, _) in TABLE.items() for wire in WIRES
}


@pytest.mark.parametrize("name", TABLE)
def test_a_type_of_the_table_is_accepted(name: str) -> None:
    assert list(type_problems(TABLE[name][0])) == []


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("name", TABLE)
@given(data=st.data())
def test_a_value_of_the_table_comes_back_equal_and_of_the_same_type(name: str, wire: str, data: st.DataObject) -> None:
    value = data.draw(TABLE[name][1])
    back = CODECS[name, wire].cross(value)
    assert back == value
    assert type(back) is type(value)


@frozen
class Everything(DeclaredError):
    number: int
    label: str = ""
    ratio: float = 0.5
    points: tuple[Point, ...] = field(factory=tuple)


@pytest.mark.parametrize("wire", WIRES)
@given(st.builds(Everything, integers, text, floats, st.lists(points, max_size=3).map(tuple)))
def test_a_declared_error_comes_back_equal(wire: Any, error: Everything) -> None:
    codec = ErrorCodec("everything", Everything, wire, LIMIT)
    back = codec.decode(codec.encode(error))
    assert back == error
    assert type(back) is Everything
    assert str(back) == str(error)


@pytest.mark.parametrize("wire", WIRES)
def test_a_field_that_a_declared_error_came_without_has_the_errors_own_default(wire: Any) -> None:
    older, newer = ErrorCodec("older", Older, wire, LIMIT), ErrorCodec("newer", Newer, wire, LIMIT)
    assert newer.decode(older.encode(Older(3))) == Newer(3, twice=6)
    assert older.decode(newer.encode(Newer(3, twice=7))) == Older(3)


@frozen
class Older(DeclaredError):
    number: int


@frozen
class Newer(DeclaredError):
    number: int
    twice: int = field()

    @twice.default
    def _twice_unless_told(self) -> int:
        return 2 * self.number


@pytest.mark.parametrize("wire", WIRES)
def test_a_number_in_a_declared_error_that_cannot_be_sent_is_found(wire: Any) -> None:
    codec = ErrorCodec("everything", Everything, wire, LIMIT)
    with pytest.raises(InvalidMessage, match=r"everything was not sent: ratio: nan cannot be sent"):
        codec.encode(Everything(1, ratio=float("nan")))
    with pytest.raises(InvalidMessage, match=r"everything of order was not sent: ratio: "):
        codec.under("everything of order").encode(Everything(1, ratio=float("nan")))


@frozen
class Deep:
    points: Mapping[str, tuple[Mapping[str, float | int | None], ...]]


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**63, -(2**63) - 1])
def test_a_number_that_cannot_be_sent_is_found_however_deep(wire: Any, value: float) -> None:
    codec: Codec[Deep] = Codec("deep", Deep, wire, LIMIT)
    with pytest.raises(InvalidMessage, match=r"deep was not sent: points: "):
        codec.encode(Deep({"a": ({"x": 1.0}, {"y": value})}))


@pytest.mark.parametrize("wire", WIRES)
def test_a_value_that_is_nested_too_deeply_is_invalid(wire: Any) -> None:
    tree = Tree(0)
    for _ in range(5000):
        tree = Tree(0, (tree,))
    codec: Codec[Tree] = Codec("tree", Tree, wire, LIMIT)
    with pytest.raises(InvalidMessage):
        codec.cross(tree)


@pytest.mark.parametrize("wire", WIRES)
@given(st.binary(max_size=60))
def test_no_bytes_make_a_decoder_raise_anything_but_invalid_message(wire: Any, data: bytes) -> None:
    codec: Codec[Point] = Codec("point", Point, wire, LIMIT)
    try:
        back = codec.decode(data)
    except InvalidMessage:
        return
    assert isinstance(back.x, int)


@pytest.mark.parametrize("wire", WIRES)
def test_the_limit_counts_encoded_bytes(wire: Any) -> None:
    codec: Codec[str] = Codec("text", str, wire, 12)
    assert codec.cross("x" * 8) == "x" * 8
    with pytest.raises(MessageTooLarge) as raised:
        codec.encode("é" * 8)
    assert raised.value.limit_bytes == 12
    assert raised.value.happened is False


def test_an_aware_datetime_is_the_same_moment_on_both_wires() -> None:
    moment = datetime(2026, 5, 1, 12, 30, 1, 123456, timezone(timedelta(hours=5, minutes=30)))
    for wire in WIRES:
        assert CODECS["aware datetime", wire].cross(moment) == moment.astimezone(UTC)


@pytest.mark.parametrize("wire", WIRES)
def test_an_offset_from_utc_that_is_no_whole_number_of_minutes_is_not_sent(wire: str) -> None:
    """JSON would drop its seconds, and make another moment of it."""
    zone = timezone(timedelta(minutes=9, seconds=21))
    with pytest.raises(InvalidMessage, match="no whole number of minutes"):
        CODECS["aware datetime", wire].encode(datetime(1890, 1, 1, tzinfo=zone))
