"""A crash at any moment of a retry loses nothing: each message was handled, or has a letter. At worst it is handled twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from attrs import define, field

from fissile import App, DeadlineExceeded, Unavailable
from fissile.abc import Outgoing, Stored
from fissile.transports.memory import MemoryLog, MemoryTransport
from tests.dead_letters.shop import Billing, Placed, letters_when, no_letters, one_letter, orders
from tests.runtime.helpers import app_of, log_of, quick, settle, until

LETTERS, REQUESTS = "billing.dead-letters", "billing.requests"


@define(eq=False)
class Fate:
    """What is to become of a process: after how many records of letters and retries it can store no more."""

    records: int = 1_000_000
    stored: list[str] = field(factory=list)


class Fragile(MemoryTransport):
    """A client whose process comes to an end among its appends. Of several records in one append all are stored, or none."""

    def __init__(self, log: MemoryLog, fate: Fate) -> None:
        super().__init__(log)
        self.fate = fate

    async def append(self, records: Sequence[Outgoing]) -> Stored:
        if records[0].topic in (LETTERS, REQUESTS):
            if len(self.fate.stored) >= self.fate.records:
                raise Unavailable("the log is away")
            self.fate.stored.append(records[0].topic)
        return await super().append(records)


@asynccontextmanager
async def process(log: MemoryLog, billing: Billing, fate: Fate | None = None) -> AsyncIterator[App]:
    """A process of the application, which can store only what its fate lets it, and commits nothing before it ends."""
    transport = Fragile(log, fate or Fate())
    settings = quick(partitions=1, drain_s=0.05)
    async with app_of(orders, billing.module(), transport=transport, settings=settings) as app:
        yield app


async def with_a_letter(log: MemoryLog) -> None:
    """Have one message given up, and committed."""
    async with process(log, Billing(fails=lambda event: True)) as app:
        await app.bus.publish(Placed("A1"))
        await one_letter(app)


async def test_a_retry_that_could_not_be_sent_leaves_its_letter_dead() -> None:
    log = log_of()
    await with_a_letter(log)

    class Refusing(MemoryTransport):
        async def append(self, records: Sequence[Outgoing]) -> Stored:
            if records[0].topic == REQUESTS:
                raise Unavailable("the log is away")
            return await super().append(records)

    async with app_of(orders, Billing().module(), transport=Refusing(log), settings=quick(partitions=1)) as app:
        letter = await one_letter(app)
        with pytest.raises(Unavailable):
            await app.retry_dead_letters(letter)
        assert await app.dead_letters() == (letter,)


async def test_a_crash_before_a_retry_is_sent_leaves_a_letter_that_can_be_retried_again() -> None:
    log, billing = log_of(), Billing()
    await with_a_letter(log)

    class Dying(MemoryTransport):
        async def append(self, records: Sequence[Outgoing]) -> Stored:
            if records[0].topic == REQUESTS:
                raise DeadlineExceeded("no answer")
            return await super().append(records)

    async with app_of(orders, Billing().module(), transport=Dying(log), settings=quick(partitions=1)) as app:
        with pytest.raises(DeadlineExceeded):
            await app.retry_dead_letters(await one_letter(app))
    async with process(log, billing) as app:
        (letter,) = await app.dead_letters()
        assert letter.state == "retrying"
        await settle()
        assert billing.tried == []
        await app.retry_dead_letters(letter)
        await no_letters(app)
    assert billing.seen == [("A1", 1)]


async def test_a_retry_whose_letter_could_not_be_ended_comes_again() -> None:
    log, first, second = log_of(), Billing(), Billing()
    await with_a_letter(log)
    fate = Fate(records=2)
    async with process(log, first, fate) as app:
        await app.retry_dead_letters(await one_letter(app))
        await until(lambda: first.seen == [("A1", 1)])
        await settle()
        (letter,) = await app.dead_letters()
        assert letter.state == "retrying"
    async with process(log, second) as app:
        await no_letters(app)
    assert second.seen == [("A1", 1)]


async def test_a_retry_is_not_done_before_its_letter_is_ended() -> None:
    log, billing, fate = log_of(), Billing(), Fate(records=2)
    await with_a_letter(log)
    async with process(log, billing, fate) as app:
        await app.retry_dead_letters(await one_letter(app))
        await until(lambda: billing.seen == [("A1", 1)])
        await settle()
        told = app.statistics()["billing"].consumer
        assert told is not None
        assert (told.in_hand, told.handled) == (1, 0)


async def test_a_retry_that_fails_and_whose_letter_could_not_be_stored_comes_again() -> None:
    log, first, second = log_of(), Billing(fails=lambda event: True), Billing(fails=lambda event: True)
    await with_a_letter(log)
    async with process(log, first, Fate(records=2)) as app:
        await app.retry_dead_letters(await one_letter(app))
        await until(lambda: len(first.tried) == 1)
        await settle()
    async with process(log, second) as app:
        letter = await one_letter(app)
        assert letter.attempts == 2
        assert second.tried == [2]


@pytest.mark.parametrize("is_broken", [False, True], ids=["handled", "fails again"])
@pytest.mark.parametrize("records", range(8))
async def test_at_no_crash_between_appends_is_a_message_lost(records: int, is_broken: bool) -> None:
    """Three messages are given up, retried at once, and the process can store no more after so many records; then another goes on."""
    log = log_of()
    async with process(log, Billing(fails=lambda event: True)) as app:
        for sku in ("A1", "B2", "C3"):
            await app.bus.publish(Placed(sku))
        letters = await letters_when(app, lambda found: len(found) == 3)
    before = Billing(fails=lambda event: is_broken)
    fate = Fate(records=records)
    async with process(log, before, fate) as app:
        with suppress(Unavailable):
            for letter in letters:
                await app.retry_dead_letters(letter)
        await until(lambda: len(before.tried) >= min(3, fate.stored.count(REQUESTS)))
        await settle()
    after = Billing()
    async with process(log, after) as app:
        await until(lambda: log_is_read(app))
        await settle()
        left = {letter.key for letter in await app.dead_letters()}
        handled = {sku for sku, _ in (*before.seen, *after.seen)}
        assert left | handled == {"A1", "B2", "C3"}
        await app.retry_dead_letters(*await app.dead_letters())
        await no_letters(app)
        assert {sku for sku, _ in (*before.seen, *after.seen)} == {"A1", "B2", "C3"}


def log_is_read(app: App) -> bool:
    told = app.statistics()["billing"].consumer
    return told is not None and told.lag == 0 and told.in_hand == 0
