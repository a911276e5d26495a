"""The application as somebody runs it, in one process and in several, and the browser to look at it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from playwright.sync_api import Browser

from modules.code_executor.sandbox._engine import IMAGE
from tests.brokers.fixtures import apache_kafka as apache_kafka
from tests.brokers.postgres import postgres as postgres
from tests.cli.example import port_of, running
from tests.modules.code_executor.engine import NoEngine, open_engine
from tests.playground.browsing import IS_SOAK, Visitor, open_chromium, skip_or_fail

ROOT = Path(__file__).parents[2]
HAS_ALL_PARTS = IS_SOAK or {"kafka", "postgres", "docker"} <= set(os.environ.get("FISSILE_REQUIRE", "").split(","))
"""Whether the application is tried on all its real parts: it takes half a minute, and each of them on the machine."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser, for one file: while it is open a loop runs in this thread, which tests with loops of their own could not bear."""
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
def docker_engine() -> Iterator[None]:
    """A Docker engine with the image of the sandbox; the environment names it while it is open."""
    try:
        with open_engine() as engine:
            is_there = bool(engine.api.images(name=IMAGE, quiet=True))
            if not is_there:
                engine.api.tag(engine.image, IMAGE)
            yield
            if not is_there:
                engine.api.remove_image(IMAGE)  # the name only: the image has another
    except NoEngine as error:
        skip_or_fail(str(error), "docker")


@pytest.fixture(scope="package")
def own_database(postgres: str) -> Iterator[str]:
    """The URL of a database of PostgreSQL that is empty."""
    import psycopg

    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield f"{postgres.rpartition('/')[0]}/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.fixture(scope="package")
def production(
    tmp_path_factory: pytest.TempPathFactory, apache_kafka: str, own_database: str, docker_engine: None
) -> Iterator[str]:
    """The application in three processes, on Apache Kafka, PostgreSQL and Docker."""
    settings = {
        "FISSILE_BUS": f"kafka://{apache_kafka}",
        "FISSILE_KAFKA_PREFIX": f"test-{uuid4().hex[:8]}-",
        "FISSILE_DATABASE": own_database,
        "FISSILE_CODE_EXECUTOR_SANDBOX": "docker",
    }
    folder = tmp_path_factory.mktemp("production")
    yield from _started(folder, "dev", "--split", "--no-reload", ready="Ready in", **settings)


@pytest.fixture(
    params=[
        "monolith",
        "split",
        pytest.param(
            "production",
            marks=pytest.mark.skipif(
                not HAS_ALL_PARTS, reason="takes long; FISSILE_REQUIRE=kafka,postgres,docker asks for it"
            ),
        ),
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
