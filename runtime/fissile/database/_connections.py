"""Connections that are open and idle, as many as may be, given to whoever asked first."""

from __future__ import annotations

import time

import anyio
from sqlalchemy import Connection

from fissile.database._dialect import Dialect

_IDLE_S = 2.0
"""After which rest a connection is asked whether it lives before it is used, in seconds. The question is a round trip."""


class Place:
    """The place for one connection: whoever holds it has the connection for itself. It is opened at the first use, in a worker thread."""

    __slots__ = ("_connection", "_era", "_generation", "_pool", "_reads", "_used_s")

    def __init__(self, pool: Places) -> None:
        self._pool = pool
        self._connection: Connection | None = None
        self._generation = self._era = 0
        self._used_s = 0.0
        self._reads = False

    def open(self, *, reads: bool) -> Connection:
        """Return the connection, idle; in a worker thread.

        Raises:
            DBAPIError: It cannot be opened.
        """
        pool, connection = self._pool, self._connection
        if connection is not None:
            if self._era != pool.era:
                self.drop()
                return self.open(reads=reads)
            is_old = self._generation != pool.generation or time.monotonic() - self._used_s > _IDLE_S
            if not is_old or pool.dialect.is_alive(connection):
                self._generation = pool.generation
                if self._reads is not reads:
                    self._reads = reads
                    pool.dialect.prepare(connection, reads=reads)
                return connection
            self.drop()
        generation = pool.generation
        self._connection = connection = pool.dialect.connect(reads=reads)
        self._generation, self._reads, self._era = generation, reads, pool.era
        return connection

    @property
    def connection(self) -> Connection | None:
        """The connection, if one is open."""
        return self._connection

    def drop(self) -> None:
        """Throw the connection away, in a worker thread."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.closed:
            if not connection.invalidated:
                connection.invalidate()
            connection.close()

    def lost(self) -> None:
        """Throw the connection away, since the database ended it; the others are asked before they are used again."""
        for pool in (self._pool, *self._pool.beside):
            pool.generation += 1
        self.drop()

    def give_back(self) -> None:
        """Let the next one have it."""
        if self._connection is not None:
            self._used_s = time.monotonic()
        self._pool.give_back(self)


class Places:
    """A number of places, in the order of asking.

    Args:
        dialect: Opens the connections.
        count: How many there are.
        wait_s: How long one who asks waits for a place, in seconds.

    Attributes:
        beside: Other places for connections to the same database, which may be lost where one is.
    """

    def __init__(self, dialect: Dialect, count: int, wait_s: float) -> None:
        self.dialect = dialect
        self.generation = self.era = 0
        self.beside: tuple[Places, ...] = ()
        self._wait_s = wait_s
        self._free = [Place(self) for _ in range(count)]
        self._all = tuple(self._free)
        self._turn = anyio.Semaphore(count, fast_acquire=True)

    async def take(self) -> Place:
        """Wait for a place.

        Raises:
            TimeoutError: All are held for too long.
        """
        try:
            self._turn.acquire_nowait()
        except anyio.WouldBlock:
            with anyio.fail_after(self._wait_s):
                await self._turn.acquire()
        return self._free.pop()

    def give_back(self, place: Place) -> None:
        """Take a place back."""
        self._free.append(place)
        self._turn.release()

    def renew(self) -> None:
        """Let every connection be opened anew before its next use."""
        self.era += 1

    def close(self) -> None:
        """Close the connections of all places, in a worker thread; none is held any more."""
        for place in self._all:
            place.drop()
