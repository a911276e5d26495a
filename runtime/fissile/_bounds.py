"""Bounds: how many calls a caller may have in flight, how many handlers a module runs, whose turn it is for a key.

All of them hold in every placement, and none may let a chain of calls wait for itself: a call down a chain passes what its own ancestor
holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from fissile._bus import Queries
    from fissile._handler import Handler


class Gate:
    """The bound of calls that one caller has in flight to one module.

    Each call counts here and in its `Slots`, so both have plain slots: CPython specialises those, and not the fields of a `msgspec.Struct`.

    Attributes:
        limit: How many there may be.
        in_flight: How many there are.
        refused: How many were refused.
    """

    __slots__ = ("in_flight", "limit", "refused")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_flight = self.refused = 0


class Slots:
    """The bound of handlers that a module runs at a time; who finds none waits in line.

    Attributes:
        free: How many more may start now.
        line: Those who wait, the first one first.
    """

    __slots__ = ("free", "line")

    def __init__(self, free: int) -> None:
        self.free = free
        self.line: deque[anyio.Event] = deque()

    async def wait(self) -> None:
        """Wait for a slot and take it."""
        granted = anyio.Event()
        self.line.append(granted)
        try:
            await granted.wait()
        except BaseException:
            if granted.is_set():
                self.release()  # it was handed over at the moment of the cancellation
            else:
                self.line.remove(granted)
            raise

    def release(self) -> None:
        """Give a slot back: to the first in line, if there is one."""
        if self.line:
            self.line.popleft().set()
        else:
            self.free += 1

    @property
    def waiting(self) -> int:
        """How many wait in line."""
        return len(self.line)


def holds_slot(bus: Queries | None, module: str) -> bool:
    """Tell whether the handler of this bus, or one up its chain, wherever that runs, holds a slot of a module."""
    while bus is not None:
        if bus._handler is not None and bus._handler.module == module:
            return True
        if any(link.module == module for link in bus._remote_chain):
            return True
        bus = bus._parent
    return False


def holds_turn(bus: Queries | None, handler: Handler, key: str) -> bool:
    """Tell whether the handler of this bus, or one up its chain, wherever that runs, has the turn for a key."""
    while bus is not None:
        if bus._handler is not None and bus._handler.name == handler.name and bus._key == key:
            return True
        if any(link.name == handler.name and link.key == key for link in bus._remote_chain):
            return True
        bus = bus._parent
    return False


class Turns:
    """Runs the commands of equal key one after the other, in the order of their arrival."""

    def __init__(self) -> None:
        self._lines: dict[tuple[Handler, str], deque[anyio.Event]] = {}

    @asynccontextmanager
    async def turn(self, handler: Handler, key: str, bus: Queries | None) -> AsyncGenerator[None]:
        """Wait for the turn of a command and hold it; a command up the same chain that holds it already lends it.

        Args:
            handler: The handler of the command.
            key: The command's key.
            bus: The bus of the caller.
        """
        if holds_turn(bus, handler, key):
            yield
            return
        place = (handler, key)
        line = self._lines.get(place)
        if line is None:
            self._lines[place] = deque()
        else:
            mine = anyio.Event()
            line.append(mine)
            try:
                await mine.wait()
            except BaseException:
                if mine.is_set():
                    self._pass_on(place)
                else:
                    line.remove(mine)
                raise
        try:
            yield
        finally:
            self._pass_on(place)

    def _pass_on(self, place: tuple[Handler, str]) -> None:
        line = self._lines[place]
        if line:
            line.popleft().set()
        else:
            del self._lines[place]
