"""Who can write to the log, but holds no key, can neither invent an identity, nor move one to another message, nor keep one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from uuid import uuid4

import anyio
import pytest
from attrs import evolve, frozen

from fissile import (
    App,
    Bus,
    Caller,
    CallRefused,
    Command,
    Contract,
    DeadLetter,
    Environment,
    Ids,
    Module,
    Retry,
    Settings,
    StartupFailed,
)
from fissile._signatures import HEADER, Signatures
from fissile.abc import Headers, Outgoing, Record, Transport
from fissile.testing import ManualClock, user
from tests.conformance.conftest import Log
from tests.conformance.conftest import log as log
from tests.identity.modules import (
    Charge,
    Noted,
    PlaceOrder,
    billing,
    billing_contract,
    noted,
    orders,
    orders_contract,
)
from tests.runtime.helpers import NEVER_S, PATIENCE_S, until

KEY, OTHER_KEY, NEW_KEY = (f"{name}-key-with-32-characters-or-more" for name in ("our", "another", "new"))
SETTINGS = Settings(
    partitions=2, reply_partitions=2, commit_interval_s=0.02, drain_s=5.0, identity_keys=(KEY,), identity_valid_s=3600.0
)
ALICE = user("alice", "orders:write", "billing:charge", "billing:use")


BROKEN: list[tuple[str, str, str]] = []
"""What was seen of the command that breaks unless it was edited."""


@frozen
class Broken(Command[None]):
    note: str = ""


desk = Module(Contract("desk", messages=[Broken]))


@desk.command(Broken, idempotent=True, retry=Retry(attempts=1))
async def broken(command: Broken, caller: Caller) -> None:
    if not command.note:
        raise ValueError("it has no note")
    assert caller.identity is not None
    BROKEN.append((command.note, caller.identity.subject, caller.identity.kind))


@frozen
class Site:
    """A process with both modules, the log, and what a thief who can read and write that log does."""

    app: App
    thief: Transport
    settings: Settings

    async def stored(self, topic: str, count: int) -> list[Record]:
        """Read what a topic has."""
        partitions = [(topic, number) for number in range(self.settings.partitions)]
        found: list[Record] = []
        with anyio.fail_after(PATIENCE_S):
            async with self.thief.read(partitions, "earliest") as reader:
                while len(found) < count:
                    found += await reader.receive()
        return found

    async def captured(self) -> Record:
        """Have a message of somebody sent, and read it from the log."""
        await self.app.bus.acting_as(ALICE).send(Charge())
        return (await self.stored("billing.requests", 1))[0]

    async def refused(self, headers: Headers, body: bytes, topic: str = "billing.requests") -> DeadLetter:
        """Write a record, and wait until it was given up."""
        before = {letter.id for letter in await self.app.dead_letters()}
        await self.thief.append([Outgoing(topic, b"k", body, headers)])
        with anyio.fail_after(PATIENCE_S):
            while True:
                new = [letter for letter in await self.app.dead_letters() if letter.id not in before]
                if new:
                    return new[0]
                await anyio.sleep(0.005)

    def untrusted(self) -> int:
        return sum(each.untrusted_identities for each in self.app.statistics().values())


@asynccontextmanager
async def site(log: Log, *, settings: Settings = SETTINGS, clock: ManualClock | None = None) -> AsyncGenerator[Site]:
    environment = None if clock is None else Environment(clock=clock, ids=Ids(uuid4().hex), random=Random(1))
    app = App([orders, billing, desk], settings=settings, transport=log.unopened(), environment=environment)
    async with app, log.open() as thief:
        yield Site(app, thief, settings)


def with_header(headers: Headers, name: str, value: bytes) -> Headers:
    return tuple((key, value if key == name else before) for key, before in headers)


def plain(name: str, message_id: str | None = None) -> Headers:
    """The headers of a message as anybody can write them."""
    return (("ce_specversion", b"1.0"), ("ce_id", (message_id or uuid4().hex).encode()), ("ce_type", name.encode()))


def is_refused(letter: DeadLetter, attempts: int = 1) -> bool:
    return (letter.error_type, letter.attempts) == ("Unauthenticated", attempts) and "billing:charge" in letter.reason


async def test_what_somebody_may_send_is_handled(log: Log) -> None:
    async with site(log) as here, here.app.bus.tap(noted) as tap:
        await here.app.bus.acting_as(ALICE).send(Charge())
        with anyio.fail_after(PATIENCE_S):
            event = (await anext(tap)).event
        assert isinstance(event, Noted)
        assert event.seen.subject == "alice"
        assert here.untrusted() == 0


async def test_an_identity_that_is_missing_or_invented_is_worth_nothing(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    async with site(log) as here:
        forger = Signatures([OTHER_KEY], here.app.environment.clock.now, 3600.0, is_required=True)
        for identity in (ALICE, None):  # somebody, and a module that acts for itself
            headers = plain("billing.charge")
            message = (dict(headers)["ce_id"], b"billing.charge", b"orders")
            signed = forger.sign(identity, message, b"{}", None)
            assert is_refused(await here.refused((*headers, ("fissile-caller", b"orders"), signed), b"{}"))
        for headers in (
            plain("billing.charge"),
            (*plain("billing.charge"), ("fissile-caller", b"orders")),
            (*plain("billing.charge"), (HEADER, b"")),
            (*plain("billing.charge"), (HEADER, b"\xff..")),
            (*plain("billing.charge"), (HEADER, b"x" * 5000)),
        ):
            assert is_refused(await here.refused(headers, b"{}"))
        assert here.untrusted() == 7
        assert here.app.statistics()["billing"].refused["billing.charge"] == 7
        assert here.app.statistics()["billing"].handled["billing.charge"] == 0
    told = [record.getMessage() for record in caplog.records if record.name == "fissile.identity"]
    assert len(told) == 7
    assert all("is handled as from nobody: " in text for text in told)


async def test_an_identity_cannot_be_moved_to_another_message(log: Log) -> None:
    async with site(log) as here:
        await here.app.bus.acting_as(ALICE).send(PlaceOrder("A1"))
        order = (await here.stored("orders.requests", 1))[0]
        charge = await here.captured()
        stolen = dict(charge.headers)[HEADER]
        attacks = [
            (with_header(charge.headers, "ce_id", b"another"), charge.value),
            ((*charge.headers, ("fissile-caller", b"orders")), charge.value),
            (charge.headers, charge.value + b" "),
            ((*plain("billing.charge"), (HEADER, stolen)), b"{}"),
            (with_header(order.headers, "ce_type", b"billing.charge"), order.value),
            (with_header(charge.headers, HEADER, dict(order.headers)[HEADER]), charge.value),
            (with_header(charge.headers, HEADER, stolen.replace(b".", b".e30", 1)), charge.value),
            (with_header(charge.headers, HEADER, stolen[:-4] + b"AAA="), charge.value),
        ]
        for headers, body in attacks:
            assert is_refused(await here.refused(headers, body))
        assert here.untrusted() == len(attacks)


async def test_what_nobody_has_signed_cannot_make_a_module_act_for_itself(log: Log) -> None:
    """`CheckOut` requires nothing, and has billing charge, which does."""
    async with site(log) as here, here.app.bus.tap(noted) as tap:
        await here.thief.append([Outgoing("orders.requests", b"k", b'{"how":"send"}', plain("orders.check-out"))])
        await until(lambda: here.app.statistics()["orders"].handled["orders.check-out"] == 1)
        await until(lambda: here.app.statistics()["billing"].refused["billing.charge"] == 1)
        await here.thief.append([Outgoing("orders.announced", b"k", b'{"key":"k"}', plain("orders.announced"))])
        with anyio.fail_after(PATIENCE_S):
            event = (await anext(tap)).event
        assert isinstance(event, Noted)
        assert (event.what, event.seen.kind) == ("k", "unsigned")


async def test_an_identity_ends_and_that_of_a_request_soon(log: Log) -> None:
    clock = ManualClock()
    async with site(log, settings=evolve(SETTINGS, commit_interval_s=NEVER_S), clock=clock) as here:
        charge = await here.captured()
        await until(lambda: here.app.statistics()["billing"].handled["billing.charge"] == 1)
        clock.advance(3000)
        await here.thief.append([Outgoing("billing.requests", b"k", charge.value, charge.headers)])
        await until(lambda: here.app.statistics()["billing"].handled["billing.charge"] == 2)
        clock.advance(661)
        assert is_refused(await here.refused(charge.headers, charge.value))


async def test_the_identity_of_a_request_ends_with_its_callers_patience(log: Log) -> None:
    clock = ManualClock()
    settings = evolve(SETTINGS, commit_interval_s=NEVER_S)
    environment = Environment(clock=clock, ids=Ids(uuid4().hex), random=Random(1))
    app = App([orders, billing], settings=settings, transport=log.unopened(), environment=environment, is_loopback=True)
    async with app, log.open() as thief:
        here = Site(app, thief, settings)
        await app.bus.acting_as(ALICE).execute(Charge())
        request = (await here.stored("billing.requests", 1))[0]
        kept = tuple(pair for pair in request.headers if not pair[0].startswith("fissile-") or pair[0] == HEADER)
        clock.advance(200)
        assert is_refused(await here.refused(kept, request.value))


async def test_keys_can_be_changed_one_after_the_other(log: Log) -> None:
    """What the old key has signed is handled by who accepts both, and by nobody who has forgotten it."""
    client = App(
        [], contracts=[orders_contract, billing_contract], settings=SETTINGS, transport=log.unopened(), process="client"
    )
    async with client:
        await client.bus.acting_as(ALICE).send(Charge())
    async with site(log, settings=evolve(SETTINGS, identity_keys=(NEW_KEY, KEY))) as here:
        await until(lambda: here.app.statistics()["billing"].handled["billing.charge"] == 1)
        await here.app.bus.acting_as(ALICE).send(Charge())
        await until(lambda: here.app.statistics()["billing"].handled["billing.charge"] == 2)
        assert here.untrusted() == 0
        first, second = sorted(await here.stored("billing.requests", 2), key=lambda record: record.timestamp_ms)
        assert dict(first.headers)[HEADER].split(b".")[0] != dict(second.headers)[HEADER].split(b".")[0]
    async with site(log, settings=evolve(SETTINGS, identity_keys=(NEW_KEY,))) as here:
        assert is_refused(await here.refused(first.headers, first.value))


async def test_a_dead_letter_that_is_retried_is_still_that_of_its_sender(log: Log) -> None:
    async with site(log) as here:
        await here.app.bus.acting_as(user("bob", "billing:use")).send(Charge())
        with anyio.fail_after(PATIENCE_S):
            while not (letters := await here.app.dead_letters()):
                await anyio.sleep(0.005)
        assert (letters[0].error_type, letters[0].attempts) == ("Forbidden", 1)
        assert "billing:use" not in letters[0].reason
        await here.app.retry_dead_letters(*letters)
        with anyio.fail_after(PATIENCE_S):
            while (letters := await here.app.dead_letters())[0].attempts < 2:
                await anyio.sleep(0.005)
        assert (letters[0].error_type, letters[0].state) == ("Forbidden", "dead")
        assert here.untrusted() == 0


async def test_who_retries_or_edits_a_dead_letter_answers_for_it(log: Log) -> None:
    """It is sent for whom it was sent at first, however long ago; what nobody had signed is still from nobody."""
    clock = ManualClock()
    async with site(log, settings=evolve(SETTINGS, commit_interval_s=NEVER_S), clock=clock) as here:
        await here.app.bus.acting_as(ALICE).send(Broken())
        await here.thief.append([Outgoing("desk.requests", b"k", b"{}", plain("desk.broken", "forged"))])
        with anyio.fail_after(PATIENCE_S):
            while len(letters := await here.app.dead_letters()) < 2:
                await anyio.sleep(0.005)
        clock.advance(7 * 86_400)
        signed, forged = sorted(letters, key=lambda letter: letter.message_id == "forged")
        BROKEN.clear()
        for letter in (signed, forged):
            changed = await here.app.edit_dead_letter(letter, b'{"note":"edited"}')
            await here.app.retry_dead_letters(changed)
        await until(lambda: len(BROKEN) == 2)
        assert sorted(BROKEN) == [("edited", "", "unsigned"), ("edited", "alice", "user")]


# --- where there is no key -------------------------------------------------------------------------------------------


def test_a_shared_bus_without_a_key_is_a_fault_where_a_message_requires_a_scope() -> None:
    bus = "kafka://localhost:9092"
    (fault,) = App([orders, billing], settings=Settings(bus=bus)).check()
    assert fault.where == "FISSILE_IDENTITY_KEYS"
    assert "Who may call orders.place-order and 4 more cannot be told" in fault.what
    assert "openssl rand" in fault.cure
    assert App([orders, billing], settings=Settings(bus=bus, identity_keys=(KEY,))).check() == ()
    assert App([orders, billing]).check() == ()


async def test_beside_a_log_in_a_file_is_a_key_that_its_processes_share(tmp_path: Path) -> None:
    """Two processes that start at once, and one after a restart."""
    settings = evolve(SETTINGS, bus=f"sqlite:///{tmp_path / 'log.sqlite3'}", identity_keys=())
    for _ in range(2):
        client = App([], contracts=[orders_contract, billing_contract], settings=settings, process="client")
        async with App([orders, billing], settings=settings) as app, client:
            assert (await client.bus.acting_as(ALICE).execute(Charge())).subject == "alice"
            assert sum(each.untrusted_identities for each in app.statistics().values()) == 0
    _check_key_file(tmp_path)


def _check_key_file(folder: Path) -> None:
    (file,) = folder.glob("*identity-key*")
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_text()) >= 32


def test_a_key_that_can_be_guessed_is_a_fault() -> None:
    (fault,) = App([orders, billing], settings=Settings(identity_keys=(KEY, "short"))).check()
    assert "fewer than 32 characters" in fault.what
    assert "short" not in str(fault)


async def test_nobody_can_be_acted_for_where_other_processes_would_not_learn_of_it(log: Log) -> None:
    transport = log.unopened()
    transport.shared = True
    from tests.effects.shop import contract  # requires nothing

    settings = evolve(SETTINGS, identity_keys=())
    async with App([], contracts=[contract], settings=settings, transport=transport) as app:
        with pytest.raises(CallRefused, match="FISSILE_IDENTITY_KEYS"):
            app.bus.acting_as(ALICE)
        assert isinstance(app.bus.acting_as(None), Bus)


async def test_a_start_without_a_key_is_refused(log: Log) -> None:
    transport = log.unopened()
    transport.shared = True
    with pytest.raises(StartupFailed, match="there is no key to sign identities with"):
        async with App([orders, billing], settings=evolve(SETTINGS, identity_keys=()), transport=transport):
            pass
