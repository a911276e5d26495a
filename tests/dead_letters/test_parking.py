"""A handler that parks: what was given up holds back the later messages of its key, until it was retried or archived."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio
from attrs import evolve

from fissile import App, DeadLetter, Retry
from fissile.abc import Partition, Reader, Record, Start, Status
from fissile.transports.memory import MemoryTransport
from tests.dead_letters.shop import Billing, Placed, letters_when, no_letters, orders
from tests.runtime.helpers import app_of, client_of, log_of, quick, settle, until

PARKS = Retry(attempts=1, parks=True)


def billing(fails: Callable[[Placed], bool] = lambda event: False) -> Billing:
    return Billing(fails=fails, retry=PARKS)


def first_fails(event: Placed) -> bool:
    return (event.sku, event.quantity) == ("A1", 0)


async def three(app: App, sku: str = "A1", *, start: int = 0) -> None:
    """Publish three messages of a key."""
    for number in range(start, start + 3):
        await app.bus.publish(Placed(sku, number))


async def dead(app: App, count: int) -> tuple[DeadLetter, ...]:
    """Wait until so many letters are dead, and all; return them as their messages stood."""
    found = await letters_when(app, lambda all_: len(all_) == count and {each.state for each in all_} == {"dead"})
    return tuple(sorted(found, key=lambda letter: letter.offset))


async def test_later_messages_of_the_key_are_parked_untried_and_other_keys_go_on() -> None:
    shop = billing(first_fails)
    async with app_of(orders, shop.module(), settings=quick(partitions=1)) as app:
        await three(app)
        await three(app, "B2")
        letters = await dead(app, 3)
        await until(lambda: shop.seen == [("B2", 0), ("B2", 1), ("B2", 2)])
        await until(
            lambda: sorted(shop.others) == ["A1", "A1", "A1", "B2", "B2", "B2"]
        )  # another handler, which does not park
    assert [letter.error_type for letter in letters] == ["ValueError", "KeyParked", "KeyParked"]
    assert [letter.attempts for letter in letters] == [1, 0, 0]
    assert letters[1].reason.startswith(f"parked behind {letters[0].id},")


async def test_when_they_are_retried_they_are_handled_in_their_order_and_the_key_goes_on() -> None:
    is_broken = True
    shop = billing(lambda event: is_broken)
    async with app_of(orders, shop.module()) as app:
        await three(app)
        letters = await dead(app, 3)
        is_broken = False
        await app.retry_dead_letters(*reversed(letters))
        await no_letters(app)
        await three(app, start=3)
        await until(lambda: len(shop.seen) == 6)
    assert shop.seen == [("A1", number) for number in range(6)]


async def test_one_that_is_retried_before_its_turn_is_parked_again() -> None:
    is_broken = True
    shop = billing(lambda event: is_broken)
    async with app_of(orders, shop.module()) as app:
        await three(app)
        first, second, third = await dead(app, 3)
        is_broken = False
        await app.retry_dead_letters(third)
        again = await dead(app, 3)
        assert shop.seen == []
        assert (again[2].reason, again[2].attempts) == (second.reason, 0)
        await app.retry_dead_letters(first)
        await until(lambda: shop.seen == [("A1", 0)])
        await dead(app, 2)


async def test_when_the_first_fails_again_the_others_are_parked_again() -> None:
    shop = billing(first_fails)
    async with app_of(orders, shop.module()) as app:
        await three(app)
        await app.retry_dead_letters(*await dead(app, 3))
        letters = await letters_when(app, lambda found: len(found) == 3 and max(one.attempts for one in found) == 2)
        letters = await dead(app, 3)
        assert sorted(letter.attempts for letter in letters) == [0, 0, 2]
    assert shop.seen == []


async def test_a_key_is_parked_after_a_restart_too() -> None:
    log, before, after = log_of(), billing(first_fails), billing()
    async with app_of(orders, before.module(), transport=client_of(log)) as app:
        await three(app)
        await dead(app, 3)
    async with app_of(orders, after.module(), transport=client_of(log)) as app:
        await three(app, start=3)
        letters = await dead(app, 6)
        assert after.seen == []
        await app.retry_dead_letters(*letters)
        await no_letters(app)
    assert after.seen == [("A1", number) for number in range(6)]


async def test_what_another_process_has_retried_no_longer_holds() -> None:
    log, first, second = log_of(), billing(first_fails), billing()
    async with app_of(orders, first.module(), transport=client_of(log)) as app:
        await three(app)
        await dead(app, 3)
        async with app_of(orders, second.module(), transport=client_of(log)) as other:
            await other.archive_dead_letters(*await other.dead_letters())
            await three(other, start=3)
            await until(lambda: len(first.seen) + len(second.seen) == 3)
        assert {letter.state for letter in await app.dead_letters()} == {"archived"}
    assert first.seen + second.seen == [("A1", 3), ("A1", 4), ("A1", 5)]


async def test_an_archived_letter_holds_nothing_back() -> None:
    shop = billing(first_fails)
    async with app_of(orders, shop.module()) as app:
        await three(app)
        first, second, third = await dead(app, 3)
        await app.archive_dead_letters(first)
        await app.retry_dead_letters(second, third)
        await until(lambda: shop.seen == [("A1", 1), ("A1", 2)])
        (left,) = await letters_when(app, lambda found: len(found) == 1)
    assert left == evolve(first, state="archived")


async def test_a_message_that_comes_again_is_not_parked_behind_itself() -> None:
    log, before, after = log_of(), billing(first_fails), billing()
    settings = quick(partitions=1, drain_s=0.05)
    async with app_of(orders, before.module(), transport=client_of(log), settings=settings) as app:
        await app.bus.publish(Placed("A1", 0))
        (letter,) = await dead(app, 1)
    log.group("billing").committed["orders.placed", 0] = 0
    async with app_of(orders, after.module(), transport=client_of(log), settings=settings) as app:
        await until(lambda: after.seen == [("A1", 0)])
        await settle()
        assert await app.dead_letters() == (letter,)


async def test_a_process_that_has_not_read_all_letters_yet_lets_nothing_of_its_new_partitions_run() -> None:
    log, before, after = log_of(), billing(first_fails), billing()
    async with app_of(orders, before.module(), transport=client_of(log)) as app:
        await three(app)
        await dead(app, 3)
    door = anyio.Event()

    class SlowReader(Reader):
        def __init__(self, reader: Reader) -> None:
            self.reader, self.begins, self.ends = reader, reader.begins, reader.ends

        async def receive(self) -> Sequence[Record]:
            await door.wait()
            return await self.reader.receive()

        def positions(self) -> Mapping[Partition, int]:
            return self.reader.positions()

        def status(self) -> Status:
            return silent(self.reader.status())

    class Slow(MemoryTransport):
        @asynccontextmanager
        async def read(
            self, partitions: Sequence[Partition], start: Start | Mapping[Partition, int], *, batch: int = 500
        ) -> AsyncGenerator[Reader]:
            async with super().read(partitions, start, batch=batch) as reader:
                yield SlowReader(reader)

    async with app_of(orders, after.module(), transport=Slow(log)) as app:
        await app.bus.publish(Placed("A1", 3))
        await settle()
        assert (after.tried, after.others) == ([], ["A1"])
        door.set()
        letters = await dead(app, 4)
    assert after.tried == []
    assert letters[3].error_type == "KeyParked"


def silent(status: Status) -> Status:
    """A status of a log that has answered nothing for long."""
    return Status(status.lag, 60.0, status.partitions)
