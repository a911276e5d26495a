"""Records that are no messages, and messages that are too large: refused or put aside with a reason, while the rest goes on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import frozen

from fissile import App, Bus, DeadLetter, MessageTooLarge
from tests.faults.driver import PATIENCE_S, RECOVERY_S, SETTINGS, Site, scaled, site, until
from tests.faults.load import commands, events
from tests.faults.modules import EFFECTS, Note, Noted, ledger, reader

pytestmark = [pytest.mark.timeout(300), pytest.mark.parametrize("anyio_backend", ["asyncio"])]

NOTED = ("ce_type", b"ledger.noted")
NOTE = ("ce_type", b"ledger.note")
ELSEWHERE = (
    NOTE,
    ("fissile-correlation", b"c"),
    ("fissile-reply-to", b"ledger.noted/0"),
    ("fissile-budget-ms", b"9999"),
)


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
    Raw("headers of too much", "ledger.noted", b"{", [NOTED, ("x", b"x" * 1_200_000)], "InvalidMessage"),
    Raw("a request that is no JSON", "ledger.requests", b"\x00\x01", [NOTE], "InvalidMessage"),
    Raw("a request that wants its answer in a topic of others", "ledger.requests", b"{", ELSEWHERE, "UnknownMessage"),
    Raw("a request of an unknown type", "ledger.requests", b"{}", [("ce_type", b"ledger.never")], "UnknownMessage"),
)


async def _write(found: Site, raw: Raw, partition: int) -> int:
    """Write it as it is, and return its offset."""
    from aiokafka import AIOKafkaProducer

    servers = found.settings.bus.removeprefix("kafka://")
    producer = AIOKafkaProducer(bootstrap_servers=servers, max_request_size=2_000_000)
    await producer.start()
    try:
        topic = found.settings.kafka_prefix + raw.topic
        sent = await producer.send_and_wait(topic, raw.value, raw.key, partition=partition, headers=list(raw.headers))
        offset: int = sent.offset
        return offset
    finally:
        await producer.stop()


async def _letters(found: Site, count: int) -> tuple[DeadLetter, ...]:
    letters: tuple[DeadLetter, ...] = ()
    with anyio.move_on_after(PATIENCE_S):
        while len(letters) < count:
            letters = await found.app.dead_letters()
            await anyio.sleep(0.1)
    return letters


async def test_records_that_are_no_messages_become_dead_letters_and_their_partitions_go_on(
    apache_kafka: str, tmp_path: Path, anyio_backend: Any
) -> None:
    async with site(tmp_path, apache_kafka, anyio_backend, ledger, reader) as found:
        places: dict[tuple[str, int, int], Raw] = {}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(commands, found, scaled(400), pause_s=0.02))
            tasks.start_soon(partial(events, found, scaled(1600), pause_s=0.02))
            for raw in found.random.sample(BROKEN, len(BROKEN)):
                found.history.fault(raw.what)
                partition = found.random.randrange(found.settings.partitions)
                places[raw.topic, partition, await _write(found, raw, partition)] = raw
        await commands(found, 20, prefix="later")
        await events(found, 40, prefix="later")
        await found.settle()
        report = found.report("records that are no messages")
        letters = await _letters(found, len(BROKEN))
    assert {places[letter.topic, letter.partition, letter.offset].what: letter.error_type for letter in letters} == {
        raw.what: raw.error for raw in BROKEN
    }
    assert len(letters) == len(BROKEN)
    assert all(letter.reason and letter.traceback for letter in letters)
    assert report.anomalies == ()
    assert report.failed == report.unknown == report.repeats == 0
    assert report.recovers_within(RECOVERY_S)


async def _refusals(bus: Bus) -> list[tuple[str, str]]:
    """Publish and send what is one byte too large, or much too large, and what is just not; tell the errors."""
    limit = SETTINGS.max_message_bytes
    told: list[tuple[str, str]] = []
    for size in (limit + 1, 3 * limit):
        for act in (bus.publish(_event(size, 0)), bus.execute(_command(size))):
            try:
                await act
            except MessageTooLarge as error:
                told.append((type(error).__name__, str(error)))
    await bus.publish(_event(limit, 1))
    assert await bus.execute(_command(limit), id="large") == "did large"
    return told


def _event(size: int, number: int) -> Noted:
    return Noted("large", number, "x" * (size - len(b'{"key":"large","number":0,"text":""}')))


def _command(size: int) -> Note:
    return Note(0, "x" * (size - len(b'{"number":0,"text":""}')))


async def test_a_message_over_the_limit_is_refused_as_it_is_in_memory_and_one_at_the_limit_arrives(
    apache_kafka: str, tmp_path: Path, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EFFECTS, str(tmp_path / "memory.jsonl"))
    async with App([ledger, reader], settings=SETTINGS) as memory:
        expected = await _refusals(memory.bus)
    async with site(tmp_path, apache_kafka, anyio_backend, ledger, reader) as found:
        assert await _refusals(found.bus) == expected
        await until(lambda: "large/1" in found.effects.look(), "the one at the limit has arrived")
        await events(found, 20)
        await found.settle()
        assert found.effects.ids == {"large", "large/1", *found.history.acknowledged}
        assert len(found.history.acknowledged) == 20
    assert [name for name, _ in expected] == ["MessageTooLarge"] * 4
