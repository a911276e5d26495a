"""Every field that somebody outside can fill has a bound, so that nobody makes a module keep, search for or send back what is too large."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import inspect

from fissile import Contract

NO_NUL = r"^[^\x00]*$"
FOLDERS = sorted(path.parent for path in (Path(__file__).parents[2] / "modules").glob("*/contract.py"))
CONTRACTS: list[Contract] = [importlib.import_module(f"modules.{path.name}.contract").contract for path in FOLDERS]
REQUESTS = [
    pytest.param(request, id=contract.name_of(request))
    for contract in CONTRACTS
    for request in (*contract.commands, *contract.queries)
    if request.public
]


def unbounded(kind: Any, path: str) -> Iterator[str]:
    """Name each part of a type that could be as large as one likes."""
    if isinstance(kind, inspect.Metadata):  # a description, an example
        yield from unbounded(kind.type, path)
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from unbounded(each, path)
    elif isinstance(kind, inspect.DataclassType):  # which is what it calls classes of attrs
        for field in kind.fields:
            yield from unbounded(field.type, f"{path}.{field.name}")
    elif isinstance(kind, (inspect.VarTupleType, inspect.ListType, inspect.SetType, inspect.FrozenSetType)):
        if kind.max_length is None:
            yield f"{path}: no max_length"
        yield from unbounded(kind.item_type, f"{path}[]")
    elif isinstance(kind, (inspect.StrType, inspect.BytesType)):
        if kind.max_length is None:
            yield f"{path}: no max_length"
    elif isinstance(kind, (inspect.IntType, inspect.FloatType)):
        if None in (kind.ge if kind.gt is None else kind.gt, kind.le if kind.lt is None else kind.lt):
            yield f"{path}: no range"
    elif not isinstance(kind, (inspect.BoolType, inspect.NoneType)):
        yield f"{path}: {type(kind).__name__} has no bound that this test knows"


def texts(kind: Any, path: str) -> Iterator[tuple[str, inspect.StrType]]:
    """Find each text in a type."""
    if isinstance(kind, inspect.Metadata):
        yield from texts(kind.type, path)
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from texts(each, path)
    elif isinstance(kind, inspect.DataclassType):
        for field in kind.fields:
            yield from texts(field.type, f"{path}.{field.name}")
    elif isinstance(kind, inspect.VarTupleType):
        yield from texts(kind.item_type, f"{path}[]")
    elif isinstance(kind, inspect.StrType):
        yield path, kind


def test_there_are_requests_to_look_at() -> None:
    assert len(CONTRACTS) >= 5
    assert len(REQUESTS) >= 20


@pytest.mark.parametrize("request_type", REQUESTS)
def test_every_field_of_a_request_has_a_bound(request_type: type) -> None:
    assert list(unbounded(inspect.type_info(request_type), request_type.__name__)) == []


@pytest.mark.parametrize("request_type", REQUESTS)
def test_a_name_does_not_end_in_a_line_break(request_type: type) -> None:
    """`$` alone matches before a last line break, too."""
    for path, kind in texts(inspect.type_info(request_type), request_type.__name__):
        if kind.pattern in (None, NO_NUL):
            continue
        fitting = [text for text in ("a", "a-b", "0" * 64) if re.search(kind.pattern, text)]
        assert fitting, f"{path}: this test has no example for {kind.pattern}"
        assert [text for text in fitting if re.search(kind.pattern, text + "\n")] == [], path


STORED = {"challenges", "submissions", "accounts", "leaderboard"}
"""Modules that have a database: in PostgreSQL a text cannot have a NUL."""
NOT_STORED = {
    *("SignUp.password", "SignIn.password", "ChangePassword.old", "ChangePassword.new"),
    *("RefreshSession.refresh_token", "SignOut.refresh_token", "SignIn.device_token"),
}
"""Only what is computed from these is kept or searched for."""


@pytest.mark.parametrize("contract", [each for each in CONTRACTS if each.name in STORED], ids=lambda each: each.name)
def test_no_text_that_is_stored_or_searched_for_takes_a_nul(contract: Contract) -> None:
    taking = [
        path
        for request in (*contract.commands, *contract.queries)
        if request.public
        for path, kind in texts(inspect.type_info(request), request.__name__)
        if kind.pattern is None
    ]
    assert [path for path in taking if path not in NOT_STORED] == []
