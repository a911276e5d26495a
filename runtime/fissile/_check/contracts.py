"""The faults of contracts: types that cannot be sent, names that clash, events that no topic carries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

import attrs
import msgspec

from fissile._codec import check_decodable
from fissile._contract import Contract, Topic
from fissile._errors import Fault
from fissile._messages import Command, DeclaredError, Event, Request, fields_of, reply_type
from fissile._names import is_kebab_case, is_version, kebab_case, place, source_place
from fissile._signature import type_name
from fissile._types import class_problems, type_problems

_EVENT_SOURCE = "the browser's EventSource says by that name how its connection is"
STREAM_NAMES = {
    "lost": "that tells a client that it was too slow",
    "reset": "that tells a client that it begins anew",
    "end": "that tells a client that nothing more comes",
    "error": _EVENT_SOURCE,
    "open": _EVENT_SOURCE,
}
"""What an event cannot be called that clients read as server-sent events, and what the name means there."""


class Catalog(msgspec.Struct, frozen=True):
    """Everything that the contracts of an application declare, found by class or by name.

    Attributes:
        contracts: The contracts, by name.
        owners: The contract of each message and declared error.
        topics: The topics, by name.
        topic_of: The topic that carries each event.
        replies: The reply type of each command and query.
    """

    contracts: dict[str, Contract] = msgspec.field(default_factory=dict[str, Contract])
    owners: dict[type, Contract] = msgspec.field(default_factory=dict[type, Contract])
    topics: dict[str, Topic[Any]] = msgspec.field(default_factory=dict[str, Topic[Any]])
    topic_of: dict[type, Topic[Any]] = msgspec.field(default_factory=dict[type, Topic[Any]])
    replies: dict[type, Any] = msgspec.field(default_factory=dict[type, Any])  # Any: a type expression

    def name_of(self, message: type) -> str:
        """Return a message's name on the wire."""
        owner = self.owners.get(message)
        return owner.name_of(message) if owner is not None else kebab_case(message.__name__)


def check_contracts(contracts: Iterable[Contract], faults: list[Fault]) -> Catalog:
    """Read contracts, and note their faults."""
    catalog = Catalog()
    files: dict[tuple[str, bool], Contract] = {}
    for contract in contracts:
        where = place(*contract.place)
        if catalog.contracts.get(contract.name) is contract:
            continue
        if contract.name in catalog.contracts:
            other = place(*catalog.contracts[contract.name].place)
            faults.append(
                Fault(f"Two contracts are called {contract.name!r}; the other is in {other}.", where, "Rename one.")
            )
            continue
        if not is_kebab_case(contract.name):
            faults.append(
                Fault(
                    f"The contract's name {contract.name!r} is not in kebab-case.",
                    where,
                    "Write it like 'code-executor'.",
                )
            )
        if is_version(contract.base_name):
            what = f"The contract's name {contract.base_name!r} is that of a version, and would clash in the gateway's paths."
            faults.append(Fault(what, where, "Call it otherwise; a version is Contract(name, version=2)."))
        if contract.has_file_of_its_own:
            first = files.setdefault((contract.place[0], True), contract)
            if first is not contract:
                faults.append(
                    Fault(
                        f"The contracts {first.name!r} and {contract.name!r} are in one file, so it is open whose its messages are.",
                        where,
                        "Give each a file, or name the messages: Contract(name, messages=[...], topics=[...]).",
                    )
                )
                continue
        catalog.contracts[contract.name] = contract
        _check_classes(contract, catalog, faults)
    for contract in catalog.contracts.values():
        _check_topics(contract, catalog, faults)
    for contract in catalog.contracts.values():
        for event in contract.events:
            if event not in catalog.topic_of:
                faults.append(
                    Fault(
                        f"No topic carries the event {event.__name__}, so it could not be published.",
                        source_place(event),
                        f'Add it to a topic: Topic("{contract.name}.{kebab_case(event.__name__)}", {event.__name__}, key=...).',
                    )
                )
    return catalog


def _check_classes(contract: Contract, catalog: Catalog, faults: list[Fault]) -> None:
    names: dict[str, type] = {}
    for cls in (*contract.errors, *contract.commands, *contract.queries, *contract.events):
        problems = list(_class_problems(cls, contract, catalog, names))
        if problems:
            where = source_place(cls)  # it reads and parses the file, which takes milliseconds
            faults.extend(Fault(what[:1].upper() + what[1:], where, cure) for what, cure in problems)


