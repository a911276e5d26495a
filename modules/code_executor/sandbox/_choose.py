"""Which sandbox this machine and these settings call for."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

from ._base import Sandbox
from ._model import NoSandbox
from .local import LocalSandbox

_log = logging.getLogger(__name__)

Kind = Literal["auto", "docker", "local"]


@asynccontextmanager
async def choose(
    kind: Kind = "auto",
    *,
    at_once: int = 2,
    waiting: int = 32,
    allow_weak: bool = False,
    image: str = "fissile-sandbox",
) -> AsyncGenerator[Sandbox]:
    """Open a sandbox and close it again, with all that runs in it.

    It is cheap to open: what takes time is `Sandbox.probe`, which the first run waits for. Start it in the background
    to have it done by then.

    Args:
        kind: `docker` for containers, `local` for jails of our own, `auto` for containers where an engine answers and
            has the image or can build it, else jails.
        at_once: Runs at a time.
        waiting: Runs that may wait for a place; one more is refused with `SandboxBusy`.
        allow_weak: Accept local levels that do not contain a hostile program. For development on loopback only.
        image: The Docker image; built from our recipe where it is missing and can be.

    Raises:
        NoSandbox: `docker` is asked for and no engine answers, or it has no image.
    """
    sandbox: Sandbox | None = None
    if kind != "local":
        from . import docker  # its client library is slow to import, and may be missing

        try:
            sandbox = await docker.find(at_once=at_once, waiting=waiting, image=image, build=kind == "docker")
        except NoSandbox as error:
            if kind == "docker":
                raise
            _log.info("No Docker sandbox, taking the local one: %s", error)
    if sandbox is None:
        sandbox = LocalSandbox(at_once=at_once, waiting=waiting, allow_weak=allow_weak)
    async with sandbox:
        yield sandbox
