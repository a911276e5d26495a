"""The Docker engine, as far as we need it: reached, its image found or built, leftovers swept away."""

import importlib
import logging
import os
import time
from pathlib import Path
from typing import Any

from ._model import NoSandbox

_log = logging.getLogger(__name__)

LABEL = "fissile.sandbox"
DEADLINE_LABEL = "fissile.sandbox.deadline"
CALL_WITHIN_S = 15.0
"""No call to the engine waits longer. A container start on a busy machine takes one or two seconds."""

_YOUNG_S = 60.0
_RECIPE = Path(__file__).parents[3] / ".docker" / "sandbox"


def engine_may_run() -> bool:
    """Whether it is worth importing the client library: an address is set, or the usual socket is there."""
    return bool(os.environ.get("DOCKER_HOST")) or Path("/var/run/docker.sock").exists()


def connect() -> Any:
    """Return a low-level client of the engine that the environment names.

    Raises:
        NoSandbox: No engine answers, or the client library is missing.
    """
    try:
        docker = importlib.import_module("docker")  # untyped, slow to import, and not everybody has it
    except ImportError as error:
        raise NoSandbox("The Docker sandbox needs the package `docker`. Cure: install it.") from error
    try:
        client = docker.from_env(timeout=CALL_WITHIN_S)
        client.ping()
    except Exception as error:
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


def reap(api: Any) -> int:
    """Remove containers that an executor has left behind that was killed; return how many.

    A container whose executor lives is not touched: it is young, or running with its deadline in the future. One that
    only waits for its order ends by itself when its executor's connection closes.
    """
    count = 0
    now_s = time.time()
    for container in api.containers(all=True, filters={"label": LABEL}):
        deadline = container["Labels"].get(DEADLINE_LABEL, "0")
        too_old = not deadline.isdigit() or int(deadline) < now_s
        ended = container["State"] in ("exited", "dead") and container["Created"] < now_s - _YOUNG_S
        if too_old or ended:
            try:
                api.remove_container(container["Id"], force=True, v=True)
            except Exception as error:  # noqa: BLE001 - somebody else may sweep at the same time
                _log.debug("Container %s was not removed: %s", container["Id"][:12], error)
            else:
                count += 1
    return count
