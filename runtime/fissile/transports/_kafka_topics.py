"""The topics: made where they are missing, checked where they are there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fissile._errors import Fault, StartupFailed, Unavailable
from fissile.abc import TopicSpec
from fissile.transports._kafka_configs import LIMIT, configs_of, describe, differences
from fissile.transports._kafka_library import Clients, kafka_error, library, within
from fissile.transports._kafka_options import Options

if TYPE_CHECKING:
    import ssl

_logger = logging.getLogger("fissile.kafka")

_COPIES = 3
_ALREADY_EXISTS = 36
_VISIBLE_S = 10.0
"""How long a new topic may take until all its partitions have a leader, in seconds."""


class Admin:
    """A client that makes and describes topics."""

    def __init__(self, options: Options, context: ssl.SSLContext | None) -> None:
        # Any: the library has no types
        self.raw: Any = library("aiokafka.admin").AIOKafkaAdminClient(**options.client(), ssl_context=context)

    @property
    def network(self) -> Any:  # Any: the library has no types
        """What of aiokafka has its connections to brokers."""
        return self.raw._client

    async def stop(self, seconds: float) -> None:
        """Disconnect, within a bound. Raises nothing."""
        with suppress(Exception):  # there is nothing left to try
            await within(seconds, "The connections do not close", self.raw.close())


async def ensure(
    specs: Sequence[TopicSpec], options: Options, context: ssl.SSLContext | None, clients: Clients
) -> None:
    """Create the topics that do not exist, and check those that do.

    Raises:
        StartupFailed: Topics are there and cannot be used, or cannot be made; all of them are named.
        KafkaError: The broker cannot be asked.
    """
    client = Admin(options, context)
    admin = client.raw
    await clients.start(client, options.request_s, admin.start())
    try:
        by_name = {options.prefix + spec.name: spec for spec in specs}
        found = await _described(admin, by_name)
        missing = {name: spec for name, spec in by_name.items() if name not in found}
        if missing:
            await _create(admin, missing, options)
            found = await _until_visible(admin, by_name)
        faults = [
            Fault(
                f"The topic {name} has {found[name]} partitions, not {spec.partitions}.",
                "FISSILE_PARTITIONS",
                "Set it back; changing a count would break the order per key.",
            )
            for name, spec in by_name.items()
            if found[name] != spec.partitions
        ]
        faults += await _configured(admin, {name: by_name[name] for name in by_name.keys() - missing.keys()}, options)
        if faults:
            raise StartupFailed(tuple(faults))
    finally:
        await clients.stop(client, 1.0)


async def find(
    names: Collection[str], options: Options, context: ssl.SSLContext | None, clients: Clients
) -> dict[str, int]:
    """Return the number of partitions of those topics that exist.

    Raises:
        KafkaError: The broker cannot be asked.
    """
    client = Admin(options, context)
    await clients.start(client, options.request_s, client.raw.start())
    try:
        found = await _described(client.raw, [options.prefix + name for name in names])
        return {name: found[options.prefix + name] for name in names if options.prefix + name in found}
    finally:
        await clients.stop(client, 1.0)


async def _described(admin: Any, names: Collection[str]) -> dict[str, int]:  # Any: the library has no types
    """Return the number of partitions of those topics that exist.

    Raises:
        LeaderNotAvailableError: One of them has no leader somewhere, and cannot be used yet.
        KafkaError: The broker cannot be asked.
    """
    # aiokafka's own `describe_topics` lets the broker make what it is asked for, with a number of partitions of its choice.
    request = library("aiokafka.protocol.metadata").MetadataRequest(list(names), allow_auto_topic_creation=False)
    response: Mapping[str, Any] = (await admin._send_request(request)).to_object()
    found: dict[str, int] = {}
    for topic in response["topics"]:
        partitions = topic["partitions"]
        if topic["error_code"]:
            continue
        if any(one["leader"] < 0 for one in partitions):
            raise kafka_error("LeaderNotAvailableError")(topic["topic"])
        found[topic["topic"]] = len(partitions)
    return found


async def _create(
    admin: Any, missing: Mapping[str, TopicSpec], options: Options
) -> None:  # Any: the library has no types
    brokers = len((await admin.describe_cluster())["brokers"])
    if not brokers:
        raise kafka_error("NoBrokersAvailable")("a broker answers, and says that there are none")
    await _controller_known(admin)
    copies = options.replication or min(_COPIES, brokers)
    topics: list[object] = []
    for name, spec in missing.items():
        configs = configs_of(spec, options)
        if copies >= _COPIES:
            # What is acknowledged is on two nodes: one may die at any moment.
            configs["min.insync.replicas"] = "2"
        topics.append(library("aiokafka.admin").NewTopic(name, spec.partitions, copies, topic_configs=configs))
    response = await admin.create_topics(topics)
    faults: list[Fault] = []
    for name, code, *reason in response.topic_errors:
        if code in (0, _ALREADY_EXISTS):  # another process was quicker
            continue
        error: type[Exception] = library("aiokafka.errors").for_code(code)
        why = f"{error.__name__}: {reason[0]}" if reason and reason[0] else error.__name__
        if getattr(error, "retriable", False):
            raise error(f"{name}: {why}")
        if error is kafka_error("InvalidReplicationFactorError") and copies <= brokers:
            # There were as many brokers a moment ago. One that Kafka has not heard of for a while takes no partitions until it has come back.
            raise kafka_error("NoBrokersAvailable")(f"{name}: {why}")
        faults.append(
            Fault(f"The topic {name} cannot be made: {why}.", "FISSILE_BUS", "Make it by hand, or change the setting.")
        )
    if faults:
        raise StartupFailed(tuple(faults))


async def _controller_known(admin: Any) -> None:  # Any: the library has no types
    """Know who makes topics: aiokafka asks once more, and fails with an AttributeError where nobody is."""
    if admin._client.cluster.controller is None:
        await admin._client.force_metadata_update()
        if admin._client.cluster.controller is None:
            raise kafka_error("NotControllerError")("there is no controller")


async def _until_visible(admin: Any, names: Collection[str]) -> dict[str, int]:  # Any: the library has no types
    try:
        async with asyncio.timeout(_VISIBLE_S):
            while True:
                with suppress(kafka_error("LeaderNotAvailableError")):
                    found = await _described(admin, names)
                    if len(found) == len(names):
                        return found
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise Unavailable(f"Topics have no leader {_VISIBLE_S:g} s after they were made.") from None


async def _configured(admin: Any, specs: Mapping[str, TopicSpec], options: Options) -> list[Fault]:  # Any: as above
    """Return the topics that take less than what this process may send, and warn of those that keep records otherwise than they should."""
    found = await describe(admin, specs.keys())
    faults: list[Fault] = []
    for name, configs in sorted(found.items()):
        for difference in differences(name, specs[name], configs, options):
            if difference.name == LIMIT:
                what = f"The topic {name} takes {difference.found} bytes at a time, and {difference.wanted} are needed"
                cure = f"`fissile topics apply`, or kafka-configs.sh --alter --topic {name} --add-config {LIMIT}={difference.wanted}."
                faults.append(Fault(f"{what} for FISSILE_MAX_MESSAGE_BYTES.", f"the topic's {LIMIT}", cure))
            else:
                _logger.warning(
                    "the topic %s is kept otherwise: %s; `fissile topics apply` changes it", name, difference
                )
    return faults
