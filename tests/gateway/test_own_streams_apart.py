"""A client watches a job through a route of the application, from a gateway in a process of its own that is killed meanwhile."""

from __future__ import annotations

import http.client
import json
from contextlib import ExitStack, closing
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.cli.example import PATIENCE_S, Running, port_of, running

APPLICATION = {
    "pyproject.toml": """
        [tool.fissile]
        name = "working"
        modules = ["modules.jobs"]

        [tool.fissile.placements.split]
        gateway = ["gateway"]
        jobs = ["jobs"]
        """,
    "modules/jobs/contract.py": """
        from attrs import frozen
        from fissile import Command, Contract, Event, Topic

        contract = Contract("jobs")


        @frozen
        class Stepped(Event):
            job: str
            number: int


        @frozen
        class Finished(Event):
            job: str


        @frozen
        class Work(Command[None]):
            job: str
            first: int
            count: int
            is_last: bool = False


        steps: Topic[Stepped | Finished] = Topic("jobs.steps", Stepped, Finished, key=lambda event: event.job, public=False)
        """,
    "modules/jobs/service.py": """
        from fissile import Bus, Module

        from .contract import Finished, Stepped, Work, contract

        module = Module(contract)


        @module.command(Work, idempotent=True)
        async def work(command: Work, bus: Bus) -> None:
            for number in range(command.first, command.first + command.count):
                await bus.publish(Stepped(command.job, number))
                await bus.publish(Stepped("another", number))
            if command.is_last:
                await bus.publish(Finished(command.job))
        """,
    "gateway/__init__.py": "",
    "gateway/app/__init__.py": "",
    "gateway/app/jobs.py": """
        from quart import Blueprint, Response
        from fissile_gateway import stream
        from modules.jobs.contract import Finished, steps

        blueprint = Blueprint("jobs", __name__)


        @blueprint.get("/jobs/<job>")
        async def watch(job: str) -> Response:
            return await stream(steps, key=job, start="earliest", until=lambda event: isinstance(event, Finished))
        """,
}


def work(port: int, first: int, count: int, *, is_last: bool = False) -> None:
    """Have some steps taken."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    body = json.dumps({"job": "a", "first": first, "count": count, "is_last": is_last})
    connection.request("POST", "/api/jobs/work", body, {"content-type": "application/json"})
    assert connection.getresponse().status == 204
    connection.close()


class Watch:
    """One connection of a client that watches."""

    def __init__(self, port: int, last_id: str = "") -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        headers = {"last-event-id": last_id} if last_id else {}
        self.connection.request("GET", "/jobs/a", headers=headers)
        self.answer = self.connection.getresponse()
        self.last_id = last_id

    def close(self) -> None:
        """Leave."""
        self.answer.close()
        self.connection.close()

    def read(self, count: int) -> list[Any]:
        """Read events: the numbers of steps, the names of others."""
        found: list[Any] = []
        fields: dict[str, str] = {}
        while len(found) < count:
            line = self.answer.readline().decode()
            assert line, found
            if line.strip():
                name, _, value = line.rstrip("\n").partition(": ")
                fields[name] = value
                continue
            self.last_id = fields.get("id", self.last_id)
            if "event" in fields:
                name = fields["event"]
                found.append(json.loads(fields["data"])["number"] if name == "stepped" else name)
            fields = {}
        return found


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_client_sees_a_job_from_beginning_to_end_whichever_gateway_is_killed(tmp_path: Path, backend: str) -> None:
    for name, text in APPLICATION.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    settings = {
        "FISSILE_PARTITIONS": "2",
        "FISSILE_REPLY_PARTITIONS": "4",
        "FISSILE_BUS": f"sqlite:///{tmp_path / 'log.sqlite3'}",
    }
    with ExitStack() as stack:

        def run(process: str) -> Running:
            arguments = ("run", process, "--placement", "split", "--port", "0", "--backend", backend)
            return stack.enter_context(running(*arguments, cwd=tmp_path, **settings))

        def watching(port: int, last_id: str = "") -> Watch:
            return stack.enter_context(closing(Watch(port, last_id)))

        jobs, first, second = run("jobs"), run("gateway"), run("gateway")
        jobs.wait_for("ready")
        one, other = (port_of(each.wait_for("ready")) for each in (first, second))
        work(one, 0, 10)
        watch = watching(one)
        assert watch.read(10) == [*range(10)]
        work(other, 10, 5)
        assert watch.read(5) == [*range(10, 15)]
        first.process.kill()
        work(other, 15, 5, is_last=True)
        again = watching(other, watch.last_id)
        assert again.read(7) == [*range(15, 20), "finished", "end"]
        assert again.answer.read() == b""
        assert watching(other, again.last_id).answer.status == 204
        assert watching(other).read(22) == [*range(20), "finished", "end"]
