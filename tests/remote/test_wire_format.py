"""docs/wire-format.md, held by a program that knows nothing else: bare aiokafka, on the embedded broker."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import define, field, frozen

from fissile import App, Bus, Command, Contract, DeclaredError, Event, Identity, Module, Settings, Topic
from fissile._asyncapi_headers import EVENT_HEADERS, HEADERS, OUTCOME_HEADERS, REQUEST_HEADERS
from tests.remote.site import until

PAGE = (Path(__file__).parent.parent.parent / "docs" / "wire-format.md").read_text(encoding="utf-8")

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""The other program is on it; fissile is tried on all elsewhere."""


@frozen
class Table:
    """A table of headers of the page."""

    needed: frozenset[str]
    others: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        return self.needed | self.others


def tables() -> dict[str, Table]:
    """The tables of headers, by the heading that they stand under."""
    found: dict[str, Table] = {}
    for section in re.split(r"^##+ ", PAGE, flags=re.MULTILINE)[1:]:
        _, has_table, rows = section.partition("| header | needed |")
        if has_table:
            needed: set[str] = set()
            others: set[str] = set()
            for row in rows.partition("\n\n")[0].splitlines()[2:]:
                names, is_needed = row.split("|")[1:3]
                (needed if is_needed.strip() == "yes" else others).update(re.findall(r"`([^`]+)`", names))
            found[section.partition("\n")[0]] = Table(frozenset(needed), frozenset(others))
    return found


TABLES = tables()
MESSAGE, REQUEST, CANCELLATION, REPLY = (TABLES[each] for each in ("Messages", "Requests", "Cancellations", "Replies"))


@frozen
class Refused(DeclaredError):
    text: str


@frozen
class Work(Command[str], raises=(Refused,)):
    text: str


@frozen
class Relay(Command[str]):
    text: str


@frozen
class Worked(Event):
    text: str


worked = Topic("wire-worker.worked", Worked, key=lambda event: event.text)
worker = Contract("wire-worker", messages=[Work, Refused, Worked], topics=[worked])
relay = Contract("wire-relay", messages=[Relay])


@define
class Desk:
    began: list[str] = field(factory=list[str])
    cancelled: list[str] = field(factory=list[str])


def modules(desk: Desk) -> list[Module]:
    working, relaying = Module(worker), Module(relay)

    @working.command(Work, idempotent=True)
    async def work(command: Work, bus: Bus) -> str:
        desk.began.append(command.text)
        if command.text == "refuse":
            raise Refused(command.text)
        if command.text == "wait":
            try:
                await anyio.sleep_forever()
            except BaseException:
                desk.cancelled.append(command.text)
                raise
        await bus.publish(Worked(command.text))
        return f"did {command.text}"

    @relaying.command(Relay, idempotent=True)
    async def pass_on(command: Relay, bus: Bus) -> str:
        return await bus.execute(Work(command.text))

    return [working, relaying]


@define
class Foreigner:
    """A program that knows the page, and aiokafka."""

    servers: str
    prefix: str
    producer: Any
    replies: Any
    numbers: Any = field(factory=count)

    async def send(self, topic: str, partition: int, body: object, headers: Mapping[str, str]) -> None:
        value = b"" if body is None else json.dumps(body).encode()
        encoded = [(name, text.encode()) for name, text in headers.items()]
        await self.producer.send_and_wait(self.prefix + topic, value, b"k", partition, headers=encoded)

    async def call(self, kind: str, body: object, budget_ms: int = 60_000) -> str:
        """Send a request with the headers that the page says are needed, and no others."""
        correlation = f"foreign-{next(self.numbers)}"
        headers = {
            "ce_specversion": "1.0",
            "ce_id": correlation,
            "ce_type": kind,
            "ce_source": "/elsewhere",
            "fissile-correlation": correlation,
            "fissile-reply-to": "replies/1",
            "fissile-budget-ms": str(budget_ms),
        }
        assert headers.keys() == MESSAGE.needed | REQUEST.needed
        await self.send("wire-worker.requests", 0, body, headers)
        return correlation

    async def answer(self, correlation: str) -> tuple[str, bytes]:
        """Wait for a reply; return its outcome and its body."""
        with anyio.fail_after(30.0):
            async for record in self.replies:
                headers = {name: value.decode() for name, value in record.headers}
                if headers["fissile-correlation"] == correlation:
                    assert REPLY.needed <= headers.keys() <= REPLY.names
                    return headers["fissile-outcome"], record.value
        raise AssertionError

    async def all_of(self, topic: str, partitions: int) -> list[Any]:
        """Everything that a topic has."""
        from aiokafka import AIOKafkaConsumer, TopicPartition

        async with AIOKafkaConsumer(bootstrap_servers=self.servers, auto_offset_reset="earliest") as consumer:
            places = [TopicPartition(self.prefix + topic, number) for number in range(partitions)]
            consumer.assign(places)
            left = sum((await consumer.end_offsets(places)).values())
            with anyio.fail_after(30.0):
                return [await consumer.getone() for _ in range(left)]


numbers = count()


