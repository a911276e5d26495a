"""The whole system under compose on a real engine: the same curl as in one process."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from attrs import frozen

from tests.brokers.processes import free_ports
from tests.cli.example import fissile
from tests.deploy.engine import ROOT, Engine, NoEngine, compose_command, open_engine, skip_or_fail
from tests.deploy.images import provide

# To make the images the first time takes minutes.
pytestmark = [pytest.mark.docker, pytest.mark.timeout(1200)]

FILES = ("docker-compose.services.yml", "docker-compose.yml")
PROCESSES = ("gateway", "executor", "core")
SERVES_WITHIN_S = 90.0
PROGRAM_IN_C = '#include <stdio.h>\nint main(void) { printf("%d\\n", 6 * 7); }'

# A build's packages come through this machine's network: the engine of the tests has none for its containers.
OVERRIDE = "services:\n" + "".join(f"  {name}:\n    build: {{network: host}}\n" for name in PROCESSES)


@frozen
class System:
    """The application under compose.

    Attributes:
        engine: Where its containers are.
        command: Of compose, with its files.
        port: The gateway's.
        kafka_port: Of Kafka's listener for this machine.
        postgres_port: PostgreSQL's.
        key: What identities are signed with.
    """

    engine: Engine
    command: tuple[str, ...]
    port: int
    kafka_port: int
    postgres_port: int
    key: str

    def compose(self, *arguments: str, check: bool = True) -> str:
        variables = {
            "FISSILE_PORT": str(self.port),
            "KAFKA_PORT": str(self.kafka_port),
            "POSTGRES_PORT": str(self.postgres_port),
            "FISSILE_IDENTITY_KEYS": self.key,
        }
        return self.engine.run([*self.command, *arguments], check=check, **variables)

    def state(self, process: str) -> dict[str, Any]:
        """What the engine knows of the state of a process's container."""
        container = self.compose("ps", "--all", "--quiet", process).strip()
        state: dict[str, Any] = json.loads(self.engine.docker("inspect", "--format", "{{json .State}}", container))
        return state

    def inside(self, process: str, *command: str) -> str:
        """Run a command in a process's container."""
        return self.compose("exec", "-T", process, *command)

    def post(self, path: str, **body: str) -> tuple[int, dict[str, Any]]:
        """Send the curl."""
        request = Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode())
        request.add_header("content-type", "application/json")
        with urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)

    def wait_until_healthy(self) -> None:
        states: dict[str, str] = {}
        until = time.monotonic() + SERVES_WITHIN_S
        while time.monotonic() < until:
            states = {name: self.state(name)["Health"]["Status"] for name in PROCESSES}
            if set(states.values()) == {"healthy"}:
                return
            time.sleep(0.5)
        logs = self.compose("logs", "--no-color", "--tail=40", check=False)
        pytest.fail(f"The processes are not healthy within {SERVES_WITHIN_S:g} s: {states}\n{logs}")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """The system, up and healthy."""
    compose = compose_command()
    if compose is None:
        skip_or_fail("compose is not installed: neither `docker-compose` nor the plugin of docker")
        return
    override: Path = tmp_path_factory.mktemp("compose") / "override.yml"
    override.write_text(OVERRIDE)
    try:
        with open_engine() as engine:
            provide(engine)
            files = [word for name in (*FILES, str(override)) for word in ("-f", name)]
            project = ("-p", "fissile-tests", "--project-directory", str(ROOT))
            port, kafka_port, postgres_port = free_ports(3)
            command = (*compose, *project, *files)
            system = System(engine, command, port, kafka_port, postgres_port, secrets.token_urlsafe(32))
            system.compose("down", "--volumes", "--timeout", "1")  # of a run that was killed
            try:
                system.compose("build", *PROCESSES)
                system.compose("up", "--detach", *PROCESSES)
                system.wait_until_healthy()
                yield system
            finally:
                system.compose("down", "--volumes", "--timeout", "1", check=False)
    except NoEngine as error:
        skip_or_fail(str(error))


def test_containers_answer_the_curl_of_the_first_day_and_drain_on_sigterm(system: System) -> None:
    status, report = system.post("/api/code-executor/run-code", language="python", source="print(6*7)")
    assert (status, report["stdout"], report["exit_code"]) == (200, "42\n", 0)
    assert report["sandbox"] == "unshare"  # the strongest level that an unprivileged container can have

    # Each image has the dependencies of its own process only.
    lists = {
        name: set(system.inside(name, "ls", "/app/.venv/lib/python3.11/site-packages").split()) for name in PROCESSES
    }
    assert "quart" in lists["gateway"] - lists["executor"]
    assert "docker" in lists["executor"] - lists["gateway"]
    assert "uid=10001" in system.inside("executor", "id")

    # What a module has stored in PostgreSQL is asked for through Kafka.
    with urlopen(f"http://127.0.0.1:{system.port}/api/challenges/list-challenges?limit=1", timeout=60) as answer:
        assert [each["difficulty"] for each in json.load(answer)["challenges"]] == [1]

    # The playground and its files are in the image.
    with urlopen(f"http://127.0.0.1:{system.port}/", timeout=60) as answer:
        path = re.search(r'<script type="module" src="([^"]+)"', answer.read().decode())
    assert path is not None
    with urlopen(f"http://127.0.0.1:{system.port}{path[1]}", timeout=60) as answer:
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"

    # Kafka's other listener is for this machine.
    variables = {
        "FISSILE_PLACEMENT": "split",
        "FISSILE_BUS": f"kafka://localhost:{system.kafka_port}",
        "FISSILE_IDENTITY_KEYS": system.key,
    }
    arguments = ("call", "code-executor.run-code", "--language", "c", "--source", PROGRAM_IN_C)
    called = fissile("--json", *arguments, cwd=ROOT, **variables)
    assert called.returncode == 0, called.stderr
    assert json.loads(called.stdout)["stdout"] == "42\n"

    system.compose("stop", *PROCESSES)
    assert {name: system.state(name)["ExitCode"] for name in PROCESSES} == dict.fromkeys(PROCESSES, 0)
    logs = system.compose("logs", "--no-color", *PROCESSES)
    assert logs.count('"event":"stopped"') == len(PROCESSES), logs
