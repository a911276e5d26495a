"""Topics and names: made once, checked, found by others, and apart from those of other applications."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from fissile import StartupFailed
from fissile._errors import InvalidMessage, Unavailable
from fissile.abc import Outgoing, TopicSpec
from fissile.transports import _kafka_lanes
from fissile.transports.kafka import KafkaTransport
from tests.transports.helpers import all_of, assigned, kafka, numbers, opened, record, some


async def test_processes_that_start_at_once_make_a_topic_once(apache_kafka: str) -> None:
    async with kafka(apache_kafka) as first, kafka(apache_kafka, first.options.prefix) as second:
        async with anyio.create_task_group() as tasks:
            for transport in (first, second):
                tasks.start_soon(transport.ensure, [TopicSpec("t", 3, 3600.0), TopicSpec("u", 1, 3600.0)])
        await first.append([record(1)])
        assert numbers(await all_of(second, 3)) == [1]


async def test_all_faults_of_topics_are_told_together(apache_kafka: str) -> None:
    async with opened(apache_kafka) as transport:
        await transport.ensure([TopicSpec("u", 2, 3600.0)])
        with pytest.raises(StartupFailed) as caught:
            await transport.ensure([TopicSpec("t", 3, 3600.0), TopicSpec("u", 4, 3600.0)])
        assert len(caught.value.faults) == 2
        larger = kafka(apache_kafka, transport.options.prefix, max_message_bytes=8 * 1024 * 1024)
        async with larger:
            with pytest.raises(StartupFailed, match=r"max\.message\.bytes"):
                await larger.ensure([TopicSpec("t", 2, 3600.0)])


async def configs(transport: KafkaTransport, topic: str) -> dict[str, str]:
    """The configuration of a topic, as the broker says."""
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    async def ask() -> dict[str, str]:
        admin = AIOKafkaAdminClient(bootstrap_servers=list(transport.options.servers))
        await admin.start()
        try:
            resource = ConfigResource(ConfigResourceType.TOPIC, f"{transport.options.prefix}{topic}")
            ((response,)) = await admin.describe_configs([resource])
            found: list[Any] = response.resources[0][4]
            return {name: value for name, value, *_ in found}
        finally:
            await admin.close()

    return await transport._bridge.call(ask)


async def test_a_topic_is_kept_and_limited_as_it_was_asked_for(apache_kafka: str) -> None:
    async with opened(apache_kafka) as transport:
        found = await configs(transport, "t")
        assert (found["cleanup.policy"], found["retention.ms"]) == ("delete", "3600000")
        assert int(found["max.message.bytes"]) > transport.options.max_record_bytes
        await transport.ensure([TopicSpec("forever", 1, math.inf)])
        assert (await configs(transport, "forever"))["retention.ms"] == "-1"


async def test_a_compacted_topic_is_cleaned_soon_and_takes_no_record_without_a_key(apache_kafka: str) -> None:
    async with opened(apache_kafka) as transport:
        await transport.ensure([TopicSpec("c", 1, 60.0, is_compacted=True), TopicSpec("d", 1, math.inf, True)])
        found = await configs(transport, "c")
        assert (found["cleanup.policy"], found["delete.retention.ms"]) == ("compact", "60000")
        assert float(found["min.cleanable.dirty.ratio"]) < 0.5
        assert int(found["max.compaction.lag.ms"]) <= 24 * 3600 * 1000
        assert int((await configs(transport, "d"))["delete.retention.ms"]) > 3600 * 24 * 365
        await transport.append([Outgoing("c", b"k", b"1", ())])
        with pytest.raises(InvalidMessage, match="last record of each key"):
            await transport.append([Outgoing("c", None, b"2", ())])


async def test_the_broker_stamps_the_records_of_a_topic_where_the_clocks_of_their_writers_must_not_matter(
    embedded_kafka: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(embedded_kafka, partitions=1) as transport:
        await transport.ensure([TopicSpec("stamped", 1, 3600.0, is_stamped_by_log=True)])
        slow = SimpleNamespace(time=lambda: time.time() - 1800.0, monotonic=time.monotonic)
        monkeypatch.setattr(_kafka_lanes, "time", slow)
        await transport.append([record(1)])
        await transport.append([Outgoing("stamped", None, b"1", ())])
        async with transport.read([("t", 0)], "earliest") as reader:
            (told,) = await some(reader, 1)
        async with transport.read([("stamped", 0)], "earliest") as reader:
            (stamped,) = await some(reader, 1)
        assert stamped.timestamp_ms - told.timestamp_ms > 1700 * 1000
        assert "kept otherwise" not in caplog.text
        await transport.ensure([TopicSpec("t", 1, 3600.0, is_stamped_by_log=True)])
        assert "t is kept otherwise: message.timestamp.type is CreateTime, not LogAppendTime" in caplog.text


async def test_a_topic_that_is_kept_otherwise_is_warned_of_and_left_as_it_is(
    apache_kafka: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(apache_kafka) as transport:
        assert "kept otherwise" not in caplog.text
        await transport.ensure([TopicSpec("t", 2, 60.0)])
        assert (
            "t is kept otherwise: retention.ms is 3600000, not 60000; `fissile topics apply` changes it" in caplog.text
        )
        await transport.ensure([TopicSpec("t", 2, 60.0, is_compacted=True)])
        assert "cleanup.policy is delete, not compact" in caplog.text
        found = await configs(transport, "t")
        assert (found["cleanup.policy"], found["retention.ms"]) == ("delete", "3600000")


async def test_applications_with_other_prefixes_share_a_broker_and_nothing_else(apache_kafka: str) -> None:
    async with opened(apache_kafka, partitions=1) as mine, opened(apache_kafka, partitions=2) as yours:
        await mine.append([record(1, partition=0)])
        assert await all_of(yours) == []
        async with mine.join("g", {"t": "earliest"}) as first, yours.join("g", {"t": "earliest"}) as second:
            assert len((await assigned(first)).positions) == 1
            assert len((await assigned(second)).positions) == 2


async def test_what_another_process_has_made_is_found_and_what_nobody_has_made_is_unavailable(
    apache_kafka: str,
) -> None:
    async with opened(apache_kafka) as first, kafka(apache_kafka, first.options.prefix) as second:
        await second.append([record(1)])
        assert numbers(await all_of(first)) == [1]
        with pytest.raises(Unavailable, match="no topic nowhere"):
            async with second.join("g", {"nowhere": "earliest"}):
                pass
        with pytest.raises(Unavailable, match="no topic nowhere"):
            async with second.read([("nowhere", 0)], "latest"):
                pass
