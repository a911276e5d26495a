"""The Docker engine, as far as we need it: every call has a deadline, and says whether the engine or the call was at fault."""

import importlib
import logging
import os
import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from attrs import frozen

from ._model import EngineGone, NoSandbox, SandboxError

_log = logging.getLogger(__name__)

IMAGE = "fissile-sandbox"
ASKED_WITHIN_S = 3.0
"""What the engine only has to look up."""
DONE_WITHIN_S = 10.0
"""What it has to do. A container start on a busy machine takes one or two seconds."""

_USUAL_SOCKET = "/var/run/docker.sock"
_RECIPE = Path(__file__).parents[3] / ".docker" / "sandbox"


def engine_may_run() -> bool:
    """Whether it is worth importing the client library: an address is set, or the usual socket is there."""
    return bool(os.environ.get("DOCKER_HOST")) or Path(_USUAL_SOCKET).exists()


def _check_socket() -> None:
    """Raise OSError where the engine's address is a local socket and nobody listens there.

    The client library would find out as well, but leaves its socket open then.
    """
    address = os.environ.get("DOCKER_HOST") or f"unix://{_USUAL_SOCKET}"
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(ASKED_WITHIN_S)
            probe.connect(address.removeprefix("unix://"))


@contextmanager
def _blamed(what: str) -> Generator[None]:
    """Raise what goes wrong in a call as ours."""
    try:
        _check_socket()
        yield
    except SandboxError:
        raise
    except Exception as error:
        if hasattr(error, "response") and getattr(error, "status_code", None):  # the engine's own answer
            if "no space left on device" in str(error).lower():
                raise SandboxError(
                    f"The Docker engine could not {what}: no space left on device. Cure: make room where it keeps its data; "
                    "`docker system df` shows what takes it."
                ) from error
            raise SandboxError(f"The Docker engine could not {what}: {error}.") from error
        raise EngineGone(
            f"The Docker engine did not {what}: {str(error) or type(error).__name__}. Cure: see whether it runs; "
            "once it answers, so do we."
        ) from error


@frozen
class Engine:
    """A connection to an engine. Thread-safe; every call blocks, for a bounded time.

    Attributes:
        quick: A low-level client for questions.
        slow: The same with a longer deadline, for deeds.
    """

    quick: Any
    slow: Any

    @classmethod
    def connect(cls) -> Self:
        """Connect to the engine that the environment names.

        Raises:
            NoSandbox: No engine answers, or the client library is missing.
        """
        try:
            docker = importlib.import_module("docker")  # untyped, slow to import, and not everybody has it
        except ImportError as error:
            raise NoSandbox("The Docker sandbox needs the package `docker`. Cure: install it.") from error
        clients: list[Any] = []
        try:
            _check_socket()
            for within_s in (ASKED_WITHIN_S, DONE_WITHIN_S):
                clients.append(docker.from_env(timeout=within_s))
                clients[-1].ping()
        except Exception as error:
            for client in clients:
                client.close()
            raise EngineGone(
                f"No Docker engine answers: {error}. Cure: start one, or set DOCKER_HOST to one that this user may use."
            ) from error
        return cls(*(client.api for client in clients))

    def close(self) -> None:
        """Let go of the connection."""
        self.quick.close()
        self.slow.close()

    def ping(self) -> None:
        """Return if it answers.

        Raises:
            EngineGone: It does not.
        """
        with _blamed("answer"):
            self.quick.ping()

    def create(self, name: str, config: dict[str, Any]) -> str:
        """Make a container and return its id."""
        with _blamed("create a container"):
            return str(self.slow.create_container_from_config(config, name)["Id"])

    def config(self, host_config: dict[str, Any], **wanted: Any) -> dict[str, Any]:
        """Spell out a container for `create`."""
        config: dict[str, Any] = self.slow.create_container_config(**wanted)
        config["HostConfig"] = host_config
        return config

    def attach(self, container: str) -> Any:
        """Connect to the three standard streams of a container."""
        with _blamed("attach to a container"):
            return self.slow.attach_socket(container, {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})

    def start(self, container: str) -> None:
        """Start a container."""
        with _blamed("start a container"):
            self.slow.start(container)

    def set_memory(self, container: str, memory_bytes: int) -> None:
        """Change the limit of a container that runs, for memory and swap together."""
        with _blamed("change a container's memory"):
            self.slow.update_container(container, mem_limit=memory_bytes, memswap_limit=memory_bytes)

    def ending(self, container: str) -> tuple[int | None, bool]:
        """Wait for the end of a container, for a while, and return its exit code, and whether memory ran out."""
        with _blamed("tell how a container ended"):
            self.slow.wait(container, timeout=DONE_WITHIN_S)
            state = self.quick.inspect_container(container)["State"]
            return state["ExitCode"], state["OOMKilled"]

    def remove(self, container: str) -> bool:
        """Kill and remove a container, by id or name; return whether it is gone."""
        try:
            _check_socket()
            self.slow.remove_container(container, force=True, v=True)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller decides
            return type(error).__name__ == "NotFound"
        return True

    def containers(self, label: str) -> list[dict[str, Any]]:
        """All containers with a label, those that have ended included."""
        with _blamed("list its containers"):
            found: list[dict[str, Any]] = self.quick.containers(all=True, filters={"label": label})
            return found

    def find_image(self, image: str, *, build: bool) -> str:
        """Return the id of the image, building it where that is allowed.

        Args:
            image: Its name.
            build: Build it from our recipe if it is missing. That asks a registry and takes a minute.

        Raises:
            NoSandbox: It is missing, or cannot be built.
        """
        found = self._image_id(image)
        if found is None and build and (_RECIPE / "Dockerfile").is_file():
            _log.warning("Building the Docker image %r from %s; this takes a minute.", image, _RECIPE)
            try:
                steps = list(self.slow.build(path=str(_RECIPE), tag=image, rm=True, decode=True, timeout=600))
            except Exception as error:
                raise NoSandbox(f"The Docker image {image!r} cannot be built from {_RECIPE}: {error}.") from error
            reasons = [step["error"].strip() for step in steps if "error" in step]
            if reasons:
                raise NoSandbox(f"The Docker image {image!r} cannot be built from {_RECIPE}: {reasons[-1]}.")
            found = self._image_id(image)
        if found is None:
            raise NoSandbox(
                f"The engine has no Docker image {image!r}. "
                f"Cure: docker build -t {image} .docker/sandbox, in the project."
            )
        return found

    def _image_id(self, image: str) -> str | None:
        with _blamed("list its images"):
            ids: list[str] = self.quick.images(name=image, quiet=True)
            return ids[0] if ids else None


def close_stream(stream: Any, connection: socket.socket) -> None:
    """Let go of what `attach` has returned, and first of all end it.

    Output that nobody takes while the stream is open makes the engine hang in kill, wait, inspect and remove.
    """
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    # The client library keeps the answer that the stream was taken from, and the two close each other.
    parts: list[Any] = [getattr(stream, "_response", None), stream, connection]
    for part in parts:
        with suppress(OSError, ValueError, AttributeError):
            part.close()
