"""Records that are no messages, and messages that are too large: refused or put aside with a reason, while the rest goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import frozen

from fissile import App, Bus, DeadLetter, MessageTooLarge
from tests.faults.driver import PATIENCE_S, SETTINGS, Site, scaled, site
from tests.faults.load import commands, events
from tests.faults.modules import Noted, ledger, ledger_contract, reader, reader_contract

pytestmark = [pytest.mark.timeout(300), pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NOTED = ("ce_type", b"ledger.noted")
NOTE = ("ce_type", b"ledger.note")


@frozen
class Raw:
    """A record as another program may write it."""

    what: str
    topic: str
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    error: str
    key: bytes | None = None


BROKEN = (
    Raw("a body that is no JSON", "ledger.noted", b'{"key": "k", "numb', [NOTED], "InvalidMessage", b"k"),
    Raw("a body with a flipped bit", "ledger.noted", b'{"key":"k","number":\x91}', [NOTED], "InvalidMessage"),
    Raw("a body of another type", "ledger.noted", b'{"key":"k","number":"1"}', [NOTED], "InvalidMessage", b"\xff\x00"),
    Raw("an empty body", "ledger.noted", b"", [NOTED], "InvalidMessage"),
    Raw("no body", "ledger.noted", None, [NOTED], "InvalidMessage", b"k"),
    Raw("an unknown type", "ledger.noted", b"{}", [("ce_type", b"ledger.renamed")], "UnknownMessage", b"k"),
    Raw("no type", "ledger.noted", b"{}", [], "UnknownMessage", b"k"),
    Raw("a type that is no text", "ledger.noted", b"{}", [("ce_type", b"\xff\xfe")], "UnknownMessage"),
    Raw("a type without a value", "ledger.noted", b"{}", [("ce_type", None)], "UnknownMessage"),
    Raw("a header without a value", "ledger.noted", b"{", [NOTED, ("x", None)], "InvalidMessage"),
    Raw("more than a message may have", "ledger.noted", b"\x00" * 1_300_000, [NOTED], "InvalidMessage"),
    Raw("a request that is no JSON", "ledger.requests", b"\x00\x01", [NOTE], "InvalidMessage"),
    Raw("a request of an unknown type", "ledger.requests", b"{}", [("ce_type", b"ledger.never")], "UnknownMessage"),
)


async def _write(found: Site, raw: Raw, partition: int) -> None:
    from aiokafka import AIOKafkaProducer

    servers = found.settings.bus.removeprefix("kafka://")
    producer = AIOKafkaProducer(bootstrap_servers=servers, max_request_size=2_000_000)
    await producer.start()
    try:
        topic = found.settings.kafka_prefix + raw.topic
        await producer.send_and_wait(topic, raw.value, raw.key, partition=partition, headers=list(raw.headers))
    finally:
        await producer.stop()


async def _letters(found: Site, count: int) -> tuple[DeadLetter, ...]:
    letters: tuple[DeadLetter, ...] = ()
    with anyio.move_on_after(PATIENCE_S):
        while len(letters) < count:
            letters = await found.app.dead_letters()
            await anyio.sleep(0.1)
    return letters


@pytest.mark.parametrize("raw", BROKEN, ids=[raw.what for raw in BROKEN])
async def test_a_record_that_is_no_message_becomes_a_dead_letter_and_its_partition_goes_on(
    apache_kafka: str, tmp_path: Path, anyio_backend: Any, raw: Raw
) -> None:
    async with site(tmp_path, apache_kafka, anyio_backend, ledger, reader) as found:
        for partition in range(found.settings.partitions):
            await _write(found, raw, partition)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(commands, found, 20)
            await events(found, 40)
        await found.settle()
        report = found.report(raw.what)
        letters = await _letters(found, found.settings.partitions)
    assert report.anomalies == ()
    assert report.ok + report.declared == 60
    assert [letter.error_type for letter in letters] == [raw.error] * found.settings.partitions
    assert all(letter.reason and letter.traceback for letter in letters)
