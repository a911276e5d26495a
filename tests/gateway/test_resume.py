"""A client of an event stream outlives its gateways: they are killed, replaced and changed, on logs that several processes share."""

from __future__ import annotations

import http.client
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import dedent
from threading import Condition, Thread
from uuid import uuid4

import pytest
from attrs import define, field

from tests.cli.example import PATIENCE_S, Running, port_of, running

KEYS = 5
APPLICATION = {
    "pyproject.toml": """
        [tool.fissile]
        name = "ticking"
        modules = ["modules.ticker"]

        [tool.fissile.placements.split]
        gateway = ["gateway"]
        ticker = ["ticker"]
        """,
    "modules/ticker/contract.py": """
        from attrs import frozen
        from fissile import Command, Contract, Event, Topic

        contract = Contract("ticker")


        @frozen
        class Ticked(Event):
            key: str
            number: int


        @frozen
        class Tick(Command[None]):
            first: int
            count: int


        ticks = Topic("ticker.ticks", Ticked, key=lambda event: event.key)
        """,
    "modules/ticker/service.py": f"""
        from fissile import Bus, Module

        from .contract import Tick, Ticked, contract

        module = Module(contract)


        @module.command(Tick, idempotent=True)
        async def tick(command: Tick, bus: Bus) -> None:
            for number in range(command.first, command.first + command.count):
                await bus.publish(Ticked(f"k{{number % {KEYS}}}", number // {KEYS}))
        """,
}


@define(eq=False)
class Client:
    """Reads a stream as a browser does: when it ends it connects again, and says which event it had last.

    Attributes:
        port: Where it connects.
        seen: The numbers of the events it had, per key, in order.
        resets: What it was told of events that are lost.
    """

    port: int
    seen: dict[str, list[int]] = field(factory=lambda: defaultdict[str, list[int]](list))
    resets: list[str] = field(factory=list[str])
    connections: int = 0
    last_id: str = ""
    is_over: bool = False
    _changed: Condition = field(factory=Condition)

    def run(self) -> None:
        while not self.is_over:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                headers = {"last-event-id": self.last_id} if self.last_id else {}
                connection.request("GET", "/api/ticker/topics/ticks", headers=headers)
                self._read(connection.getresponse())
            except (OSError, http.client.HTTPException):
                continue
            finally:
                connection.close()

    def _read(self, answer: http.client.HTTPResponse) -> None:
        if answer.status != 200:
            return
        self.connections += 1
        fields: dict[str, str] = {}
        while (line := answer.readline()) and not self.is_over:
            text = line.decode().rstrip("\n")
            if text:
                name, _, value = text.partition(": ")
                fields[name] = value
                continue
            with self._changed:
                self.last_id = fields.get("id", self.last_id)
                if fields.get("event") == "ticked":
                    event = json.loads(fields["data"])
                    self.seen[event["key"]].append(event["number"])
                elif "event" in fields:
                    self.resets.append(fields["data"])
                self._changed.notify_all()
            fields = {}

    def wait_until(self, number: int) -> None:
        """Wait until it has had the events up to a number of every key."""

        def has_them() -> bool:
            return len(self.seen) == KEYS and all(max(numbers) >= number for numbers in self.seen.values())

        with self._changed:
            assert self._changed.wait_for(has_them, PATIENCE_S), self

    def wait_connected(self, times: int) -> None:
        """Wait until it has been connected so many times."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.connections >= times and bool(self.last_id), PATIENCE_S), self


def judge(seen: dict[str, list[int]], last: int) -> list[str]:
    """Return what is wrong with what a client has had: every event up to the last one at least once, and in order per key.

    An event that comes again, after one that came later, is no fault: at least once.
    """
    faults: list[str] = []
    for key, numbers in sorted(seen.items()):
        reached = -1
        for number in numbers:
            if number > reached + 1:
                faults.append(f"{key}: {number} came after {reached}")
            reached = max(reached, number)
        if reached != last:
            faults.append(f"{key}: {reached} was the last, not {last}")
    return faults


@contextmanager
def reading(port: int) -> Iterator[Client]:
    client = Client(port)
    thread = Thread(target=client.run, daemon=True)
    thread.start()
    try:
        yield client
    finally:
        client.is_over = True


def tick(port: int, first: int, count: int = 50) -> None:
    """Have events published."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    body = json.dumps({"first": first, "count": count})
    connection.request("POST", "/api/ticker/tick", body, {"content-type": "application/json"})
    assert connection.getresponse().status == 204
    connection.close()


def change_gateways(folder: Path, backend: str, settings: dict[str, str]) -> Client:
    """Have a client read from gateways that are killed while events come; return the client."""
    for name, text in APPLICATION.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    settings = {"FISSILE_PARTITIONS": "3", "FISSILE_REPLY_PARTITIONS": "4", **settings}

    with ExitStack() as stack:

        def run(process: str) -> Running:
            arguments = ("run", process, "--placement", "split", "--port", "0", "--backend", backend)
            return stack.enter_context(running(*arguments, cwd=folder, **settings))

        ticker, first, second = run("ticker"), run("gateway"), run("gateway")
        ticker.wait_for("ready")
        ports = [port_of(each.wait_for("ready")) for each in (first, second)]
        with reading(ports[0]) as client:
            client.wait_connected(1)
            tick(ports[1], 0)
            client.wait_until(4)
            client.port = ports[1]  # a balancer sends it to another replica
            first.process.kill()
            tick(ports[1], 50)
            client.wait_until(14)
            third = run("gateway")
            port = port_of(third.wait_for("ready"))
            tick(ports[1], 100)
            second.process.kill()
            tick(port, 150)  # before the client is there
            client.port = port
            client.wait_until(39)
    return client


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_client_gets_every_event_in_order_whichever_gateways_are_killed(tmp_path: Path, backend: str) -> None:
    client = change_gateways(tmp_path, backend, {"FISSILE_BUS": f"sqlite:///{tmp_path / 'log.sqlite3'}"})
    assert judge(client.seen, 39) == []
    assert client.resets == []
    assert client.connections >= 3


def test_a_client_gets_every_event_in_order_over_kafka_too(tmp_path: Path, apache_kafka: str) -> None:
    settings = {"FISSILE_BUS": f"kafka://{apache_kafka}", "FISSILE_KAFKA_PREFIX": f"test-{uuid4().hex[:8]}."}
    client = change_gateways(tmp_path, "asyncio", settings)
    assert judge(client.seen, 39) == []
    assert client.resets == []


def test_the_judge_sees_a_gap_a_swap_and_a_missing_end() -> None:
    assert judge({"k": [0, 1, 0, 1, 2]}, 2) == []
    assert judge({"k": [0, 2, 1]}, 2) == ["k: 2 came after 0"]
    assert judge({"k": [0, 1]}, 2) == ["k: 1 was the last, not 2"]
