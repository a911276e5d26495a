"""Processes whose `FISSILE_WIRE` differs, as while it is changed: each reads what the others have written."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

import anyio
import msgspec
import pytest
from attrs import frozen

from fissile import App, Command, Contract, DeclaredError, Event, InvalidMessage, Module, Retry, Settings, Topic
from fissile._clock import SystemClock
from fissile._delivery.dead_letters import DeadLetter
from fissile.abc import Outgoing
from fissile.transports.memory import MemoryLog, MemoryTransport
from tests.remote.site import until

Wire = Literal["json", "msgpack"]
both_ways = pytest.mark.parametrize(("ours", "theirs"), [("json", "msgpack"), ("msgpack", "json")])


@frozen
class Refused(DeclaredError):
    text: str


@frozen
class Echo(Command[str], raises=(Refused,)):
    text: str


@frozen
class Said(Event):
    text: str


said = Topic("echoes.said", Said, key=lambda event: event.text)
contract = Contract("echoes", messages=[Echo, Refused, Said], topics=[said])
listener = Contract("listener", messages=[])


def echoes() -> Module:
    module = Module(contract)

    @module.command(Echo, idempotent=True, retry=Retry(attempts=1))
    async def echo(command: Echo) -> str:
        if command.text == "refuse":
            raise Refused(command.text)
        return command.text

    return module


def listening(heard: list[str]) -> Module:
    module = Module(listener)

    @module.subscribe(said, retry=Retry(attempts=1))
    async def on_said(event: Said) -> None:
        if event.text == "mend me":
            raise ValueError(event.text)
        heard.append(event.text)

    return module


@asynccontextmanager
async def process(log: MemoryLog, wire: Wire, *modules: Module) -> AsyncGenerator[App]:
    settings = Settings(wire=wire, partitions=1, reply_partitions=1, commit_interval_s=0.02, drain_s=2.0)
    hosted = {module.name for module in modules}
    others = [each for each in (contract, listener) if each.name not in hosted]
    app = App(modules, contracts=others, settings=settings, transport=MemoryTransport(log), is_loopback=True)
    async with app:
        yield app


def new_log() -> MemoryLog:
    return MemoryLog(SystemClock(), 2**24, 2**20)


async def letters_of(app: App, module: str) -> Sequence[DeadLetter]:
    with anyio.fail_after(10.0):
        while not (found := await app.dead_letters(module)):
            await anyio.sleep(0.005)
    return found


@both_ways
async def test_a_call_and_its_answer_are_read_by_processes_with_another_format(ours: Wire, theirs: Wire) -> None:
    log = new_log()
    async with process(log, theirs, echoes()) as host, process(log, ours) as caller:
        assert await caller.bus.execute(Echo("ä")) == "ä"
        with pytest.raises(Refused) as refused:
            await caller.bus.execute(Echo("refuse"))
        assert refused.value == Refused("refuse")
        assert await host.dead_letters("echoes") == ()


@both_ways
async def test_events_and_commands_that_are_stored_are_read_after_a_change_of_the_format(
    ours: Wire, theirs: Wire
) -> None:
    log, heard = new_log(), list[str]()
    async with process(log, ours) as before:
        await before.bus.publish(Said("a"))
        await before.bus.send(Echo("b"))
        async with process(log, theirs, echoes(), listening(heard)) as after:
            async with after.bus.replay(said) as events:
                assert [kept.event async for kept in events] == [Said("a")]
            await until(lambda: heard == ["a"] and after.statistics()["echoes"].handled == {"echoes.echo": 1})
            assert await after.dead_letters() == ()


@both_ways
async def test_a_dead_letter_keeps_its_format_when_it_is_edited_and_retried(ours: Wire, theirs: Wire) -> None:
    log, heard = new_log(), list[str]()
    encode = msgspec.json.encode if ours == "json" else msgspec.msgpack.encode
    async with process(log, ours) as before, process(log, theirs, listening(heard)) as after:
        await before.bus.publish(Said("mend me"))
        (letter,) = await letters_of(after, "listener")
        changed = await after.edit_dead_letter(letter, encode({"text": "mended"}))
        await after.retry_dead_letters(changed)
        await until(lambda: heard == ["mended"])


async def test_what_another_program_sends_without_saying_its_format_is_read_as_the_setting_says() -> None:
    log, heard = new_log(), list[str]()
    async with process(log, "msgpack", listening(heard)) as host:
        transport = MemoryTransport(log)
        kind = ("ce_type", b"echoes.said")
        json = ("content-type", b"Application/JSON; charset=utf-8")
        await transport.append([Outgoing("echoes.said", None, msgspec.msgpack.encode({"text": "a"}), (kind,))])
        await transport.append([Outgoing("echoes.said", None, b'{"text":"b"}', (kind, json))])
        await until(lambda: heard == ["a", "b"])
        await transport.append([Outgoing("echoes.said", None, b"{", (kind, json))])
        (letter,) = await letters_of(host, "listener")
        assert letter.error_type == InvalidMessage.__name__
        assert letter.reason.startswith("echoes.said cannot be read: ")
