"""A Docker engine for the tests: the one that is there, else one of our own that ends with the tests.

`FISSILE_TEST_IMAGE` names an image that it has, such as the one of `.docker/sandbox`; else one is made of the tools of this machine.
"""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
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
    stack = ExitStack()
    try:
        if api is None:
            folder = stack.enter_context(_own_folder())
            process = _start(folder)
            os.environ["DOCKER_HOST"] = _address(folder)
            api = _wait_for_client(process, folder)
        if given := os.environ.get("FISSILE_TEST_IMAGE"):
            yield Engine(api, given, process)
            return
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
        stack.close()


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder for an engine that no other test run of this machine uses now: two engines in one would take each other's socket."""
    for number in range(1, 9):
        folder = cache_folder() / (f"engine-{number}" if number > 1 else "engine")
        folder.mkdir(exist_ok=True)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if not _is_alive(folder / "pid"):
                (folder / "pid").unlink(missing_ok=True)
                yield folder
                return
    raise NoEngine(f"every folder for an engine below {cache_folder()} is taken")


def _is_alive(pid_file: Path) -> bool:
    """Whether an engine runs still whose tests were killed."""
    return pid_file.exists() and Path(f"/proc/{pid_file.read_text().strip()}/comm").exists()


def _address(folder: Path) -> str:
    return f"unix://{folder}/docker.sock"


def _client() -> Any:
    try:
        return _engine.Engine.connect().slow
    except NoSandbox:
        return None


def _start(folder: Path) -> subprocess.Popen[bytes]:
    program = shutil.which("dockerd")
    if program is None or os.geteuid() != 0:
        raise NoEngine("no Docker engine answers, and to start one takes root and an installed dockerd")
    command = [program, "--bridge=none", "--iptables=false", f"--host={_address(folder)}", f"--pidfile={folder}/pid"]
    command += [f"--data-root={folder}/data", f"--exec-root={folder}/exec"]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def _wait_for_client(process: subprocess.Popen[bytes], folder: Path) -> Any:
    until = time.monotonic() + ANSWERS_WITHIN_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        if (api := _client()) is not None:
            return api
        time.sleep(0.1)
    log = (folder / "log").read_text(errors="replace").strip().splitlines()
    process.terminate()
    process.wait()
    raise NoEngine(f"dockerd could not be started: {log[-1] if log else 'no message'}")
