"""The configuration of topics: what they are made with, what those that are there have instead, and how that is changed.

It belongs in the loop (see `_kafka_bridge.py`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from attrs import frozen

from fissile._errors import Unavailable
from fissile.abc import TopicSpec
from fissile.transports._kafka_library import kafka_error, library
from fissile.transports._kafka_options import BATCH_BYTES, Options, milliseconds

_logger = logging.getLogger("fissile.kafka")

LIMIT = "max.message.bytes"
_POLICY = "cleanup.policy"
_STAMPED_BY_LOG = {"message.timestamp.type": "LogAppendTime"}
_CLEANING = {
    # Half of a log may be superseded by default, and the segment that is written to, for a week, is never looked at: what is read from the
    # beginning at each start would be many times longer than what counts (KIP-354).
    "min.cleanable.dirty.ratio": "0.1",
    "max.compaction.lag.ms": str(24 * 3600 * 1000),
}
_LONGEST_MS = 100 * 365 * 24 * 3600 * 1000
"""What stands for "for ever" where Kafka has no word for it; it adds it to the time."""
_SET = 0


@frozen
class Difference:
    """A topic has another configuration than it should have.

    Attributes:
        topic: Its name on the broker.
        name: Kafka's name of the setting.
        found: What it is.
        wanted: What it should be.
    """

    topic: str
    name: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.name} is {self.found}, not {self.wanted}"


def limit_of(options: Options) -> int:
    """Return the least that a topic has to take as a batch, in bytes."""
    return options.max_record_bytes + BATCH_BYTES


def retention_of(spec: TopicSpec) -> dict[str, str]:
    """Return what keeps a topic's records as long as is asked for, and no longer."""
    ms = -1 if math.isinf(spec.retention_s) else milliseconds(spec.retention_s)
    if spec.is_compacted:
        return {_POLICY: "compact", "delete.retention.ms": str(_LONGEST_MS if ms < 0 else min(ms, _LONGEST_MS))}
    return {_POLICY: "delete", "retention.ms": str(ms)}


def configs_of(spec: TopicSpec, options: Options) -> dict[str, str]:
    """Return what a topic is made with."""
    return {
        LIMIT: str(limit_of(options)),
        **retention_of(spec),
        **(_CLEANING if spec.is_compacted else {}),
        **(_STAMPED_BY_LOG if spec.is_stamped_by_log else {}),
    }


def differences(name: str, spec: TopicSpec, found: Mapping[str, str], options: Options) -> tuple[Difference, ...]:
    """Return what is to be changed of a topic that is there; nothing where the broker does not tell what it has."""
    asked = {**retention_of(spec), **(_STAMPED_BY_LOG if spec.is_stamped_by_log else {})}
    wanted = {key: value for key, value in asked.items() if found.get(key, value) != value}
    if LIMIT in found and int(found[LIMIT]) < limit_of(options):
        wanted[LIMIT] = str(limit_of(options))
    if wanted.get(_POLICY) == "compact":
        wanted |= {key: value for key, value in _CLEANING.items() if found.get(key, value) != value}
    return tuple(Difference(name, key, found[key], value) for key, value in wanted.items())


async def describe(admin: Any, names: Collection[str]) -> dict[str, dict[str, str]]:  # Any: the library has no types
    """Return the configuration of topics that are there; nothing where the broker does not tell.

    Raises:
        KafkaError: The broker cannot be asked now.
    """
    if not names:
        return {}
    admins = library("aiokafka.admin.config_resource")
    wanted = dict.fromkeys((LIMIT, _POLICY, "retention.ms", "delete.retention.ms", *_CLEANING, *_STAMPED_BY_LOG))
    resources = [admins.ConfigResource(admins.ConfigResourceType.TOPIC, name, wanted) for name in sorted(names)]
    try:
        responses = await admin.describe_configs(resources)
    except kafka_error() as error:
        if getattr(error, "retriable", False):
            raise
        # Not every broker tells, and not everybody may ask; what it refuses is told then.
        _logger.debug("the configuration of topics cannot be read: %r", error)
        return {}
    found: dict[str, dict[str, str]] = {}
    for response in responses:
        for code, _, _, name, entries in response.resources:
            if not code:
                found[name] = {key: value for key, value, *_ in entries if value is not None}
    return found


async def alter(admin: Any, changes: Collection[Difference]) -> None:  # Any: the library has no types
    """Change the configuration of topics, and nothing else of it (KIP-339).

    Raises:
        Unavailable: The broker refuses it; all that it refuses is named.
        KafkaError: The broker cannot be asked.
    """
    by_topic: dict[str, list[tuple[str, int, str]]] = {}
    for change in changes:
        by_topic.setdefault(change.topic, []).append((change.name, _SET, change.wanted))
    kind = library("aiokafka.admin.config_resource").ConfigResourceType.TOPIC.value
    response = await admin._send_request(_request()([(kind, name, entries) for name, entries in by_topic.items()]))
    refused: list[str] = []
    for code, text, _, name in response.responses:
        error: type[Exception] = library("aiokafka.errors").for_code(code)
        if getattr(error, "retriable", False):
            raise error(f"{name}: {text or ''}")
        if code:
            refused.append(f"{name}: {error.__name__} {text or ''}".rstrip())
    if refused:
        raise Unavailable(f"Topics cannot be changed: {'; '.join(refused)}.")


@cache
def _request() -> Any:  # Any: the library has no types
    """Make the request that aiokafka lacks, IncrementalAlterConfigs; its own AlterConfigs would set all that it does not name to the default."""
    api, types = library("aiokafka.protocol.api"), library("aiokafka.protocol.types")
    text, nullable = types.String("utf-8"), types.String("utf-8")
    result = (("error_code", types.Int16), ("error_message", nullable), ("type", types.Int8), ("name", text))
    entry = (("name", text), ("operation", types.Int8), ("value", nullable))
    resource = (("type", types.Int8), ("name", text), ("configs", types.Array(*entry)))

    class Response(api.Response):  # type: ignore[misc, name-defined]  # as above
        API_KEY = 44
        API_VERSION = 0
        SCHEMA = types.Schema(("throttle_time_ms", types.Int32), ("responses", types.Array(*result)))

    class Struct(api.RequestStruct):  # type: ignore[misc, name-defined]
        API_KEY = 44
        API_VERSION = 0
        RESPONSE_TYPE = Response
        SCHEMA = types.Schema(("resources", types.Array(*resource)), ("validate_only", types.Boolean))

    class Request(api.Request[Struct]):  # type: ignore[misc, name-defined]
        API_KEY = 44

        def __init__(self, resources: list[tuple[int, str, list[tuple[str, int, str]]]]) -> None:
            self._resources = resources

        def build(self, request_struct_class: Any) -> Any:
            return request_struct_class(self._resources, False)  # noqa: FBT003 -- the library's

    return Request
