"""PostgreSQL as a fixture: a real server, one for the whole run, with a database of its own for each test.

`FISSILE_TEST_POSTGRES` names a server that is there, as a URL of a user that may create databases and roles; else one is started with Docker,
where an engine runs and has an image of it; else with Debian's `postgresql`, in a temporary folder. Where none of these is possible its tests
are skipped with the reason, unless `FISSILE_REQUIRE` has `postgres` in it.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.brokers.processes import BrokerFailed, _end_with_parent, free_ports

START_S = 60.0
PASSWORD = "secret-of-the-tests"


class PostgresServer:
    """Debian's server in a temporary folder, with fsync on, as production has it."""

    def __init__(self) -> None:
        self.programs = _programs()
        assert self.programs is not None
        # It refuses to run as root; then it runs as the user that Debian made for it, or as nobody.
        self.user: dict[str, Any] = (
            {} if os.geteuid() != 0 else {"user": _other_user(), "group": None, "extra_groups": []}
        )
        self.folder = Path(tempfile.mkdtemp(prefix="fissile-postgres-"))
        if self.user:
            entry = pwd.getpwnam(self.user["user"])
            self.user["group"] = entry.pw_gid
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
        (self.port,) = free_ports(1)
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        arguments = (
            "-D",
            "data",
            "-U",
            "fissile",
            "--pwfile",
            "password",
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            "--no-locale",
        )
        done = subprocess.run(
            self._command("initdb", *arguments), capture_output=True, text=True, cwd=self.folder, **self.user
        )
        assert done.returncode == 0, f"initdb failed: {done.stdout}{done.stderr}"
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.remove)
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://fissile:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        command = self._command("postgres", "-D", "data", "-p", str(self.port), "-c", "listen_addresses=127.0.0.1")
        command += ["-c", "unix_socket_directories=", "-c", "max_connections=200"]
        with (self.folder / "log").open("a") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                preexec_fn=_end_with_parent,
                **self.user,
            )
        wait_until_it_answers(self.url, lambda: _tail(self.folder / "log"))

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends connections in good order, SIGQUIT is as good as a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_S)
            self._process = None

    def remove(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _command(self, program: str, *arguments: str) -> list[str]:
        assert self.programs is not None
        return [str(self.programs / program), *arguments]


def _tail(log: Path) -> str:
    return "\n".join(log.read_text().splitlines()[-20:]) if log.exists() else ""


def _programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


def _other_user() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _docker(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _in_docker() -> str | None:
    """Start a container; return where the server in it is, or None where there is no engine or no image."""
    images = _docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "postgres")
    if not images:
        return None
    variables = ("-e", f"POSTGRES_PASSWORD={PASSWORD}", "-e", "POSTGRES_USER=fissile")
    container = _docker("run", "-d", "--rm", *variables, "-p", "127.0.0.1::5432", images.splitlines()[0])
    if container is None:
        return None
    atexit.register(_docker, "rm", "-f", container)
    address = _docker("port", container, "5432/tcp")
    return f"postgresql://fissile:{PASSWORD}@{address.splitlines()[0]}/postgres" if address else None


@cache
def server_url() -> str | None:
    """Return the URL of a server for this process, or None if there is none to be had."""
    given = os.environ.get("FISSILE_TEST_POSTGRES")
    if given:
        return given
    url = _in_docker()
    if url is not None:
        wait_until_it_answers(url, lambda: "it runs in Docker")
        return url
    return PostgresServer().url if _programs() is not None else None


def wait_until_it_answers(url: str, tell: Callable[[], str]) -> None:
    import psycopg

    end = time.monotonic() + START_S
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if time.monotonic() > end:
                raise BrokerFailed(f"PostgreSQL does not answer: {error}{tell()}") from error
            time.sleep(0.05)
        else:
            return


def skip_or_fail(reason: str) -> None:
    """Skip the test, or fail it where PostgreSQL is required."""
    if "postgres" in os.environ.get("FISSILE_REQUIRE", "").split(","):
        pytest.fail(f"PostgreSQL is required (FISSILE_REQUIRE): {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def postgres() -> str:
    """The URL of a server, of a user that may create databases and roles."""
    url = server_url()
    if url is None:
        skip_or_fail(
            "there is no PostgreSQL: no FISSILE_TEST_POSTGRES, no Docker with its image, no /usr/lib/postgresql"
        )
        raise AssertionError
    return url


@pytest.fixture
def postgres_database(postgres: str) -> Iterator[str]:
    """The URL of an empty database of the test's own."""
    import psycopg

    name = f"test_{uuid4().hex[:12]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield f"{postgres.rpartition('/')[0]}/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@cache
def _own_server() -> PostgresServer:
    return PostgresServer()


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that the test may stop, which no other test uses at the same time; it is running again afterwards."""
    if _programs() is None:
        skip_or_fail(
            "a server to be stopped needs Debian's postgresql on this machine: there is no /usr/lib/postgresql"
        )
    server = _own_server()
    yield server
    server.stop(signal.SIGQUIT)
    server.start()
