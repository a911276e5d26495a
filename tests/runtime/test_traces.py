"""Traces: read, begun, carried along chains, told in logs; the same in one process and through the log."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from attrs import frozen

from fissile import Bus, Command, Contract, Event, Module, Query, Topic, Trace, current_trace
from fissile._trace import ambient, begin_trace, read_trace
from fissile.abc import Record
from fissile.testing import ManualClock
from tests.runtime.helpers import app_of, client_of, log_of, until

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        PARENT[:-1],
        PARENT.upper(),
        PARENT + b"-more",
        PARENT + b"\n",
        b" " + PARENT,
        b"ff" + PARENT[2:],
        b"00-" + b"0" * 32 + PARENT[35:],
        PARENT[:36] + b"0" * 16 + b"-01",
        b"01" + PARENT[2:] + b"-" + b"x" * 300,
    ],
)
def test_a_traceparent_that_is_not_valid_is_passed_over(wrong: bytes) -> None:
    assert read_trace(wrong) is None


def test_a_traceparent_is_read_and_written() -> None:
    trace = read_trace(PARENT, b"rojo=1, congo=t61rcWkgMzE")
    assert trace == Trace(TRACE_ID, "b7ad6b7169203331", 1, "rojo=1,congo=t61rcWkgMzE")
    assert trace.is_sampled
    assert trace.traceparent.encode() == PARENT


def test_a_later_version_is_read_as_this_one_and_flags_that_are_not_known_are_dropped() -> None:
    trace = read_trace(b"cc" + PARENT[2:-2] + b"ff-what-the-future-brings")
    assert trace is not None
    assert trace.traceparent.endswith("-03")


@pytest.mark.parametrize(
    "state",
    [b"=x", b"a=1,a=2", b"A=1", b"a=\x07", b"a=1;b,=", b"a=" + b"x" * 600, b",".join(b"k%d=1" % n for n in range(33))],
)
def test_a_tracestate_that_is_not_valid_is_dropped_and_its_trace_is_not(state: bytes) -> None:
    trace = read_trace(PARENT, state)
    assert trace is not None
    assert trace.state == ""


# --- chains ----------------------------------------------------------------------------------------------------------


@frozen
class Inner(Query[str]):
    text: str


@frozen
class Outer(Command[tuple[str, str]]):
    text: str
    id: str = ""


@frozen
class Told(Event):
    text: str


@frozen
class Again(Command[None]):
    text: str


topic = Topic("traced.told", Told, key=lambda event: event.text)
contract = Contract("traced", messages=[Inner, Outer, Told, Again], topics=[topic])
inner_contract = Contract("inner", messages=[])
_logger = logging.getLogger("tests.traced")


class Seen:
    """The traces that handlers have seen."""

    def __init__(self) -> None:
        self.traces: dict[str, Trace] = {}

    def note(self, name: str) -> str:
        trace = current_trace()
        assert trace is not None
        self.traces[name] = trace
        return trace.trace_id


def traced_module(seen: Seen) -> Module:
    module = Module(contract)

    @module.query(Inner)
    async def inner(query: Inner) -> str:
        return seen.note("inner")

    @module.command(Outer, idempotent=True)
    async def outer(command: Outer, bus: Bus) -> tuple[str, str]:
        own = seen.note("outer")
        _logger.info("at work")
        await bus.publish(Told(command.text))
        await bus.send(Again(command.text), id=command.id or None)
        return own, await bus.ask(Inner(command.text))

    @module.command(Again, idempotent=True)
    async def again(command: Again) -> None:
        seen.note("again")

    @module.subscribe(topic)
    async def told(event: Told) -> None:
        seen.note("told")

    return module


@pytest.fixture(params=[False, True], ids=["local", "through-the-log"])
def is_loopback(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def run_chain(trace: Trace | None, *, is_loopback: bool, message: Outer | None = None) -> dict[str, Trace]:
    seen = Seen()
    async with app_of(traced_module(seen), is_loopback=is_loopback) as app:
        token = ambient.set(trace)
        try:
            await app.bus.execute(message or Outer("x"), id="given.id")
        finally:
            ambient.reset(token)
        await until(lambda: len(seen.traces) == 4)
    return seen.traces


async def test_a_trace_that_was_given_goes_through_calls_sends_and_events(is_loopback: bool) -> None:
    given = read_trace(PARENT, b"a=1")
    traces = await run_chain(given, is_loopback=is_loopback)
    assert {(trace.trace_id, trace.flags, trace.state) for trace in traces.values()} == {(TRACE_ID, 1, "a=1")}
    assert len({trace.span_id for trace in traces.values()} | {"b7ad6b7169203331"}) == 5


@pytest.mark.parametrize("id_", ["", "chosen.by-somebody"])
async def test_a_chain_without_a_trace_has_one_that_is_the_same_in_every_placement(id_: str) -> None:
    message = Outer("x", id_)
    local = await run_chain(None, is_loopback=False, message=message)
    remote = await run_chain(None, is_loopback=True, message=message)
    assert len({trace.trace_id for trace in [*local.values(), *remote.values()]}) == 1
    assert local == remote


async def records_of(trace: Trace | None, topic_name: str) -> list[Record]:
    clock = ManualClock()
    log = log_of(clock)
    seen = Seen()
    async with app_of(traced_module(seen), clock=clock, transport=client_of(log), is_loopback=True) as app:
        token = ambient.set(trace)
        await app.bus.execute(Outer("x"))
        ambient.reset(token)
        await until(lambda: len(seen.traces) == 4)
        async with (
            client_of(log) as client,
            client.read(
                [(topic_name, number) for number in range(16 if topic_name == "replies" else 4)], "earliest"
            ) as reader,
        ):
            found = list(await reader.receive())
    return found


@pytest.mark.parametrize(("name", "least"), [("traced.requests", 3), ("traced.told", 1), ("replies", 2)])
async def test_only_a_trace_that_was_given_is_carried_in_headers(name: str, least: int) -> None:
    for trace, is_carried in ((read_trace(PARENT, b"a=1"), True), (None, False)):
        records = await records_of(trace, name)
        assert len(records) >= 1
        for record in records:
            headers = dict(record.headers)
            assert ("traceparent" in headers, "tracestate" in headers) == (is_carried, is_carried)
            if is_carried:
                assert headers["traceparent"].startswith(b"00-" + TRACE_ID.encode())


async def test_the_log_of_a_handler_tells_its_trace(is_loopback: bool, caplog: pytest.LogCaptureFixture) -> None:
    from fissile._logging import fields_of_record

    told: list[dict[str, Any]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(fields_of_record(record))

    keep = Keep()
    _logger.addHandler(keep)
    caplog.set_level(logging.INFO, _logger.name)
    try:
        traces = await run_chain(read_trace(PARENT), is_loopback=is_loopback)
    finally:
        _logger.removeHandler(keep)
    (fields,) = told
    assert (fields["trace_id"], fields["span_id"]) == (TRACE_ID, traces["outer"].span_id)
    assert (fields["module"], fields["message"]) == ("traced", "traced.outer")


def test_outside_of_everything_there_is_no_trace() -> None:
    assert current_trace() is None


def test_each_trace_that_is_begun_is_another() -> None:
    one, two = begin_trace("1"), begin_trace("2")
    assert read_trace(one.traceparent.encode()) == one
    assert one.trace_id != two.trace_id
