"""What a placement means on the broker: its processes, topics and consumer groups, and the calls that cross a process boundary."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen
from msgspec import structs

from fissile._application import Application
from fissile._build import requests_topic, topic_specs
from fissile._check import check_contracts
from fissile._errors import Fault, StartupFailed
from fissile._module import Module
from fissile._placement import GATEWAY, Placement, placement_faults, read_placements
from fissile.abc import TopicSpec
from fissile.cli._context import Whole
from fissile.cli._edges import find_edges

OUTSIDE = "(outside)"


@frozen
class Group:
    """A consumer group: one per module.

    Attributes:
        group: Its name on the broker.
        module: The module.
        process: The process that hosts it; its replicas share the partitions.
        topics: The topics that it reads, by their names on the broker.
    """

    group: str
    module: str
    process: str
    topics: tuple[str, ...]


@frozen
class Call:
    """A call that one module makes of another.

    Attributes:
        source: The module that calls.
        source_process: Where that runs.
        target: The module that is called.
        target_process: Where that runs.
        kind: `command` or `query`.
        name: The message's name.
        places: Where in the files, as `file:line`.
    """

    source: str
    source_process: str
    target: str
    target_process: str
    kind: str
    name: str
    places: tuple[str, ...]


@frozen
class Topology:
    """What a placement means on the broker.

    Attributes:
        placement: The placement's name.
        processes: Its processes with their modules.
        topics: The topics, by their names on the broker.
        groups: The consumer groups.
        remote_calls: The calls that cross a process boundary.
    """

    placement: str
    processes: Placement
    topics: tuple[TopicSpec, ...]
    groups: tuple[Group, ...]
    remote_calls: tuple[Call, ...]

    @classmethod
    def read(cls, whole: Whole) -> Topology:
        """Read it from the placement that the settings name, and from what the modules declare.

        Raises:
            StartupFailed: The placement or the contracts have faults.
        """
        application, settings = whole.application, whole.application.settings
        processes = _placement(application, tuple(whole.modules))
        faults: list[Fault] = []
        catalog = check_contracts([module.contract for module in whole.modules.values()], faults)
        if faults:
            raise StartupFailed(tuple(faults))
        prefix = settings.kafka_prefix
        specs = topic_specs(catalog, settings)
        topics = tuple(structs.replace(each, name=prefix + each.name) for each in specs)
        hosts = {module: process for process, hosted in processes.items() for module in hosted}
        groups = tuple(
            Group(prefix + name, name, hosts[name], tuple(prefix + topic for topic in read))
            for name, module in whole.modules.items()
            if (read := topics_read(module))
        )
        return cls(settings.placement, processes, topics, groups, tuple(_remote_calls(whole, hosts)))


def topics_read(module: Module) -> tuple[str, ...]:
    """Return the topics that a module's consumer group reads, by their names in the application."""
    contract = module.contract
    is_read = contract.commands or contract.queries or module.subscriptions
    requests = (requests_topic(module.name),) if is_read else ()  # without messages of its own: retries of dead letters
    return (*requests, *dict.fromkeys(each.topic.name for each in module.subscriptions))


def _placement(application: Application, modules: tuple[str, ...]) -> Placement:
    """Return the placement that the settings name, whether or not the bus is shared: it is looked at, not run."""
    names = (*(name for name in modules if name != GATEWAY), GATEWAY)
    placements = read_placements(application.table, names)
    faults = placement_faults(application.settings.placement, placements, names, application.file, log_is_shared=True)
    found = tuple(faults)
    if found:
        raise StartupFailed(found)
    return placements[application.settings.placement]


def _remote_calls(whole: Whole, hosts: dict[str, str]) -> Iterator[Call]:
    """Yield the calls of the files, and those of the gateway's routes, where caller and callee are in different processes."""
    seen: set[tuple[str, str]] = set()
    for edge in find_edges(whole):
        source = hosts.get(edge.source, OUTSIDE)
        if edge.kind != "event" and source != hosts[edge.target]:
            seen.add((edge.source, edge.name))
            yield Call(edge.source, source, edge.target, hosts[edge.target], edge.kind, edge.name, edge.places)
    for name, module in whole.own.items():
        contract = module.contract
        for cls in (*contract.commands, *contract.queries):
            message = contract.name_of(cls)
            if cls.public and hosts[GATEWAY] != hosts[name] and (GATEWAY, message) not in seen:
                kind = "command" if cls in contract.commands else "query"
                yield Call(GATEWAY, hosts[GATEWAY], name, hosts[name], kind, message, ("a route of the contract",))
