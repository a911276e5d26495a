"""The application as somebody runs it, in one process and in several, and the browser to look at it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.brokers.fixtures import apache_kafka as apache_kafka
from tests.brokers.postgres import postgres as postgres
from tests.cli.example import port_of, running
from tests.playground.browsing import Visitor, open_chromium

ROOT = Path(__file__).parents[2]
IS_SOAK = os.environ.get("FISSILE_TEST_SOAK", "0") not in ("", "0")


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    """The browser."""
    with open_chromium() as browser:
        yield browser


def _started(folder: Path, *arguments: str, ready: str, **settings: str) -> Iterator[str]:
    common = {
        "FISSILE_CODE_EXECUTOR_SANDBOX": "local",
        "FISSILE_DATABASE": f"sqlite:///{folder}",
        "FISSILE_DATABASE_MIGRATE": "true",
        "FISSILE_TRUSTED_PROXIES": "127.0.0.1",  # see Visitor.come
    }
    with running(*arguments, "--port", "0", cwd=ROOT, **{**common, **settings}) as run:
        port = port_of(run.wait_for("http://127.0.0.1:"))
        if ready:
            run.wait_for(ready)
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="package")
def monolith(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The application in one process, as `fissile run` has it without Kafka: the log in a file."""
    folder = tmp_path_factory.mktemp("monolith")
    yield from _started(folder, "run", ready="", FISSILE_BUS=f"sqlite:///{folder}/log.sqlite3")


@pytest.fixture(scope="package")
def split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The application in three processes on the embedded broker, as `make split` has it."""
    yield from _started(tmp_path_factory.mktemp("split"), "dev", "--split", "--no-reload", ready="Ready in")


@pytest.fixture(scope="package")
def production(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    """The application in three processes, on Apache Kafka, PostgreSQL and Docker."""
    kafka = request.getfixturevalue("apache_kafka")
    database = request.getfixturevalue("own_database")
    engine = request.getfixturevalue("docker_sandbox")
    yield from _started(
        tmp_path_factory.mktemp("production"),
        "dev",
        "--split",
        "--no-reload",
        ready="Ready in",
        FISSILE_BUS=f"kafka://{kafka}",
        FISSILE_DATABASE=database,
        **engine,
    )


@pytest.fixture(
    params=[
        "monolith",
        "split",
        pytest.param("production", marks=pytest.mark.skipif(not IS_SOAK, reason="takes long; set FISSILE_TEST_SOAK")),
    ],
    scope="package",
)
def placement(request: pytest.FixtureRequest) -> str:
    """Where the application is, in each placement."""
    url: str = request.getfixturevalue(request.param)
    return url


@pytest.fixture
def come(chromium: Browser) -> Iterator[Callable[..., Visitor]]:
    """Let somebody come with a browser of their own; when the test ends, no page may have complained of anything."""
    visitors: list[Visitor] = []

    def come(url: str, **options: object) -> Visitor:
        visitors.append(Visitor.come(chromium, url, **options))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.leave()