@asynccontextmanager
async def foreigner(servers: str, app_settings: Settings) -> AsyncGenerator[Foreigner]:
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

    prefix = app_settings.kafka_prefix
    async with (
        AIOKafkaProducer(bootstrap_servers=servers) as producer,
        AIOKafkaConsumer(bootstrap_servers=servers) as replies,
    ):
        partition = TopicPartition(f"{prefix}replies", 1)
        replies.assign([partition])
        await replies.seek_to_end(partition)
        await replies.position(partition)
        yield Foreigner(servers, prefix, producer, replies)


@asynccontextmanager
async def both(servers: str, desk: Desk, **more: Any) -> AsyncGenerator[tuple[App, Foreigner]]:
    """Fissile on one side, another program on the other."""
    settings = Settings(
        bus=f"kafka://{servers}",
        kafka_prefix=f"wire{os.getpid()}-{next(numbers)}.",
        kafka_heartbeat_s=0.2,
        partitions=1,
        reply_partitions=2,
        **more,
    )
    with anyio.fail_after(60.0):
        async with (
            App(modules(desk), settings=settings, is_loopback=True) as app,
            foreigner(servers, settings) as other,
        ):
            yield app, other


@on_asyncio
async def test_a_request_is_answered_with_a_reply_or_a_declared_error_or_why_it_is_none(embedded_kafka: str) -> None:
    async with both(embedded_kafka, Desk()) as (_, other):
        outcome, body = await other.answer(await other.call("wire-worker.work", {"text": "a"}))
        assert (outcome, json.loads(body)) == ("replied", "did a")
        outcome, body = await other.answer(await other.call("wire-worker.work", {"text": "refuse"}))
        assert (outcome, json.loads(body)) == ("declared:Refused", {"text": "refuse"})
        outcome, body = await other.answer(await other.call("wire-worker.work", {"text": 1}))
        assert outcome == "invalid"
        assert b"text" in body
        outcome, body = await other.answer(await other.call("wire-worker.none", {"text": "a"}))
        assert outcome == "invalid"


@on_asyncio
async def test_a_cancellation_stops_the_handler_of_its_request(embedded_kafka: str) -> None:
    desk = Desk()
    async with both(embedded_kafka, desk) as (_, other):
        correlation = await other.call("wire-worker.work", {"text": "wait"})
        await until(lambda: desk.began == ["wait"])
        headers = {"fissile-cancel": correlation}
        assert headers.keys() == CANCELLATION.needed
        await other.send("wire-worker.requests", 0, None, headers)
        await until(lambda: desk.cancelled == ["wait"])


@on_asyncio
async def test_a_request_is_stopped_when_its_budget_has_passed(embedded_kafka: str) -> None:
    desk = Desk()
    async with both(embedded_kafka, desk) as (_, other):
        await other.call("wire-worker.work", {"text": "wait"}, budget_ms=1000)
        await until(lambda: desk.cancelled == ["wait"])


def check(records: Collection[Any], *wanted: Table) -> set[str]:
    """Check that records have what the page says is needed, and nothing that it does not name; return all that they have."""
    needed, named = (frozenset[str]().union(*(getattr(each, kind) for each in wanted)) for kind in ("needed", "names"))
    seen: set[str] = set()
    assert records
    for record in records:
        names = {name for name, _ in record.headers}
        assert needed <= names, names
        assert names <= named, names - named
        seen |= names
    return seen


@on_asyncio
async def test_what_fissile_writes_has_the_headers_of_the_page_and_no_others(embedded_kafka: str) -> None:
    desk = Desk()
    keys = ("a secret of thirty-two characters",)
    async with both(embedded_kafka, desk, identity_keys=keys) as (app, other):
        bus = app.bus.acting_as(Identity("alice"))
        assert await bus.execute(Relay("a")) == "did a"
        await app.bus.send(Work("b"))
        await until(lambda: "b" in desk.began)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(app.bus.execute, Work("wait"))
                await until(lambda: "wait" in desk.began)
                scope.cancel()
        await until(lambda: desk.cancelled == ["wait"])
        requests = await other.all_of("wire-worker.requests", 1) + await other.all_of("wire-relay.requests", 1)
        cancellations = [one for one in requests if not one.value]
        sent = [
            one for one in requests if one.value and not any(name == "fissile-correlation" for name, _ in one.headers)
        ]
        waiting = [one for one in requests if one not in cancellations and one not in sent]
        check(cancellations, CANCELLATION)
        check(sent, MESSAGE)
        seen = check(waiting, MESSAGE, REQUEST) | check(await other.all_of("wire-worker.worked", 1), MESSAGE)
        check(await other.all_of("replies", 2), REPLY)
        # What the page names is there, but for what only a tracer adds.
        assert (MESSAGE.names | REQUEST.names) - seen == {"traceparent", "tracestate"}


def test_the_api_document_names_the_headers_of_the_page() -> None:
    wanted = {EVENT_HEADERS: [MESSAGE], REQUEST_HEADERS: [MESSAGE, REQUEST], OUTCOME_HEADERS: [REPLY]}
    for trait, parts in wanted.items():
        headers = HEADERS[trait]["headers"]
        needed = {
            *headers["required"],
            *(name for names in headers.get("dependencies", {}).items() for name in (names[0], *names[1])),
        }
        assert set(headers["properties"]) == set().union(*(each.names for each in parts))
        assert needed == set().union(*(each.needed for each in parts))