def _class_problems(
    cls: type, contract: Contract, catalog: Catalog, names: dict[str, type]
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a class of a contract, and the cure."""
    owner = catalog.owners.setdefault(cls, contract)
    if owner is not contract:
        yield f"{cls.__name__} is in two contracts, {owner.name!r} and {contract.name!r}.", "Keep it in one."
        return
    name = kebab_case(cls.__name__)
    if names.setdefault(name, cls) is not cls:
        yield f"{names[name].__name__} and {cls.__name__} are both called {name!r} on the wire.", "Rename one."
    problems = list(class_problems(cls)) or _wire_problems(cls)
    yield from problems
    if issubclass(cls, Request):
        yield from _request_problems(cast("type[Request[Any]]", cls), catalog)  # type: ignore[redundant-cast]  # for pyright
    if issubclass(cls, Command) and not problems:
        yield from _key_problems(cast("type[Command[Any]]", cls))  # type: ignore[redundant-cast]  # likewise


def _wire_problems(annotation: Any) -> list[tuple[str, str]]:
    """Return what msgspec has against a type that is in the table: it cannot tell some members of a union apart."""
    name = annotation.__name__ if isinstance(annotation, type) else type_name(annotation)
    try:
        check_decodable(annotation)
    except TypeError as error:
        reason = str(error).partition(" - type ")
        what = f"{name}: {reason[2].partition(' is not')[0]} cannot be told apart on the wire: {reason[0][:1].lower()}{reason[0][1:]}."
        return [(what, "Use one of them, or one class with optional fields.")]
    return []


def _request_problems(cls: type[Request[Any]], catalog: Catalog) -> Iterator[tuple[str, str]]:
    for error in cls.declared_errors:
        if not (isinstance(error, type) and issubclass(error, DeclaredError) and attrs.has(error)):
            yield (
                f"{cls.__name__} names {error!r} in raises, which is no declared error.",
                "Derive it from DeclaredError and put @frozen above it.",
            )
    try:
        reply = catalog.replies[cls] = reply_type(cls)
    except (TypeError, NameError) as error:
        yield f"The reply type of {cls.__name__} cannot be read ({error}).", "Write Command[X] or Query[X]."
        return
    for what, cure in list(type_problems(reply)) or _wire_problems(reply):
        yield f"The reply of {cls.__name__}: {what}", cure


def _key_problems(cls: type[Command[Any]]) -> Iterator[tuple[str, str]]:
    key = cls.order_key
    if isinstance(key, str) and key not in {attribute.name for attribute in fields_of(cls)}:
        yield f"{cls.__name__} has no field {key!r}, which is its key.", "Name one of its fields, or pass a function."


def _check_topics(contract: Contract, catalog: Catalog, faults: list[Fault]) -> None:
    for topic in contract.topics:
        where = place(*topic.place)
        prefix, _, rest = topic.name.partition(".")
        if prefix != contract.name or not is_kebab_case(rest):
            faults.append(
                Fault(
                    f"The topic {topic.name!r} is not called after its contract.",
                    where,
                    f"Call it '{contract.name}.<name>'.",
                )
            )
        if catalog.topics.setdefault(topic.name, topic) is not topic:
            other = place(*catalog.topics[topic.name].place)
            faults.append(
                Fault(f"Two topics are called {topic.name!r}; the other is in {other}.", where, "Rename one.")
            )
        if rest in ("requests", "dead-letters"):
            faults.append(Fault(f"The name {topic.name!r} is taken by the runtime.", where, "Rename the topic."))
        if not topic.events:
            faults.append(Fault(f"The topic {topic.name} carries no events.", where, "Name the classes of its events."))
        faults.extend(_stream_faults(topic))
        for event in topic.events:
            if not (isinstance(event, type) and issubclass(event, Event)):
                faults.append(
                    Fault(f"The topic {topic.name} names {event!r}, which is no event.", where, "Derive it from Event.")
                )
            elif catalog.owners.get(event) is not contract:
                faults.append(
                    Fault(
                        f"The topic {topic.name} carries {event.__name__}, which is not of its contract.",
                        where,
                        "Define both in one file.",
                    )
                )
            elif catalog.topic_of.setdefault(event, topic) is not topic:
                faults.append(
                    Fault(
                        f"{event.__name__} is in two topics, {catalog.topic_of[event].name} and {topic.name}.",
                        where,
                        "Keep it in one; derive a second event where both are needed.",
                    )
                )


def _stream_faults(topic: Topic[Any]) -> Iterator[Fault]:
    """Yield a fault for each event of a public topic whose name means something else in a stream of the gateway's."""
    if not topic.public:
        return
    for event in topic.events:
        if isinstance(event, type) and (name := kebab_case(event.__name__)) in STREAM_NAMES:
            what = (
                f"The event {event.__name__} would be `event: {name}` in the gateway's stream of {topic.name}, "
                f"where {STREAM_NAMES[name]}."
            )
            cure = f"Rename it after what it happened to, such as Order{event.__name__}; or keep the topic from the gateway: public=False."
            yield Fault(what, source_place(event), cure)


def order_key(command: type) -> Any:
    """Return the function that gives a command's key, or None; a key that is named is read from its field."""
    key = getattr(command, "order_key", None)
    if isinstance(key, str):
        name = key

        def key_of_field(message: Any) -> str:
            return str(getattr(message, name))

        return key_of_field
    return key
