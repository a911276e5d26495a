"""Looks at a Kafka broker from outside: topics, groups, members, offsets. It joins nothing, makes nothing and commits nothing.

For commands only, and on asyncio always: aiokafka runs on nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import anyio
from attrs import define, evolve, frozen

from fissile._application import Application
from fissile._errors import Unavailable
from fissile.abc import Partition, TopicSpec
from fissile.cli._exit import CommandFailed, Exit
from fissile.cli._output import without_password
from fissile.transports._kafka_configs import Difference, alter, describe, differences
from fissile.transports._kafka_library import (
    kafka_error,
    library,
    partition_of,
    patiently,
    security_context,
    up,
    within,
)
from fissile.transports._kafka_options import Options, options_of

T = TypeVar("T")

_START_S, _ANSWER_S = 10.0, 20.0
_UNKNOWN = -1


@frozen
class MemberFound:
    """A member of a consumer group.

    Attributes:
        group: The group.
        member: Its id, which the broker gave it.
        client: What it calls itself.
        host: Where it is.
        partitions: What it holds; None if the broker does not tell.
    """

    group: str
    member: str
    client: str
    host: str
    partitions: tuple[Partition, ...] | None


@define(eq=False)
class KafkaView:
    """A connection that looks. Any: aiokafka has no types."""

    admin: Any
    consumer: Any
    options: Options

    async def topics(self, names: Collection[str]) -> dict[str, int]:
        """Return how many partitions each topic has that is there."""
        # aiokafka's own `describe_topics` lets the broker make what it is asked for.
        request = library("aiokafka.protocol.metadata").MetadataRequest(list(names), allow_auto_topic_creation=False)
        response: dict[str, Any] = (await self.admin._send_request(request)).to_object()
        return {each["topic"]: len(each["partitions"]) for each in response["topics"] if each["partitions"]}

    async def differences(self, specs: Iterable[TopicSpec]) -> tuple[Difference, ...]:
        """Return in what topics that are there are kept otherwise than they should be; nothing where the broker does not tell."""
        by_name = {spec.name: spec for spec in specs}
        found = await describe(self.admin, by_name)
        return tuple(
            each
            for name, spec in by_name.items()
            if name in found
            for each in differences(name, spec, found[name], self.options)
        )

    async def alter(self, changes: Collection[Difference]) -> None:
        """Change the configuration of topics: the only thing that is ever changed here, and only by `fissile topics apply`."""
        await alter(self.admin, changes)

    async def members(self, groups: Iterable[str]) -> list[MemberFound]:
        """Return the members of groups; a group that is not there has none."""
        found: list[MemberFound] = []
        for group in groups:
            for response in await self.admin.describe_consumer_groups([group]):
                for described in response.to_object()["groups"]:
                    error: type[Exception] = library("aiokafka.errors").for_code(described["error_code"])
                    if getattr(error, "retriable", False):
                        raise error(group)
                    for one in described["members"]:
                        held = _assigned(one["member_assignment"])
                        host = str(one["client_host"]).lstrip("/")
                        found.append(MemberFound(group, one["member_id"], one["client_id"], host, held))
        return found

    async def committed(self, group: str, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return the offsets that a group has committed; nothing for partitions where it has not."""
        wanted = [partition_of(*each) for each in partitions]
        if not wanted:
            return {}
        found = await self.admin.list_consumer_group_offsets(group, partitions=wanted)
        return {(each.topic, each.partition): told.offset for each, told in found.items() if told.offset != _UNKNOWN}

    async def bounds(self, partitions: Iterable[Partition]) -> tuple[dict[Partition, int], dict[Partition, int]]:
        """Return the first offset kept and the next one to come, per partition."""
        wanted = [partition_of(*each) for each in partitions]
        if not wanted:
            return {}, {}
        begins = await self.consumer.beginning_offsets(wanted)
        ends = await self.consumer.end_offsets(wanted)
        return (
            {(each.topic, each.partition): offset for each, offset in begins.items()},
            {(each.topic, each.partition): offset for each, offset in ends.items()},
        )


def _assigned(data: bytes) -> tuple[Partition, ...] | None:
    if not data:
        return ()
    try:
        decoded = library("aiokafka.coordinator.protocol").ConsumerProtocolMemberAssignment.decode(data)
    except (ValueError, IndexError, TypeError):
        return None
    return tuple((topic, number) for topic, numbers in decoded.assignment for number in sorted(numbers))


def has_broker(application: Application) -> bool:
    """Tell whether there is a broker that can be asked."""
    return application.settings.bus.startswith("kafka:")


def look(application: Application, ask: Callable[[KafkaView], Awaitable[T]], what: str) -> T:
    """Connect, ask, disconnect.

    Args:
        application: Its settings name the broker.
        ask: What to find out; again where the broker could not tell yet.
        what: What the command shows, for the error.

    Raises:
        CommandFailed: The bus is no broker.
        StartupFailed: The settings have faults.
        Unavailable: The broker does not answer.
    """
    if not has_broker(application):
        raise nothing_to_ask(application, what)
    options = evolve(options_of(application.settings), client_id=f"{application.name}.cli")

    async def run() -> T:
        async with _connected(options, application) as view:
            # The first that asks a new cluster for a group, for one, waits until it can keep groups.
            return await patiently(_ANSWER_S, "Kafka cannot tell", lambda: _awaited(ask(view)))

    return anyio.run(run)


async def _awaited(value: Awaitable[T]) -> T:
    return await value


def nothing_to_ask(application: Application, what: str) -> CommandFailed:
    """Return the error of a command that needs a broker where there is none."""
    bus = without_password(application.settings.bus)
    return CommandFailed(
        f"There are no {what} to ask for: the bus is {bus}, and lives in the process that uses it.",
        "`fissile dev --split` starts the processes on a broker and names its bus; pass that on: FISSILE_BUS=kafka://host:port.",
        code=Exit.NOTHING_THERE,
    )


@asynccontextmanager
async def _connected(options: Options, application: Application) -> AsyncGenerator[KafkaView]:
    arguments = {**options.client(), "ssl_context": security_context(options)}
    admin = library("aiokafka.admin").AIOKafkaAdminClient(**arguments)
    consumer = library().AIOKafkaConsumer(**arguments, enable_auto_commit=False)
    try:
        try:
            await within(_START_S, "Kafka cannot be reached", up(admin._client, admin.start(), _START_S))
            await within(_START_S, "Kafka cannot be reached", up(consumer._client, consumer.start(), _START_S))
        except Unavailable as error:
            bus = without_password(application.settings.bus)
            problem = None if options.tokens is None else options.tokens.problem
            raise CommandFailed(
                f"{error} {problem or ''}".rstrip(),
                f"FISSILE_BUS is {bus}. Is Kafka running there?",
                code=Exit.UNAVAILABLE,
            ) from None
        yield KafkaView(admin, consumer, options)
    finally:
        for closing in (consumer.stop(), admin.close()):
            with suppress(Unavailable, kafka_error(), OSError):
                await within(1.0, "The connections do not close", closing)
