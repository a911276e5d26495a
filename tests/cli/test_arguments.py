"""How `call` reads the fields of a message."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Literal

import pytest
from attrs import field, frozen

from fissile import Command
from fissile.cli._arguments import parse, shown_type
from fissile.cli._exit import CommandFailed, Exit


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


@frozen
class Line:
    sku: str
    count: int


def positive(_instance: object, _attribute: object, value: int) -> None:
    if value < 1:
        raise ValueError("retries must be positive")


@frozen
class Place(Command[None]):
    name: str
    at: datetime | None = None
    size: Size = Size.SMALL
    mode: Literal["fast", "slow"] = "fast"
    ratio: float | None = None
    urgent: bool = True
    lines: tuple[Line, ...] = ()
    codes: frozenset[int] = frozenset()
    labels: Mapping[str, str] = field(factory=dict)
    dry_run: bool = False
    retries: int = field(default=1, validator=positive)
    data: bytes = b""


def made(*tokens: str) -> Place:
    found = parse(["--name", "x", *tokens], "shop.place", Place)
    assert isinstance(found, Place)
    return found


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["--at", "2026-01-02T03:04:05"], Place("x", at=datetime(2026, 1, 2, 3, 4, 5))),
        (["--size", "large"], Place("x", size=Size.LARGE)),
        (["--mode=slow"], Place("x", mode="slow")),
        (["--ratio", "-1.5"], Place("x", ratio=-1.5)),
        (["--no-urgent", "--dry-run"], Place("x", urgent=False, dry_run=True)),
        (["--dry-run", "true", "--urgent=false"], Place("x", urgent=False, dry_run=True)),
        (["--lines", '[{"sku": "a", "count": 2}]'], Place("x", lines=(Line("a", 2),))),
        (["--codes", "1", "--codes", "2"], Place("x", codes=frozenset({1, 2}))),
        (["--labels", '{"a": "b"}'], Place("x", labels={"a": "b"})),
        (["--data", "aGk="], Place("x", data=b"hi")),
        (['{"dry_run": true, "codes": [3]}'], Place("x", codes=frozenset({3}), dry_run=True)),
    ],
)
def test_a_value_is_read_as_the_type_of_its_field(tokens: list[str], expected: Place) -> None:
    assert made(*tokens) == expected


def test_an_object_may_come_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO('{"retries": 5}'))
    assert made("-") == Place("x", retries=5)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["--size", "huge"], "--size: expected Size, got 'huge'"),
        (["--mode", "late"], "--mode: expected fast|slow, got 'late'"),
        (["--retries", "2", "--retries", "3"], "--retries: it was given 2 times, and is one int."),
        (["--retries"], "--retries: it needs a value, int."),
        (["--lines", '[{"sku": "a", "count": "b"}]'], "--lines: expected tuple[Line, ...]"),
        (['{"retries": "2"}'], '--retries: expected int, got "2"'),
        (["--labels", "{"], "--labels: expected Mapping[str, str], got '{'"),
        (['{"lable": 1}'], "--lable: there is no such field."),
    ],
)
def test_a_mistake_names_its_field(tokens: list[str], said: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        made(*tokens)
    assert caught.value.code is Exit.USAGE
    assert said in "\n".join(caught.value.details)


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (["what"], "'what' is neither an option nor JSON"),
        (["[1]"], "is JSON and no object"),
        (["--retries", "0"], "retries must be positive"),
    ],
)
def test_what_is_no_field_is_told_as_such(tokens: list[str], said: str) -> None:
    with pytest.raises(CommandFailed, match=said.replace("[", r"\[")) as caught:
        made(*tokens)
    assert caught.value.code is Exit.USAGE


def test_types_are_shown_as_they_are_written() -> None:
    assert shown_type(int | None) == "int | None"
    assert shown_type(tuple[Line, ...]) == "tuple[Line, ...]"
    assert shown_type(Mapping[str, Line]) == "Mapping[str, Line]"
    assert shown_type(Literal["a", "b"]) == "a|b"
