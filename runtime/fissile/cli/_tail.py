"""`fissile tail`: the events of topics as they come, one a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import anyio
from attrs import frozen
from cyclopts import Parameter

from fissile._application import Application
from fissile._build import topic_specs
from fissile._check import Catalog, check_contracts
from fissile._clock import SystemClock
from fissile._codec import Codec
from fissile._contract import Topic
from fissile._errors import Fault, PositionLost, StartupFailed
from fissile._garbage import collect_less
from fissile._logging import leaves
from fissile._partitioner import partition_of
from fissile._tap import Position, Tap, Tapped, parse_position
from fissile.abc import Partition, Reader, Start, TopicSpec, Transport
from fissile.cli._call import plain
from fissile.cli._context import Context
from fissile.cli._errors import did_you_mean
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._in_time import InTime
from fissile.cli._output import Output, encode_json
from fissile.cli._serve import run_async
from fissile.cli._signals import StopSignals
from fissile.cli._view import look, require_shared
from fissile.transports import open_transport


@frozen
class _Tail:
    """What is shown, and how."""

    application: Application
    catalog: Catalog
    specs: tuple[TopicSpec, ...]
    key: str | None
    start: str
    show: Callable[[Topic[Any], Tapped[Any]], None]


def tail(
    *topic: str,
    key: str | None = None,
    start: Annotated[str, Parameter(name="--from")] = "latest",
    context: Context,
) -> Exit:
    """Show the events of topics as they come: time, name, key and body, one event a line. Ctrl-C ends it.

    It reads without a consumer group and commits nothing, so no module notices. With --json each line is an object with the position after
    it; given to --from, a later tail goes on there. Events of equal key come in their order. What was stored before comes in the order of
    time, what follows as it is read. Requests and dead letters are no events, and not shown.

    Args:
        topic: The topics, such as `orders.placed`; all of the application unless told.
        key: Only events of this key.
        start: earliest (what is kept), latest (from now on), or the position that an event of one topic told.
        context: What all commands are given.
    """
    application = context.application()
    require_shared(application, "events of running processes")
    faults: list[Fault] = []
    contracts = application.import_contracts(faults)
    catalog = check_contracts(contracts.values(), faults)
    if faults:
        raise StartupFailed(tuple(faults))
    names = _chosen(catalog, topic)
    if start not in ("earliest", "latest"):
        _check_position(start, names)
    specs = tuple(spec for spec in topic_specs(catalog, application.settings) if spec.name in names)
    _require_topics(application, specs)
    shown = _Tail(application, catalog, specs, key, start, partial(_show, context.output, as_json=context.as_json))
    with StopSignals() as signals:
        if not context.as_json:
            context.output.say(f"{', '.join(names)} from {start}; Ctrl-C ends it")
        collect_less()
        try:
            run_async(_follow, application.settings, shown, signals)
        except BaseExceptionGroup as error:
            raise leaves(error)[0] from None
    return Exit.OK


def _chosen(catalog: Catalog, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the topics to show.

    Raises:
        CommandFailed: There is none of that name.
    """
    for name in wanted:
        if name not in catalog.topics:
            known = ", ".join(catalog.topics) or "none"
            raise CommandFailed(
                f"There is no topic {name!r}.",
                *did_you_mean(name, catalog.topics),
                f"Topics: {known}.",
                code=Exit.UNKNOWN_NAME,
            )
    names = tuple(dict.fromkeys(wanted)) or tuple(catalog.topics)
    if not names:
        raise CommandFailed("No module of this application declares a topic.", code=Exit.UNKNOWN_NAME)
    return names


def _check_position(start: str, names: Sequence[str]) -> None:
    try:
        parse_position(start)
    except PositionLost:
        raise CommandFailed(
            f"--from {start}: it is neither earliest nor latest nor a position.",
            "A position is what an event of `fissile tail --json` told, such as 0:17.1:4.",
            code=Exit.USAGE,
        ) from None
    if len(names) != 1:
        raise CommandFailed("A position belongs to one topic.", "Name that one.", code=Exit.USAGE)


def _require_topics(application: Application, specs: Sequence[TopicSpec]) -> None:
    """Refuse to wait for topics that are not there: a tail makes none.

    Raises:
        CommandFailed: Some are not.
    """
    prefix = application.settings.kafka_prefix
    found = look(application, lambda view: view.topics([prefix + spec.name for spec in specs]), "events")
    missing = [spec.name for spec in specs if prefix + spec.name not in found]
    if missing:
        raise CommandFailed(
            f"In the log there is no topic {', '.join(missing)}: nothing has run there yet.",
            "`fissile topics apply`, or starting the processes, makes it.",
            code=Exit.NOTHING_THERE,
        )


async def _follow(shown: _Tail, signals: StopSignals) -> None:
    with anyio.CancelScope() as scope, signals.listening(lambda _: scope.cancel()):
        async with open_transport(
            shown.application.settings, SystemClock(), f"{shown.application.name}.cli"
        ) as transport:
            await transport.ensure(shown.specs)  # they are there: it learns of them
            await _follow_all(shown, transport)


async def _follow_all(shown: _Tail, transport: Transport) -> None:
    partitions = [place for spec in shown.specs for place in _partitions(shown, spec)]
    async with transport.read(partitions, _start_of(shown.start, shown.specs[0].name)) as found:
        reader = InTime(found)
        taps = {spec.name: _tap(shown, spec, reader) for spec in shown.specs}
        while True:
            for record in await reader.receive():
                tap = taps[record.topic]
                tapped = tap._take(record)
                if tapped is not None:
                    shown.show(tap.topic, tapped)


def _partitions(shown: _Tail, spec: TopicSpec) -> list[Partition]:
    numbers = range(spec.partitions) if shown.key is None else [partition_of(shown.key.encode(), spec.partitions)]
    return [(spec.name, number) for number in numbers]


def _tap(shown: _Tail, spec: TopicSpec, reader: Reader) -> Tap[Any]:
    settings, topic = shown.application.settings, shown.catalog.topics[spec.name]
    names = {shown.catalog.name_of(event): event for event in topic.events}
    codecs: dict[str, Codec[Any]] = {
        name: Codec(name, event, settings.wire, settings.max_message_bytes) for name, event in names.items()
    }
    begins = {number: at for (name, number), at in reader.begins.items() if name == spec.name}
    return Tap(topic, reader, codecs, begins, shown.key)


def _start_of(start: Position, topic: str) -> Start | dict[Partition, int]:
    if start in ("earliest", "latest"):
        return "earliest" if start == "earliest" else "latest"
    return {(topic, number): offset for number, offset in parse_position(start).items()}


def _show(output: Output, topic: Topic[Any], tapped: Tapped[Any], *, as_json: bool) -> None:
    moment = datetime.fromtimestamp(tapped.timestamp_ms / 1000, UTC)
    body = plain(tapped.event)
    if as_json:
        line = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "topic": topic.name,
            "name": tapped.name,
            "id": tapped.id,
            "key": tapped.key,
            "position": tapped.position,
            "event": body,
        }
        output.data(encode_json(line, indent=False))
        return
    when = moment.astimezone().strftime("%H:%M:%S.%f")[:-3]
    output.data(f"{when}  {tapped.name}  {tapped.key or '-'}  {encode_json(body, indent=False)}")
