"""`fissile plan`: what a placement means, and what would change on the broker."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf

from attrs import asdict, frozen

from fissile._application import Application
from fissile._placement import MONOLITH, read_placements
from fissile.abc import TopicSpec
from fissile.cli._context import Context, Whole
from fissile.cli._exit import Exit
from fissile.cli._kafka_view import KafkaView, has_broker, look
from fissile.cli._output import without_password
from fissile.cli._table import show_table
from fissile.cli._topology import Topology
from fissile.transports._kafka_configs import Difference

_DAY_S = 86_400.0


@frozen
class Changes:
    """What the broker lacks.

    Attributes:
        create: The topics that are not there.
        differ: The topics with another number of partitions, and what they have.
        alter: What topics that are there have set otherwise, such as how long they keep records.
    """

    create: tuple[TopicSpec, ...]
    differ: tuple[tuple[TopicSpec, int], ...]
    alter: tuple[Difference, ...] = ()

    def __len__(self) -> int:
        return len(self.create) + len(self.differ) + len({each.topic for each in self.alter})

    def state(self, spec: TopicSpec) -> State:
        """Return how a topic is."""
        return State(
            spec in self.create,
            next((found for differing, found in self.differ if differing == spec), None),
            tuple(each for each in self.alter if each.topic == spec.name),
        )


@frozen
class State:
    """How a topic is on the broker.

    Attributes:
        is_missing: Whether it is not there.
        found: How many partitions it has, where that is another number.
        alter: What it has set otherwise.
    """

    is_missing: bool
    found: int | None
    alter: Sequence[Difference]

    @property
    def word(self) -> str:
        """One word for it."""
        if self.is_missing:
            return "missing"
        return "differs" if self.found is not None else "outdated" if self.alter else "there"

    def text(self, spec: TopicSpec) -> str:
        """What the table says."""
        if self.is_missing:
            return "+ to be made"
        if self.found is not None:
            return f"! has {self.found} partitions, not {spec.partitions}"
        return f"~ {', '.join(map(str, self.alter))}" if self.alter else "there"


def plan(
    *,
    placement: str | None = None,
    context: Context,
) -> Exit:
    """Show which module runs in which process, what that needs on the broker, and which calls cross a process boundary.

    Calls are found in the text of the files, as `fissile graph` does, and in the gateway's routes. Exits with 10 when topics are to be made or
    differ; `fissile topics apply` makes and changes them. Nothing is changed here.

    Args:
        placement: The placement; the one that the settings name unless told.
        context: What all commands are given.
    """
    application = context.application({"FISSILE_PLACEMENT": placement})
    topology = Topology.read(Whole.read(application).require())
    changes = find_changes(application, topology) if has_broker(application) else None
    if context.as_json:
        context.output.json(_as_data(application, topology, changes))
    else:
        _show(context, application, topology, changes)
    return Exit.PENDING if changes else Exit.OK


def find_changes(application: Application, topology: Topology) -> Changes:
    """Compare what is needed with what is on the broker.

    Raises:
        CommandFailed: The bus is no broker, or it does not answer.
    """

    async def ask(view: KafkaView) -> tuple[dict[str, int], tuple[Difference, ...]]:
        found = await view.topics([spec.name for spec in topology.topics])
        return found, await view.differences(spec for spec in topology.topics if spec.name in found)

    found, alter = look(application, ask, "topics")
    return Changes(
        tuple(spec for spec in topology.topics if spec.name not in found),
        tuple(
            (spec, found[spec.name])
            for spec in topology.topics
            if found.get(spec.name, spec.partitions) != spec.partitions
        ),
        alter,
    )


def _topic_as_data(spec: TopicSpec, state: State | None) -> dict[str, object]:
    return {
        "topic": spec.name,
        "partitions": spec.partitions,
        "retention_s": spec.retention_s,
        "is_compacted": spec.is_compacted,
        "state": None if state is None else state.word,
        "found_partitions": None if state is None else state.found,
        "alter": [] if state is None else [change_as_data(each) for each in state.alter],
    }


def change_as_data(change: Difference) -> dict[str, str]:
    """Return what is to be changed of a topic, without its name."""
    return {"name": change.name, "found": change.found, "wanted": change.wanted}


def _as_data(application: Application, topology: Topology, changes: Changes | None) -> dict[str, object]:
    return {
        "application": application.name,
        "placement": topology.placement,
        "bus": without_password(application.settings.bus),
        "processes": [{"process": name, "modules": modules} for name, modules in topology.processes.items()],
        "topics": [_topic_as_data(spec, None if changes is None else changes.state(spec)) for spec in topology.topics],
        "groups": [asdict(group) for group in topology.groups],
        "remote_calls": [asdict(call) for call in topology.remote_calls],
        "changes": None if changes is None else len(changes),
    }


def _show(context: Context, application: Application, topology: Topology, changes: Changes | None) -> None:
    output = context.output
    bus = without_password(application.settings.bus)
    output.data(f"Placement {topology.placement} of {application.name}, bus {bus}\n")
    rows = [{"process": process, "modules": modules} for process, modules in topology.processes.items()]
    show_table(output, rows, ("process", "modules"))
    output.data("\nCalls that cross a process boundary:")
    calls = [
        {
            "caller": call.source,
            "message": call.name,
            "kind": call.kind,
            "processes": f"{call.source_process} → {call.target_process}",
            "where": call.places,
        }
        for call in topology.remote_calls
    ]
    if calls:
        show_table(output, calls, ("caller", "message", "kind", "processes", "where"))
    else:
        output.data("none")
    output.data("\nConsumer groups:")
    groups = [asdict(group) for group in topology.groups]
    show_table(output, groups, ("group", "process", "topics"))
    output.data("\nTopics:")
    topics = [
        {
            "topic": spec.name,
            "partitions": spec.partitions,
            "kept": "last of each key" if spec.is_compacted else _period(spec.retention_s),
            "on_the_broker": "-" if changes is None else changes.state(spec).text(spec),
        }
        for spec in topology.topics
    ]
    show_table(output, topics, ("topic", "partitions", "kept", "on_the_broker"))
    _conclude(context, application, changes)


def _period(seconds: float) -> str:
    if isinf(seconds):
        return "for ever"
    return f"{seconds / _DAY_S:.3g} days" if seconds > _DAY_S else f"{seconds / 3600:.3g} h"


def _conclude(context: Context, application: Application, changes: Changes | None) -> None:
    output = context.output
    output.say()
    if changes is None:
        if application.settings.bus.startswith("sqlite:"):
            output.say("The log is a file, whose topics the processes make and change by themselves.")
        else:
            output.say("There is no broker to compare with: set FISSILE_BUS=kafka://host:port.")
    elif not changes:
        output.say("No changes are pending.")
    else:
        count = "1 change is" if len(changes) == 1 else f"{len(changes)} changes are"
        verbs = " and ".join(verb for verb, them in (("makes", changes.create), ("changes", changes.alter)) if them)
        cure = f"`fissile topics apply` {verbs} the topics" if verbs else ""
        if changes.differ:
            cure += "; " if cure else ""
            cure += "a number of partitions is not changed: set FISSILE_PARTITIONS back, or move to new topics (FISSILE_KAFKA_PREFIX)"
        output.say(f"{count} pending: {cure}.")
    others = [name for name in read_placements(application.table, ()) if name != MONOLITH]
    if application.settings.placement == MONOLITH and others:
        output.say(f"This is everything in one process. Other placements: --placement {', --placement '.join(others)}.")
