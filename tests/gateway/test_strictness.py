"""The strict decoders against slow checks that are obviously right: the standard library's parser, and a walk over the types."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import quote_plus

import attrs
import pytest
from attrs import field, frozen
from hypothesis import example, given
from hypothesis import strategies as st

from fissile_gateway._query import QueryDecoder
from fissile_gateway._strict import InvalidInput, StrictDecoder
from fissile_gateway._twin import Twins


@frozen
class Leaf:
    name: str
    count: int = 1
    ratio: float | None = None


@frozen
class Tree:
    leaf: Leaf
    leaves: tuple[Leaf, ...] = ()
    pair: tuple[int, str] = (0, "")
    names: Mapping[str, Leaf] = field(factory=dict[str, Leaf])
    set_of: frozenset[Leaf] = frozenset()
    either: Leaf | int | None = None
    inner: Tree | None = None


# --- bodies ----------------------------------------------------------------------------------------------------------


class Refused(Exception):
    """What the slow check says of a document that is not taken."""


class Members(list[tuple[str, Any]]):
    """An object, with repeated members."""


def parse(data: bytes) -> Any:
    def constant(name: str) -> Any:
        raise Refused(name)

    try:
        return json.loads(data.decode(), object_pairs_hook=Members, parse_constant=constant)
    except ValueError as error:
        raise Refused(str(error)) from None


def text(value: Any) -> str:
    if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value):
        raise Refused(f"{value!r} is no text")
    return value


def integer(value: Any) -> int:
    if type(value) is float and value.is_integer() and abs(value) < 2**63:
        return int(value)
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise Refused(f"{value!r} is no integer")
    return value


def number(value: Any) -> float:
    if type(value) not in (int, float):
        raise Refused(f"{value!r} is no number")
    try:
        converted = float(value)
    except OverflowError:
        raise Refused("too large") from None
    if not math.isfinite(converted):
        raise Refused("too large")
    return converted


def items(value: Any, check: Any) -> list[Any]:
    if isinstance(value, Members) or not isinstance(value, list):
        raise Refused(f"{value!r} is no array")
    return [check(item) for item in value]


def members(value: Any) -> dict[str, Any]:
    if not isinstance(value, Members):
        raise Refused(f"{value!r} is no object")
    keys = [text(key) for key, _ in value]
    if len(set(keys)) < len(keys):
        raise Refused(f"{keys} repeat")
    return dict(value)


def fields(value: Any, cls: type, checks: dict[str, Any]) -> Any:
    given = members(value)
    if not set(given) <= set(checks):
        raise Refused("unknown field")
    required = {one.name for one in attrs.fields(cls) if one.default is attrs.NOTHING}
    if not required <= set(given):
        raise Refused("missing field")
    return cls(**{name: checks[name](inner) for name, inner in given.items()})


def optional(check: Any) -> Any:
    return lambda value: None if value is None else check(value)


def leaf(value: Any) -> Leaf:
    checked: Leaf = fields(value, Leaf, {"name": text, "count": integer, "ratio": optional(number)})
    return checked


def pair(value: Any) -> tuple[int, str]:
    if len(items(value, lambda item: item)) != 2:
        raise Refused("no pair")
    return integer(value[0]), text(value[1])


def tree(value: Any) -> Tree:
    checks = {
        "leaf": leaf,
        "leaves": lambda value: tuple(items(value, leaf)),
        "pair": pair,
        "names": lambda value: {key: leaf(inner) for key, inner in members(value).items()},
        "set_of": lambda value: frozenset(items(value, leaf)),
        "either": lambda value: leaf(value) if isinstance(value, Members) else optional(integer)(value),
        "inner": optional(tree),
    }
    checked: Tree = fields(value, Tree, checks)
    return checked


TEXTS = st.text(alphabet=st.characters(codec=None) | st.sampled_from('ab:"\\,{}[]\n\ud800\udc00é'), max_size=4)
INTEGERS = st.integers(-3, 3) | st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**30])
FLOATS = st.sampled_from(["1.5", "-0.0", "1e3", "1e999", "NaN", "Infinity", "-Infinity", "1.0", "01", "+1", ".5"])


@st.composite
def rendered(draw: st.DrawFn, plain: str) -> str:
    """Write a string as JSON, escaping at will."""
    written = ""
    for character in plain:
        how = draw(st.sampled_from(["plain", "plain", "plain", "escaped"]))
        if how == "escaped" and ord(character) < 0x10000:
            written += f"\\u{ord(character):04x}"
        else:
            written += json.dumps(character, ensure_ascii="\ud800" <= character <= "\udfff")[1:-1]
    return f'"{written}"'


SCALARS = st.one_of(
    TEXTS.flatmap(rendered),
    INTEGERS.map(str),
    FLOATS,
    st.sampled_from(["null", "true", "false", "", "nul", "[]", "{}"]),
)


def objects(**values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Write objects: most often as they should be, sometimes with repeated, missing, unknown or odd members."""
    names = [*values, "nope"]
    odd = st.lists(
        st.sampled_from(names).flatmap(
            lambda name: st.tuples(rendered(name), st.one_of(values.get(name, SCALARS), SCALARS)).map(": ".join)
        ),
        max_size=5,
    )
    right = st.lists(st.sampled_from(list(values)), unique=True).flatmap(
        lambda chosen: st.tuples(*(st.tuples(rendered(name), values[name]).map(":".join) for name in chosen)).map(list)
    )
    return (right | right | odd).map(lambda parts: "{" + " , ".join(parts) + "}")


