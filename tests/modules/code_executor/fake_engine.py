"""A Docker engine that runs nothing and does what a test wants: for the pool of containers alone."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from modules.code_executor.sandbox import Limits
from modules.code_executor.sandbox._container import Shape
from modules.code_executor.sandbox._engine import Engine
from modules.code_executor.sandbox._leases import Owner
from modules.code_executor.sandbox._pool import ContainerPool
from modules.code_executor.sandbox._users import Users


class FakeEngine(Engine):
    """Knows containers by their names.

    Attributes:
        there: The containers that there are, each with its end of the streams.
        keeps: Those that it does not remove.
        tried: The names that it was asked to remove, in this order.
    """

    there: dict[str, socket.socket]
    keeps: set[str]
    tried: list[str]

    def __init__(self) -> None:
        super().__init__(None, None)
        for name, value in (("there", {}), ("keeps", set()), ("tried", [])):
            object.__setattr__(self, name, value)

    def ping(self) -> None:
        pass

    def create(self, name: str, config: dict[str, Any]) -> str:
        return name

    def config(self, host_config: dict[str, Any], **wanted: Any) -> dict[str, Any]:
        return host_config

    def attach(self, container: str) -> Any:
        ours, self.there[container] = socket.socketpair()
        return ours

    def start(self, container: str) -> None:
        pass

    def remove(self, container: str) -> bool:
        self.tried.append(container)
        if container in self.keeps:
            return False
        if (end := self.there.pop(container, None)) is not None:
            end.close()
        return True

    def containers(self, label: str) -> list[dict[str, Any]]:
        return []

    def close(self) -> None:
        for end in self.there.values():
            end.close()


@contextmanager
def pool_of(
    engine: FakeEngine, *, spare: int, now_s: Callable[[], float] = time.monotonic, users: Users | None = None
) -> Iterator[ContainerPool]:
    """A pool of containers, not opened yet."""
    owner, users = Owner(), users or Users(also_as_user=True)
    shape = Shape.of(Limits())
    pool = ContainerPool(engine, "image", usual=shape, spare=spare, at_once=1, owner=owner, users=users, now_s=now_s)
    try:
        yield pool
    finally:
        engine.keeps.clear()
        pool.close()
        engine.close()
        users.close()
        owner.close()
