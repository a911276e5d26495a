"""A Docker engine for the tests: the one that is there, else one of our own that ends with the tests.

`FISSILE_TEST_IMAGE` names an image that it has, such as the one of `.docker/sandbox`; else one is made of the tools of this machine.
"""

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from attrs import frozen

from modules.code_executor.sandbox import _engine
from modules.code_executor.sandbox._model import NoSandbox

from .image import NoImage, cache_folder, image_tar, languages_of_image

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
        yield Engine(api, _import(api, languages_of_image()), process)
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


def _import(api: Any, languages: Iterable[str]) -> str:
    """Give an engine an image with some languages, if it has none yet, and return its name."""
    try:
        tar = image_tar(languages)
    except NoImage as error:
        raise NoEngine(str(error)) from error
    image = f"fissile-sandbox-of-tests:{tar.stem.rsplit('-', 1)[1]}"
    if not api.images(name=image, quiet=True):
        repository, tag = image.split(":")
        api.timeout = 300
        api.import_image(str(tar), repository=repository, tag=tag)
    return image


class Victim:
    """An engine of a test's own, with an image that has Python only: to be killed, or to run out of disk. A context manager.

    Args:
        folder: Where it keeps everything.
    """

    def __init__(self, folder: Path) -> None:
        self.address = _address(folder)
        self.image = ""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        try:
            with self.named():
                api = _client()
                try:
                    self.image = _import(api, ("python",))
                finally:
                    api.close()
        except BaseException:
            self.__exit__()
            raise
        return self

    @contextmanager
    def named(self) -> Iterator[None]:
        """The environment names this engine."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DOCKER_HOST", self.address)
            yield

    def start(self) -> None:
        """Start it, and return when it answers. As a service manager does, try again: what was killed may have left something locked."""
        with self.named():
            for attempt in range(3):
                self._process = _start(self._folder)
                try:
                    _wait_for_client(self._process, self._folder).close()
                except NoEngine:
                    if attempt == 2:
                        raise
                else:
                    return

    def kill(self) -> None:
        """End it as a fault would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.poll() is not None:  # its own helper is its child still, and only it knows of it
            self.start()
        self._process.terminate()
        self._process.wait()


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
    with (folder / "log").open("ab") as log:
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