NAMES = TEXTS.flatmap(rendered)
LEAVES = objects(name=NAMES, count=INTEGERS.map(str), ratio=FLOATS | INTEGERS.map(str) | st.just("null"))
GOOD_LEAVES = st.tuples(NAMES, st.integers(0, 2)).map(lambda parts: f'{{"name":{parts[0]},"count":{parts[1]}}}')
ARRAYS = st.lists(GOOD_LEAVES | LEAVES, max_size=3).map(lambda parts: f"[{','.join(parts)}]")
MAPPINGS = st.lists(st.tuples(NAMES, GOOD_LEAVES | LEAVES).map(":".join), max_size=3).map(
    lambda parts: f"{{{','.join(parts)}}}"
)
TREES = st.recursive(
    LEAVES | GOOD_LEAVES,
    lambda inner: objects(
        leaf=GOOD_LEAVES | LEAVES,
        leaves=ARRAYS,
        pair=st.tuples(INTEGERS.map(str), NAMES).map(lambda parts: f"[{','.join(parts)}]") | ARRAYS,
        names=MAPPINGS,
        set_of=ARRAYS,
        either=LEAVES | INTEGERS.map(str) | SCALARS,
        inner=inner | st.just("null"),
    ),
    max_leaves=4,
)

TWINS = Twins()
LEAF = StrictDecoder[Leaf](Leaf, TWINS)
TREE = StrictDecoder[Tree](Tree, TWINS)


def agree(decoder: StrictDecoder[Any], check: Any, data: bytes) -> None:
    try:
        expected = check(parse(data))
    except Refused:
        with pytest.raises(InvalidInput) as refused:
            decoder.decode(data)
        assert all(error.path.startswith("$") and error.message for error in refused.value.errors)
    else:
        assert repr(decoder.decode(data)) == repr(expected)


@given(LEAVES | SCALARS, st.sampled_from(["utf-8", "utf-8", "utf-16", "latin-1"]))
@example('{"name":"a:b"}', "utf-8")
@example('{"name":"\\":","name":""}', "utf-8")
@example('{"name":"","\\u006eame":""}', "utf-8")
def test_a_flat_document_is_taken_or_refused_as_the_slow_check_says(document: str, encoding: str) -> None:
    agree(LEAF, leaf, document.encode(encoding, "replace"))


@given(TREES)
@example('{"leaf":{"name":"x"},"set_of":[{"name":"x"},{"name":"x"}]}')
@example('{"leaf":{"name":"x"},"inner":{"leaf":{"name":"y"},"inner":{"leaf":{"name":"z","name":"z"}}}}')
@example('{"leaf":{"name":"x"},"names":{":":{"name":"x"},":":{"name":"x"}}}')
def test_a_nested_document_is_taken_or_refused_as_the_slow_check_says(document: str) -> None:
    agree(TREE, tree, document.encode("utf-8", "replace"))


@given(st.binary(max_size=12))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    agree(LEAF, leaf, data)


def test_a_document_that_is_nested_too_deeply_is_refused() -> None:
    document = b'{"leaf":{"name":"x"},"inner":' * 5000 + b"null" + b"}" * 5000
    with pytest.raises(InvalidInput, match="nested too deeply"):
        TREE.decode(document)


