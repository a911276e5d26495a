"""Which module calls and subscribes to which: calls from the text of the files, subscriptions from the declarations.

A call is found where a file makes a message of another module's contract: `PlaceOrder(...)` or `orders.PlaceOrder(...)`. What is made in
other ways is not found; the graph says what the text shows.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import frozen

from fissile._contract import Contract
from fissile._messages import Request
from fissile._names import source_place
from fissile.cli._context import Whole
from fissile.cli._imports import Package, SourceFile, read_package, read_packages


@frozen
class Edge:
    """One thing that a module does with another.

    Attributes:
        source: The module that calls, or whose event it is.
        target: The module that is called, or that subscribes.
        kind: `command`, `query` or `event`.
        name: The message's or the topic's name.
        places: Where, as `file:line`.
    """

    source: str
    target: str
    kind: str
    name: str
    places: tuple[str, ...]


def find_edges(whole: Whole) -> tuple[Edge, ...]:
    """Return all edges of an application, sorted."""
    places: dict[tuple[str, str, str, str], list[str]] = {}
    for key, where in (*_calls(whole), *_subscriptions(whole)):
        places.setdefault(key, []).append(where)
    return tuple(Edge(*key, tuple(dict.fromkeys(found))) for key, found in sorted(places.items()))


_Found = tuple[tuple[str, str, str, str], str]


def _subscriptions(whole: Whole) -> Iterator[_Found]:
    owners = {topic: name for name, module in whole.own.items() for topic in module.contract.topics}
    for name, module in whole.own.items():
        for declaration in module.subscriptions:
            owner = owners.get(declaration.topic, declaration.topic.name.partition(".")[0])
            yield (owner, name, "event", declaration.topic.name), source_place(declaration.function)


def _calls(whole: Whole) -> Iterator[_Found]:
    contracts = {module.contract.import_name: module.contract for module in whole.own.values()}
    names = {contract.import_name: name for name, module in whole.own.items() for contract in [module.contract]}
    packages = list(read_packages(whole.application))
    gateway = read_package(whole.application.root, "gateway")
    for package in (*packages, *([gateway] if gateway is not None else [])):
        source = _module_of(package, names)
        for file in package.files:
            for contract, cls, line in _messages_made(file, contracts):
                if contract.name != source:
                    kind = "command" if cls in contract.commands else "query"
                    yield (source, contract.name, kind, contract.name_of(cls)), file.place(line)


def _module_of(package: Package, names: Mapping[str, str]) -> str:
    """Return the name of the module in a package."""
    return next((name for import_name, name in names.items() if package.holds(import_name)), package.import_name)


def _messages_made(
    file: SourceFile, contracts: Mapping[str, Contract]
) -> Iterator[tuple[Contract, type[Request[Any]], int]]:
    """Yield each command and query that a file makes, with its contract and line."""
    bound: dict[str, str] = {}  # what a name in the file stands for, as a dotted import name
    for found in file.imports():
        bound[found.bound] = found.target
    for node in ast.walk(file.tree) if file.tree is not None else ():
        if not isinstance(node, ast.Call):
            continue
        dotted = _dotted(node.func)
        head = next(
            (name for name in sorted(bound, key=len, reverse=True) if dotted == name or dotted.startswith(f"{name}.")),
            None,
        )
        if head is None:
            continue
        import_name, _, class_name = (bound[head] + dotted[len(head) :]).rpartition(".")
        contract = contracts.get(import_name)
        if contract is None:
            continue
        for cls in (*contract.commands, *contract.queries):
            if cls.__name__ == class_name:
                yield contract, cls, node.lineno


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""
