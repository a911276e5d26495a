"""`fissile topics apply`: makes the topics that the application needs, and lets them keep records as it declares."""

from __future__ import annotations

from typing import Literal

from msgspec import structs

from fissile._application import Application
from fissile._clock import SystemClock
from fissile.abc import TopicSpec
from fissile.cli._context import Context, Whole
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._kafka_view import look
from fissile.cli._plan import change_as_data, find_changes
from fissile.cli._serve import run_async
from fissile.cli._topology import Topology
from fissile.transports import open_transport


def topics(
    action: Literal["apply"],
    /,
    *,
    placement: str | None = None,
    context: Context,
) -> Exit:
    """Make the topics that the application needs and that the broker lacks, as `fissile plan` lists them, and change how others keep records.

    Of topics that are there, what they keep and for how long becomes what the application declares: a shorter retention deletes records.
    Where one has another number of partitions nothing is done at all. Processes make topics too when they start, and change none: this is for
    those that may not, and for doing it before.

    Args:
        action: What to do.
        placement: The placement; the one that the settings name unless told.
        context: What all commands are given.
    """
    del action  # there is one
    application = context.application({"FISSILE_PLACEMENT": placement})
    topology = Topology.read(Whole.read(application).require())
    if application.settings.bus.startswith("sqlite:"):
        make_topics(application, topology.topics)
        if context.as_json:
            context.output.json({"created": [], "altered": []})
        else:
            context.output.say(
                "Nothing to decide: all topics are in the file; processes make and change them by themselves."
            )
        return Exit.OK
    changes = find_changes(application, topology)
    if changes.differ:
        lines = [f"{spec.name} has {found} partitions, not {spec.partitions}" for spec, found in changes.differ]
        raise CommandFailed(
            "Nothing was made or changed: topics are there with another number of partitions.",
            *lines,
            "A changed number would send a key to another partition, and break its order. Set FISSILE_PARTITIONS (or "
            "FISSILE_REPLY_PARTITIONS) back, or let the application drain and move to new topics: FISSILE_KAFKA_PREFIX.",
            code=Exit.INVALID,
        )
    make_topics(application, changes.create)
    if changes.alter:
        look(application, lambda view: view.alter(changes.alter), "topics")
    if context.as_json:
        altered = [{"topic": each.topic, **change_as_data(each)} for each in changes.alter]
        created = [{"topic": spec.name, **_numbers(spec)} for spec in changes.create]
        context.output.json({"created": created, "altered": altered})
        return Exit.OK
    for spec in changes.create:
        context.output.data(f"made {spec.name} with {spec.partitions} partition{'s' if spec.partitions > 1 else ''}")
    for change in changes.alter:
        context.output.data(f"changed {change.topic}: {change.name} is {change.wanted}, was {change.found}")
    if not changes:
        context.output.say("Nothing to do: all topics are there.")
    return Exit.OK


def _numbers(spec: TopicSpec) -> dict[str, float]:
    return {"partitions": spec.partitions, "retention_s": spec.retention_s, "is_compacted": spec.is_compacted}


def make_topics(application: Application, specs: tuple[TopicSpec, ...]) -> None:
    """Make topics, through the transport, as processes do when they start.

    Args:
        application: Its settings name the broker.
        specs: The topics, by their names on the broker.
    """
    prefix = application.settings.kafka_prefix
    own = [structs.replace(spec, name=spec.name.removeprefix(prefix)) for spec in specs]
    if own:
        run_async(_make, application.settings, application, own)


async def _make(application: Application, specs: list[TopicSpec]) -> None:
    async with open_transport(application.settings, SystemClock(), f"{application.name}.cli") as transport:
        await transport.ensure(specs)