def test_every_repeated_key_is_named_with_its_path() -> None:
    with pytest.raises(InvalidInput) as refused:
        TREE.decode(
            b'{"leaf":{"name":"x","name":"y"},"leaves":[{"name":"z"},{"name":"a","count":1,"count":2}],"leaf":{"name":"x"}}'
        )
    paths = sorted(error.path for error in refused.value.errors)
    assert paths == ["$.leaf", "$.leaf.name", "$.leaves[1].count"]


def test_a_decimal_that_is_no_number_is_refused_with_its_path() -> None:
    @frozen
    class Price:
        amounts: tuple[Decimal, ...] = ()

    with pytest.raises(InvalidInput) as refused:
        StrictDecoder[Price](Price, Twins()).decode(b'{"amounts": ["1", "NaN"]}')
    assert [error.path for error in refused.value.errors] == ["$.amounts[1]"]


def test_the_validator_of_a_class_is_heard() -> None:
    @frozen
    class Even:
        value: int = field()

        @value.validator
        def _check(self, attribute: attrs.Attribute[int], value: int) -> None:
            if value % 2:
                raise ValueError(f"{value} is odd")

    with pytest.raises(InvalidInput, match="3 is odd"):
        StrictDecoder[Even](Even, Twins()).decode(b'{"value": 3}')
    with pytest.raises(InvalidInput, match="3 is odd"):
        QueryDecoder(Even, Twins()).decode(b"value=3")


# --- query strings ---------------------------------------------------------------------------------------------------


@frozen
class Ask:
    whole: int = 0
    part: float = 0.0
    yes: bool = False
    maybe: int | None = None
    words: str = ""
    note: str | None = None
    many: tuple[int, ...] = ()
    pair: tuple[int, str] = (0, "")
    must: str = field(kw_only=True)


def slow_text(kind: str, value: str) -> Any:
    if kind == "pair":
        try:
            return pair(parse(value.encode()))
        except RecursionError:
            raise Refused(value) from None
    if kind in ("words", "note", "must"):
        return value
    if kind == "yes":
        if value not in ("true", "false"):
            raise Refused(value)
        return value == "true"
    if kind == "maybe" and value == "null":
        return None
    if kind == "part":
        if not re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", value, re.ASCII):
            raise Refused(value)
        return number(float(value))
    if not re.fullmatch(r"-?(0|[1-9]\d*)", value, re.ASCII):
        raise Refused(value)
    return integer(int(value))


def slow_query(pairs: list[tuple[str, str]]) -> Ask:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name not in {one.name for one in attrs.fields(Ask)} or (name in values and name != "many"):
            raise Refused(name)
        checked = slow_text(name, value)
        values[name] = (*values.get("many", ()), checked) if name == "many" else checked
    if "must" not in values:
        raise Refused("must")
    return Ask(**values)


ASK = QueryDecoder(Ask, TWINS)
PARAMETERS = st.sampled_from(["whole", "part", "yes", "maybe", "words", "note", "many", "pair", "must", "nope", ""])
VALUES = st.one_of(
    st.sampled_from(
        [
            "1",
            "-1",
            "0",
            "01",
            '[1,"x"]',
            "[1]",
            "1.0",
            "1e3",
            "1e999",
            "nan",
            "inf",
            "true",
            "false",
            "True",
            "null",
            "",
            " 1",
            "1_0",
        ]
    ),
    st.text(st.characters(codec="utf-8"), max_size=4),
    INTEGERS.map(str),
)
PAIRS = st.lists(st.tuples(PARAMETERS, VALUES), max_size=5).flatmap(
    lambda pairs: st.permutations([*pairs, ("must", "x")]) | st.just(pairs)
)


@given(PAIRS)
def test_a_query_string_is_taken_or_refused_as_the_slow_check_says(pairs: list[tuple[str, str]]) -> None:
    query = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in pairs).encode()
    try:
        expected = slow_query(pairs)
    except Refused:
        with pytest.raises(InvalidInput):
            ASK.decode(query)
    else:
        assert repr(ASK.decode(query)) == repr(expected)


@pytest.mark.parametrize(
    ("query", "path"),
    [
        (b"must", "$"),
        (b"must=%ff", "$.must"),
        (b"must=%zz", "$.must"),
        (b"must=%", "$.must"),
        (b"must=1&&whole=1", "$"),
        (b"must=%ED%A0%80", "$.must"),
        (b"must=x&many=1&many=x", "$.many[1]"),
    ],
)
def test_a_broken_query_string_is_refused_with_its_place(query: bytes, path: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        ASK.decode(query)
    assert [error.path for error in refused.value.errors] == [path]
