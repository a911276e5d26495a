"""A Docker engine for the tests: the one that is there, else one of our own that ends with the tests."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import frozen

from modules.code_executor.sandbox import _engine
from modules.code_executor.sandbox._model import NoSandbox

from .image import cache_folder, image_tar

ANSWERS_WITHIN_S = 30.0


class NoEngine(Exception):
    """Raised when there is no engine and none can be started; the text tells why."""


@frozen
class Engine:
    """An engine that answers, with an image for the sandbox.

    Attributes:
        api: A low-level client.
        image: The image's name.
        process: The engine itself, where it is ours.
    """

    api: Any
    image: str
    process: subprocess.Popen[bytes] | None

    @property
    def socket(self) -> str:
        """Where it listens."""
        return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")


@contextmanager
def open_engine() -> Iterator[Engine]:
    before = os.environ.get("DOCKER_HOST")
    process: subprocess.Popen[bytes] | None = None
    api = _client()
    try:
        if api is None:
            process, address = _start()
            os.environ["DOCKER_HOST"] = address
            api = _wait_for_client(process)
        tar = image_tar()
        image = f"fissile-sandbox-of-tests:{tar.stem.rsplit('-', 1)[1]}"
        if not api.images(name=image, quiet=True):
            repository, tag = image.split(":")
            api.timeout = 100
            api.import_image(str(tar), repository=repository, tag=tag)
        yield Engine(api, image, process)
    finally:
        if api is not None:
            api.close()
        if process is not None:
            process.terminate()
            process.wait()
            if before is None:
                os.environ.pop("DOCKER_HOST", None)
            else:
                os.environ["DOCKER_HOST"] = before


def _client() -> Any:
    try:
        return _engine.Engine.connect().slow
    except NoSandbox:
        return None


def _start() -> tuple[subprocess.Popen[bytes], str]:
    program = shutil.which("dockerd")
    if program is None or os.geteuid() != 0:
        raise NoEngine("no Docker engine answers, and to start one takes root and an installed dockerd")
    folder = cache_folder() / "engine"
    folder.mkdir(exist_ok=True)
    pid_file = folder / "pid"
    if pid_file.exists() and not Path(f"/proc/{pid_file.read_text().strip()}/comm").exists():
        pid_file.unlink()  # of an engine that was killed
    address = f"unix://{folder}/docker.sock"
    command = [program, "--bridge=none", "--iptables=false", f"--host={address}", f"--pidfile={pid_file}"]
    command += [f"--data-root={folder}/data", f"--exec-root={folder}/exec"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    return process, address


def _wait_for_client(process: subprocess.Popen[bytes]) -> Any:
    until = time.monotonic() + ANSWERS_WITHIN_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        if (api := _client()) is not None:
            return api
        time.sleep(0.1)
    log = (cache_folder() / "engine" / "log").read_text(errors="replace").strip().splitlines()
    process.terminate()
    process.wait()
    raise NoEngine(f"dockerd could not be started: {log[-1] if log else 'no message'}")
