"""A Docker engine and compose for the smoke test.

As root where `dockerd` is installed it is an engine of our own, whose images are kept under the user's cache folder: base images that are made
here must not pass for the real ones in somebody's engine. Elsewhere it is the engine that is there, with the images that it has or can pull.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path

import pytest
from attrs import frozen

ROOT = Path(__file__).parents[2]
ANSWERS_WITHIN_S = 30.0
COMMAND_WITHIN_S = 900.0


class NoEngine(Exception):
    """There is no engine, and none can be started; the text tells why."""


@frozen
class Engine:
    """An engine that answers.

    Attributes:
        address: For DOCKER_HOST; empty for what the environment says.
        is_ours: Whether images may be made that bear the names of others.
    """

    address: str
    is_ours: bool

    def docker(self, *arguments: str, check: bool = True, **variables: str) -> str:
        """Run a command of docker and return what it printed."""
        return self.run(["docker", *arguments], check=check, **variables)

    def run(self, command: Sequence[str], *, check: bool = True, **variables: str) -> str:
        """Run a command that talks to this engine and return what it printed."""
        # Recipes have to work with the builder of any engine, so they are built with the oldest.
        environment = {**os.environ, **variables, "DOCKER_BUILDKIT": "0"}
        if self.address:
            environment["DOCKER_HOST"] = self.address
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=COMMAND_WITHIN_S
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-4000:]}")
        return done.stdout

    def has_image(self, name: str) -> bool:
        """Tell whether an image is there."""
        return bool(self.docker("images", "--quiet", name).strip())


def cache_folder() -> Path:
    """Return the folder of what outlives a test run."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fissile"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def compose_command() -> list[str] | None:
    """Return how compose is called here: the program of its own, or the plugin of docker."""
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if (
        shutil.which("docker")
        and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    ):
        return ["docker", "compose"]
    return None


def skip_or_fail(reason: str) -> None:
    """Skip the test, or fail it where Docker is required."""
    if "docker" in os.environ.get("FISSILE_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"docker is required by FISSILE_REQUIRE, but {reason}")
    pytest.skip(reason)


@contextmanager
def open_engine() -> Iterator[Engine]:
    """Yield an engine; one that was started ends with the block.

    Raises:
        NoEngine: There is none.
    """
    if shutil.which("docker") is None:
        raise NoEngine("the command `docker` is not installed")
    found = Engine("", is_ours=False)
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        if not _answers(found):
            raise NoEngine("no Docker engine answers, and to start one takes root and an installed dockerd")
        yield found
        return
    folder = cache_folder() / "compose-engine"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        flock(lock, LOCK_EX)  # one test run at a time
        try:
            process, engine = _start(folder)
        except NoEngine:  # as in a container that may not
            if not _answers(found):
                raise
            yield found
            return
        try:
            yield engine
            # What is superseded is kept for a while: the builder goes on from it.
            engine.docker("image", "prune", "--force", "--filter", "until=168h", check=False)
        finally:
            process.terminate()
            process.wait()


def _start(folder: Path) -> tuple[subprocess.Popen[bytes], Engine]:
    pid_file = folder / "pid"
    if pid_file.exists() and not Path(f"/proc/{pid_file.read_text().strip()}").exists():
        pid_file.unlink()  # of an engine that was killed
    engine = Engine(f"unix://{folder}/docker.sock", is_ours=True)
    # Containers reach each other without rules of a firewall; published ports go through the engine's own proxy.
    command = ["dockerd", "--bridge=none", "--iptables=false", f"--host={engine.address}", f"--pidfile={pid_file}"]
    command += [f"--data-root={folder}/data", f"--exec-root={folder}/exec"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    until = time.monotonic() + ANSWERS_WITHIN_S
    while time.monotonic() < until and process.poll() is None:
        if _answers(engine):
            return process, engine
        time.sleep(0.1)
    process.terminate()
    process.wait()
    lines = (folder / "log").read_text(errors="replace").strip().splitlines()
    raise NoEngine(f"dockerd could not be started: {lines[-1] if lines else 'no message'}")


def _answers(engine: Engine) -> bool:
    return bool(engine.docker("version", "--format", "{{.Server.Version}}", check=False).strip())
