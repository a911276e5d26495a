"""Whose containers these are, and whether their owner lives: two applications on one engine leave each other's alone."""

import os
import secrets
import socket
import time
from collections.abc import Container as Names
from pathlib import Path
from typing import Any

from ._engine import Engine

LABEL = "fissile.sandbox"
DEADLINE_LABEL = "fissile.sandbox.deadline"
PLACE_LABEL = "fissile.sandbox.place"
OWNER_LABEL = "fissile.sandbox.owner"

_YOUNG_S = 60.0


class Owner:
    """Marks our containers, so that others can tell whether we are alive: by a lease that ends with our process.

    The lease is an abstract socket, which only processes in our network namespace can see. For all others, there is a
    deadline.
    """

    def __init__(self) -> None:
        self._token = secrets.token_hex(8)
        self._lease = socket.socket(socket.AF_UNIX)
        self._lease.bind(_lease_name(self._token))

    def name(self) -> str:
        """A new name for a container: known before the engine has answered, so that it can be removed in any case."""
        return f"fissile-{self._token}-{secrets.token_hex(6)}"

    def labels(self, lives_s: float) -> dict[str, str]:
        """The labels of a container that nobody needs any more after so many seconds."""
        return {
            LABEL: self._token,
            PLACE_LABEL: _place(),
            DEADLINE_LABEL: str(int(time.time() + lives_s)),
            OWNER_LABEL: f"{socket.gethostname()}:{os.getpid()}:{Path.cwd()}",  # for people, in `docker ps`
        }

    def sweep(self, engine: Engine, in_use: Names[str]) -> int:
        """Remove what nobody needs: of others that are dead, and of ours what is not in use. Return how many.

        What runs in leftovers is bounded even if nobody ever comes by: the launcher inside knows the deadline of its
        program, and one that only waits for an order ends when its executor's connection closes.

        Args:
            engine: Where.
            in_use: Names of containers of ours.

        Raises:
            EngineGone: It does not answer.
        """
        count = 0
        for container in engine.containers(LABEL):
            name = container["Names"][0].removeprefix("/") if container["Names"] else ""
            ours = container["Labels"].get(LABEL) == self._token
            if (name not in in_use if ours else _is_leftover(container)) and engine.remove(container["Id"]):
                count += 1
        return count

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
