"""The same on every transport: given up, parked, archived, retried, in the end none."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from fissile import App, Retry, Settings
from fissile._delivery import held_keys, letter_box
from fissile.abc import Outgoing, Partition, Reader, Record, Start, Status
from fissile.transports.memory import MemoryTransport
from tests.conformance.conftest import Log
from tests.dead_letters.shop import Billing, Placed, letters_when, no_letters, orders
from tests.runtime.helpers import app_of, client_of, log_of, until

SETTINGS = Settings(partitions=2, commit_interval_s=0.01, drain_s=5.0)


async def test_from_given_up_to_none_with_a_restart_between(log: Log) -> None:
    before = Billing(fails=lambda event: event.quantity == 0, retry=Retry(attempts=2, first_s=0.001, parks=True))
    async with App([orders, before.module()], settings=SETTINGS, transport=log.unopened()) as app:
        for sku in ("A1", "B2"):
            for quantity in (0, 1):
                await app.bus.publish(Placed(sku, quantity))
        await letters_when(app, lambda found: len(found) == 4)
    after = Billing(retry=Retry(attempts=1, parks=True))
    async with App([orders, after.module()], settings=SETTINGS, transport=log.unopened()) as app:
        await app.bus.publish(Placed("A1", 2))
        letters = await letters_when(app, lambda found: len(found) == 5)
        assert sorted((letter.key, letter.error_type, letter.attempts) for letter in letters) == [
            ("A1", "KeyParked", 0),
            ("A1", "KeyParked", 0),
            ("A1", "ValueError", 2),
            ("B2", "KeyParked", 0),
            ("B2", "ValueError", 2),
        ]
        await app.archive_dead_letters(*(letter for letter in letters if letter.key == "B2"))
        await app.retry_dead_letters(*(letter for letter in letters if letter.key == "A1"))
        left = await letters_when(app, lambda found: len(found) == 2)
        assert {(letter.key, letter.state) for letter in left} == {("B2", "archived")}
        await app.bus.publish(Placed("B2", 7))
        await until(lambda: ("B2", 7) in after.seen)
        await app.retry_dead_letters(*left)
        await no_letters(app)
    assert [quantity for sku, quantity in after.seen if sku == "A1"] == [0, 1, 2]
    assert [quantity for sku, quantity in after.seen if sku == "B2"] == [7, 0, 1]


class WithoutGone(Reader):
    """Reads all but what the log has forgotten."""

    def __init__(self, reader: Reader) -> None:
        self.reader, self.begins, self.ends = reader, reader.begins, reader.ends

    async def receive(self) -> Sequence[Record]:
        while True:
            found = [record for record in await self.reader.receive() if record.key != b"gone"]
            if found:
                return found

    def positions(self) -> Mapping[Partition, int]:
        return self.reader.positions()

    def status(self) -> Status:
        return self.reader.status()


class Forgetful(MemoryTransport):
    """A log that has forgotten some records, which its offsets still count."""

    @asynccontextmanager
    async def read(
        self, partitions: Sequence[Partition], start: Start | Mapping[Partition, int], *, batch: int = 500
    ) -> AsyncGenerator[Reader]:
        async with super().read(partitions, start, batch=batch) as reader:
            yield WithoutGone(reader)


async def test_a_log_that_has_forgotten_its_last_record_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letter_box, "_PATIENCE_S", 0.02)
    monkeypatch.setattr(held_keys, "_PATIENCE_S", 0.02)
    billing = Billing(fails=lambda event: event.quantity == 0, retry=Retry(attempts=1, parks=True))
    log, gone = log_of(), Outgoing("billing.dead-letters", b"gone", None, ())
    async with app_of(orders, billing.module(), transport=Forgetful(log)) as app:
        await client_of(log).append([gone])
        assert await app.dead_letters() == ()
        await app.bus.publish(Placed("A1", 0))
        await letters_when(app, lambda found: len(found) == 1)
        await client_of(log).append([gone])
        await app.bus.publish(Placed("A1", 1))
        await app.bus.publish(Placed("B2", 2))
        await letters_when(app, lambda found: len(found) == 2)
        await until(lambda: billing.seen == [("B2", 2)])
