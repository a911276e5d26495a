"""What becomes of a dead letter that is retried: it goes to its one handler, and either is no more or is dead again."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from attrs import evolve

from fissile import CallRefused, InvalidMessage, Module, Retry, UnknownMessage
from fissile.abc import Outgoing
from tests.dead_letters.shop import (
    ONCE,
    Billing,
    Charge,
    Placed,
    billing_contract,
    clock,
    letters_when,
    no_letters,
    one_letter,
    orders,
    placed,
)
from tests.runtime.helpers import app_of, client_of, log_of, quick, settle, until


async def test_a_retried_message_goes_to_its_handler_with_its_id_and_its_letter_is_no_more() -> None:
    billing = Billing(fails=lambda event: len(billing.tried) == 1)
    async with app_of(orders, billing.module(), clock=clock()) as app:
        await app.bus.publish(Placed("A1", 3))
        letter = await one_letter(app)
        (sent,) = await app.retry_dead_letters(letter)
        assert (sent.id, sent.state) == (letter.id, "retrying")
        await until(lambda: billing.seen == [("A1", 3)])
        await no_letters(app)
    assert len(set(billing.ids)) == 1
    assert billing.ids[0] == letter.message_id


async def test_a_retry_is_seen_by_no_other_subscriber() -> None:
    billing = Billing(fails=lambda event: len(billing.tried) == 1)
    async with app_of(orders, billing.module(), clock=clock()) as app:
        await app.bus.publish(Placed("A1"))
        await app.retry_dead_letters(await one_letter(app))
        await no_letters(app)
    assert billing.others == ["A1"]


async def test_a_handler_is_told_which_attempt_it_is_over_all_retries() -> None:
    billing = Billing(fails=lambda event: len(billing.tried) < 3)
    async with app_of(orders, billing.module(), clock=clock()) as app:
        await app.bus.publish(Placed("A1"))
        await app.retry_dead_letters(await one_letter(app))
        await app.retry_dead_letters(await one_letter(app))
        await no_letters(app)
    assert billing.tried == [1, 2, 3]


async def test_a_retry_that_fails_is_dead_again_under_the_same_id_with_its_attempts_added() -> None:
    time = clock()
    billing = Billing(fails=lambda event: True, retry=evolve(ONCE, attempts=2, first_s=1.0))
    async with app_of(orders, billing.module(), clock=time) as app:
        await app.bus.publish(Placed("A1", 3))
        await time.wait_sleeping(at_most_s=2.0)
        time.advance(2.0)
        first = await one_letter(app)
        time.advance(60.0)
        await app.retry_dead_letters(first)
        await time.wait_sleeping(at_most_s=2.0)
        time.advance(2.0)
        again = await one_letter(app)
    assert first.last_failed - first.first_failed == timedelta(seconds=2)
    assert again.last_failed - again.first_failed == timedelta(seconds=64)
    assert (first.attempts, again.attempts) == (2, 4)
    assert again == evolve(first, attempts=4, last_failed=again.last_failed, traceback=again.traceback)
    assert (again.topic, again.offset, again.reason) == ("orders.placed", 0, "no A1")


async def test_a_letter_that_has_failed_again_can_be_retried_again() -> None:
    billing = Billing(fails=lambda event: len(billing.tried) < 4)
    async with app_of(orders, billing.module(), clock=clock()) as app:
        await app.bus.publish(Placed("A1", 2))
        for attempts in (1, 2, 3):
            letter = await one_letter(app)
            assert letter.attempts == attempts
            await app.retry_dead_letters(letter)
        await no_letters(app)
    assert billing.seen == [("A1", 2)]


async def test_letters_of_one_key_are_retried_in_their_order() -> None:
    is_broken = True
    billing = Billing(fails=lambda event: is_broken)
    async with app_of(orders, billing.module(), clock=clock()) as app:
        for number in range(20):
            await app.bus.publish(Placed("A1", number))
        letters = await letters_when(app, lambda found: len(found) == 20)
        is_broken = False
        await app.retry_dead_letters(*letters)
        await no_letters(app)
    assert billing.seen == [("A1", number) for number in range(20)]


async def test_a_command_that_nobody_waited_for_is_retried() -> None:
    billing = Billing()
    async with app_of(orders, billing.module(), clock=clock()) as app:
        await app.bus.send(Charge(-1))
        letter = await one_letter(app)
        assert (letter.handler, letter.attempts) == ("billing.charge", 1)
        changed = await app.edit_dead_letter(letter, b'{"amount": 5}')
        await app.retry_dead_letters(changed)
        await until(lambda: billing.charged == [5])
        await no_letters(app)


async def test_a_retry_for_a_handler_that_is_no_more_is_dead_again_with_that_reason() -> None:
    log, billing = log_of(), Billing(fails=lambda event: True)
    async with app_of(orders, billing.module(), transport=client_of(log)) as app:
        await app.bus.publish(Placed("A1"))
        letter = await one_letter(app)
    async with app_of(orders, billing.module(without_handler=True), transport=client_of(log)) as app:
        await app.retry_dead_letters(letter)
        (again,) = await letters_when(app, lambda found: found[0].state == "dead")
    assert again.error_type == "UnknownMessage"
    assert again.reason.startswith("There is no handler billing.on_placed for orders.placed any more.")
    assert (again.id, again.handler, again.attempts) == (letter.id, "billing.on_placed", 1)
    better = Billing()
    async with app_of(orders, better.module(), transport=client_of(log)) as app:
        await app.retry_dead_letters(again)
        await no_letters(app)
    assert better.seen == [("A1", 1)]


async def test_a_message_that_nobody_knew_goes_to_all_who_know_it_when_it_is_retried() -> None:
    log, billing = log_of(), Billing()
    async with app_of(orders, billing.module(), transport=client_of(log)) as app:
        headers = (("ce_type", b"orders.shipped"), ("ce_id", b"x1"))
        await client_of(log).append([Outgoing("orders.placed", b"A1", b'{"sku": "A1"}', headers)])
        letter = await one_letter(app)
        assert letter.handler == "billing.unknown"
        await app.retry_dead_letters(letter)
        again = await one_letter(app)
        assert (again.id, again.attempts, again.handler) == (letter.id, 2, "billing.unknown")
        named = evolve(again, headers=(("ce_type", b"orders.placed"), ("ce_id", b"x1")))
        await app.retry_dead_letters(named)
        await no_letters(app)
    assert billing.seen == [("A1", 1)]
    assert billing.others == ["A1"]


async def test_what_nobody_knew_and_fails_now_is_a_letter_of_its_handler() -> None:
    log, module = log_of(), Module(billing_contract)

    @module.subscribe(placed, retry=ONCE)
    async def on_placed(event: Placed) -> None:
        raise ValueError(f"no {event.sku}")

    @module.command(Charge, idempotent=True)
    async def charge(command: Charge) -> None:
        pass

    async with app_of(orders, module, transport=client_of(log)) as app:
        await client_of(log).append([Outgoing("orders.placed", b"A1", b'{"sku": "A1"}', (("ce_id", b"x1"),))])
        letter = await one_letter(app)
        named = evolve(letter, headers=(("ce_type", b"orders.placed"), ("ce_id", b"x1")))
        await app.retry_dead_letters(named)
        (again,) = await letters_when(app, lambda found: [each.handler for each in found] == ["billing.on_placed"])
    assert again.id != letter.id
    assert (again.reason, again.attempts, again.topic) == ("no A1", 2, "orders.placed")


async def test_two_handlers_of_one_name_have_letters_of_their_own() -> None:
    seen: list[str] = []
    module = Module(billing_contract)

    def subscriber(name: str) -> None:
        @module.subscribe(placed, retry=ONCE)
        async def on_placed(event: Placed) -> None:
            seen.append(name)
            if len(seen) <= 2:
                raise ValueError(name)

    @module.command(Charge, idempotent=True)
    async def charge(command: Charge) -> None:
        pass

    subscriber("first")
    subscriber("second")
    async with app_of(orders, module, clock=clock()) as app:
        await app.bus.publish(Placed("A1"))
        letters = await letters_when(app, lambda found: len(found) == 2)
        assert {each.handler: each.reason for each in letters} == {
            "billing.on_placed": "first",
            "billing.on_placed#2": "second",
        }
        await app.retry_dead_letters(*(each for each in letters if each.reason == "second"))
        await letters_when(app, lambda found: [each.reason for each in found] == ["first"])
    assert seen[2:] == ["second"]


async def test_an_archived_letter_is_kept_and_can_be_retried_by_name() -> None:
    billing = Billing(fails=lambda event: len(billing.tried) == 1)
    async with app_of(orders, billing.module(), clock=clock()) as app:
        await app.bus.publish(Placed("A1"))
        letter = await one_letter(app)
        (archived,) = await app.archive_dead_letters(letter)
        assert await app.dead_letters() == (archived,) == (evolve(letter, state="archived"),)
        await settle()
        assert len(billing.tried) == 1
        await app.retry_dead_letters(archived)
        await no_letters(app)


# --- editing ---------------------------------------------------------------------------------------------------------


async def test_an_edited_letter_is_another_message_with_an_id_and_a_key_of_its_own() -> None:
    billing = Billing(fails=lambda event: event.quantity > 5)
    async with app_of(orders, billing.module(), clock=clock()) as app:
        await app.bus.publish(Placed("A1", 9))
        letter = await one_letter(app)
        changed = await app.edit_dead_letter(letter, b'{"sku": "B2", "quantity": 7}')
        assert await app.dead_letters() == (changed,)
        assert (changed.id, changed.state, changed.key, changed.edits) == (letter.id, "dead", "B2", 1)
        assert (changed.message_id, changed.original) == (f"{letter.message_id}~1", letter.body)
        assert json.loads(changed.body) == {"sku": "B2", "quantity": 7}
        await app.retry_dead_letters(changed)
        again = await one_letter(app)
        assert (again.edits, again.original, again.attempts) == (1, letter.body, 2)
        twice = await app.edit_dead_letter(again, b'{"sku": "B2", "quantity": 5}')
        assert (twice.message_id, twice.edits, twice.original) == (f"{letter.message_id}~2", 2, letter.body)
        await app.retry_dead_letters(twice)
        await no_letters(app)
    assert billing.seen == [("B2", 5)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"quantity": 1}', "sku: it is missing"),
        (b'{"sku": "A1", "quantity": "two"}', "quantity: expected int, got str"),
        (b'{"sku": "A1", "quanttiy": 2}', "quanttiy: there is no such field"),
        (b'{"sku": 7}', "sku: expected str, got int"),
        (b"{nonsense", "JSON is malformed"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused_with_its_field_and_the_letter_stays(
    body: bytes, reason: str
) -> None:
    billing = Billing(fails=lambda event: True)
    async with app_of(orders, billing.module(), clock=clock()) as app:
        await app.bus.publish(Placed("A1"))
        letter = await one_letter(app)
        with pytest.raises(InvalidMessage) as refused:
            await app.edit_dead_letter(letter, body)
        assert refused.value.reason.lower().startswith(reason.lower())
        assert await app.dead_letters() == (letter,)


async def test_what_no_contract_has_cannot_be_edited() -> None:
    log, billing = log_of(), Billing()
    async with app_of(orders, billing.module(), transport=client_of(log)) as app:
        await client_of(log).append([Outgoing("orders.placed", b"A1", b"x", (("ce_type", b"orders.gone"),))])
        letter = await one_letter(app)
        with pytest.raises(UnknownMessage, match=r"No contract of the application has orders\.gone"):
            await app.edit_dead_letter(letter, b"{}")
        with pytest.raises(CallRefused, match="is being retried"):
            await app.edit_dead_letter(evolve(letter, state="retrying"), b"{}")


# --- what other programs write ---------------------------------------------------------------------------------------


async def test_a_message_that_was_too_large_to_be_kept_cannot_be_retried() -> None:
    log, billing = log_of(record_bytes=200_000), Billing()
    async with app_of(orders, billing.module(), transport=client_of(log)) as app:
        headers = (("ce_type", b"billing.charge"), ("ce_id", b"x1"))
        await client_of(log).append([Outgoing("billing.requests", b"A1", b"{" + b" " * 199_800, headers)])
        letter = await one_letter(app)
        assert (letter.is_complete, letter.body, letter.message_id) == (False, b"", "x1")
        with pytest.raises(CallRefused, match=r"too large to be kept\. It is, or was, in billing\.requests, partition"):
            await app.retry_dead_letters(letter)
        assert await app.dead_letters() == (letter,)


async def test_a_message_that_fits_without_the_whole_traceback_is_kept() -> None:
    log, module = log_of(record_bytes=200_000), Module(billing_contract)

    @module.command(Charge, idempotent=True, retry=ONCE)
    async def charge(command: Charge) -> None:
        raise ValueError("x" * 50_000)

    async with app_of(orders, module, transport=client_of(log)) as app:
        headers = (("ce_type", b"billing.charge"), ("ce_id", b"x1"))
        body = b'{"amount": 1' + b" " * 190_000 + b"}"
        await client_of(log).append([Outgoing("billing.requests", b"A1", body, headers)])
        letter = await one_letter(app)
    assert (letter.is_complete, letter.body, len(letter.traceback)) == (True, body, 2000)


async def test_a_message_without_key_and_id_keeps_what_stood_for_its_id() -> None:
    log, billing = log_of(), Billing(fails=lambda event: len(billing.tried) == 1)
    async with app_of(orders, billing.module(), transport=client_of(log), settings=quick(partitions=1)) as app:
        headers = (("ce_type", b"orders.placed"), ("__dlq.errors.id", b"not ours"), ("fissile-key", b"neither"))
        await client_of(log).append([Outgoing("orders.placed", None, b'{"sku": "A1"}', headers)])
        letter = await one_letter(app)
        assert (letter.headers, letter.raw_key, letter.message_id) == (headers, None, "")
        await app.retry_dead_letters(letter)
        await no_letters(app)
    assert billing.ids == ["orders.placed/0/0"] * 2


async def test_records_that_are_no_dead_letters_are_passed_over() -> None:
    log, billing = log_of(), Billing(fails=lambda event: True)
    async with app_of(orders, billing.module(), transport=client_of(log)) as app:
        await client_of(log).append([Outgoing("billing.dead-letters", b"k", b"what is this", (("a", b"b"),))])
        await app.bus.publish(Placed("A1"))
        assert (await one_letter(app)).reason == "no A1"


# --- policies --------------------------------------------------------------------------------------------------------


async def test_a_command_has_a_policy_of_its_own_for_when_nobody_waits() -> None:
    tried: list[int] = []
    module = Module(billing_contract)

    @module.command(Charge, idempotent=True, retry=Retry(attempts=3, first_s=0.001, permanent=(LookupError,)))
    async def charge(command: Charge) -> None:
        tried.append(command.amount)
        raise KeyError if command.amount == 2 else ValueError

    async with app_of(orders, module) as app:
        await app.bus.send(Charge(1))
        await app.bus.send(Charge(2))
        letters = await letters_when(app, lambda found: len(found) == 2)
    assert (tried.count(1), tried.count(2)) == (3, 1)
    assert sorted(letter.attempts for letter in letters) == [1, 3]
