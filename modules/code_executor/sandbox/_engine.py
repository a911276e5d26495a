"""The Docker engine, as far as we need it: reached, its image found or built, leftovers swept away."""

import importlib
import logging
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from ._model import NoSandbox

_log = logging.getLogger(__name__)

IMAGE = "fissile-sandbox"
LABEL = "fissile.sandbox"
DEADLINE_LABEL = "fissile.sandbox.deadline"
PLACE_LABEL = "fissile.sandbox.place"
CALL_WITHIN_S = 15.0
"""No call to the engine waits longer. A container start on a busy machine takes one or two seconds."""

_USUAL_SOCKET = "/var/run/docker.sock"
_YOUNG_S = 60.0
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
            probe.connect(address.removeprefix("unix://"))


def connect() -> Any:
    """Return a low-level client of the engine that the environment names.

    Raises:
        NoSandbox: No engine answers, or the client library is missing.
    """
    try:
        docker = importlib.import_module("docker")  # untyped, slow to import, and not everybody has it
    except ImportError as error:
        raise NoSandbox("The Docker sandbox needs the package `docker`. Cure: install it.") from error
    client = None
    try:
        _check_socket()
        client = docker.from_env(timeout=CALL_WITHIN_S)
        client.ping()
    except Exception as error:
        if client is not None:
            client.close()
        raise NoSandbox(
            f"No Docker engine answers: {error}. Cure: start one, or set DOCKER_HOST to one that this user may use."
        ) from error
    return client.api


def find_image(api: Any, image: str, *, build: bool) -> str:
    """Return the id of the image, building it where that is allowed.

    Args:
        api: From `connect`.
        image: Its name.
        build: Build it from our recipe if it is missing. That asks a registry and takes a minute.

    Raises:
        NoSandbox: It is missing, or cannot be built.
    """
    found = _image_id(api, image)
    if found is None and build and (_RECIPE / "Dockerfile").is_file():
        _log.warning("Building the Docker image %r from %s; this takes a minute.", image, _RECIPE)
        try:
            steps = list(api.build(path=str(_RECIPE), tag=image, rm=True, decode=True, timeout=600))
        except Exception as error:
            raise NoSandbox(f"The Docker image {image!r} cannot be built from {_RECIPE}: {error}.") from error
        reasons = [step["error"].strip() for step in steps if "error" in step]
        if reasons:
            raise NoSandbox(f"The Docker image {image!r} cannot be built from {_RECIPE}: {reasons[-1]}.")
        found = _image_id(api, image)
    if found is None:
        raise NoSandbox(
            f"The engine has no Docker image {image!r}. Cure: docker build -t {image} .docker/sandbox, in the project."
        )
    return found


def _image_id(api: Any, image: str) -> str | None:
    ids: list[str] = api.images(name=image, quiet=True)
    return ids[0] if ids else None


class Owner:
    """Marks our containers, so that others can tell whether we are alive: by a lease that ends with our process.

    The lease is an abstract socket, which only processes in our network namespace can see. For all others, there is a
    deadline.
    """

    def __init__(self) -> None:
        self._token = secrets.token_hex(8)
        self._lease = socket.socket(socket.AF_UNIX)
        self._lease.bind(_lease_name(self._token))

    def labels(self, lives_s: float) -> dict[str, str]:
        """The labels of a container that nobody needs any more after so many seconds."""
        deadline = str(int(time.time() + lives_s))
        return {LABEL: self._token, PLACE_LABEL: _place(), DEADLINE_LABEL: deadline}

    def close(self) -> None:
        """End the lease."""
        self._lease.close()


def _lease_name(token: str) -> str:
    return f"\0fissile-sandbox-{token}"


def _place() -> str:
    """Where a lease can be seen: this boot of this machine, this network namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/net').readlink()}"


def _is_leftover(container: dict[str, Any]) -> bool:
    labels, now_s = container["Labels"], time.time()
    if labels.get(PLACE_LABEL) == _place():
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.bind(_lease_name(labels[LABEL]))
            except OSError:
                return False
        return True
    deadline = labels.get(DEADLINE_LABEL, "0")
    too_old = not deadline.isdigit() or int(deadline) < now_s
    return too_old or (container["State"] in ("exited", "dead") and container["Created"] < now_s - _YOUNG_S)


def reap(api: Any) -> int:
    """Remove containers that a killed executor has left behind; return how many.

    What runs in them is bounded even if nobody ever comes by: the launcher inside knows the deadline of its program,
    and one that only waits for an order ends when its executor's connection closes.
    """
    count = 0
    for container in api.containers(all=True, filters={"label": LABEL}):
        if _is_leftover(container):
            try:
                api.remove_container(container["Id"], force=True, v=True)
            except Exception as error:  # noqa: BLE001 - somebody else may sweep at the same time
                _log.debug("Container %s was not removed: %s", container["Id"][:12], error)
            else:
                count += 1
    return count
