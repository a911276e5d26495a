"""A load generator that does not wait for answers: requests are due when they are due (open loop), whatever the server does meanwhile.

A closed loop measures how fast a server is when its clients are patient; a flood is not. Each request's time counts from the moment when it was
due, so that what waits in here for a connection counts against the server too.
"""

from __future__ import annotations

import re
import selectors
import socket
from collections import deque
from collections.abc import Sequence
from time import perf_counter, sleep

from attrs import define, field, frozen

from benchmarks._rows import CannotRun

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@frozen
class Outcome:
    """What became of the requests.

    Attributes:
        seconds: How long it took, from the first one that was due to the last one that was.
        good: How many were answered 200 in that time.
        refused: How many were answered 503 or 429.
        other: How many were answered otherwise, or not at all.
        refusal_times_s: How long each refusal took.
        good_times_s: How long each good answer took.
        reconnects: How often the server closed a connection.
    """

    seconds: float
    good: int
    refused: int
    other: int
    refusal_times_s: Sequence[float]
    good_times_s: Sequence[float]
    reconnects: int

    @property
    def good_per_s(self) -> float:
        """Good answers per second."""
        return self.good / self.seconds


@define(eq=False)
class _Connection:
    client: socket.socket
    due: float = 0.0
    received: bytes = b""


@define(eq=False)
class Load:
    """Connections to a server, kept alive.

    Args:
        address: Where it listens.
        request: What is sent.
        connections: How many connections there are.
    """

    address: tuple[str, int]
    request: bytes
    connections: int
    _idle: deque[_Connection] = field(factory=deque[_Connection], init=False)
    _all: set[_Connection] = field(factory=set[_Connection], init=False)
    _selector: selectors.BaseSelector = field(factory=selectors.DefaultSelector, init=False)
    _times: dict[int, list[float]] = field(factory=dict[int, list[float]], init=False)
    _reconnects: int = field(default=0, init=False)

    def open(self) -> None:
        """Connect."""
        for _ in range(self.connections):
            self._connect()

    def close(self) -> None:
        """Disconnect."""
        for connection in self._all:
            connection.client.close()
        self._selector.close()

    def patient(self, seconds: float, in_flight: int) -> Outcome:
        """Send the next request when one was answered (closed loop), so many at a time."""
        began = perf_counter()
        self._begin()
        for _ in range(in_flight):
            self._send(began)
        while (now := perf_counter()) - began < seconds:
            for _ in range(self._receive(0.1)):
                self._send(now)
        outcome = self._outcome(perf_counter() - began)
        self._rest()
        return outcome

    def flood(self, seconds: float, per_s: float) -> Outcome:
        """Send requests at a rate (open loop)."""
        began = perf_counter()
        self._begin()
        sent = 0
        count = int(seconds * per_s)
        while sent < count:
            now = perf_counter() - began
            while sent < count and sent / per_s <= now and self._idle:
                self._send(began + sent / per_s)
                sent += 1
            self._receive(0.0)
            if sent / per_s > perf_counter() - began:
                sleep(0.0002)
            if now > 3 * seconds:
                raise CannotRun(f"of {count} requests, {sent} could be sent in {now:.0f} s")
        outcome = self._outcome(perf_counter() - began)
        self._rest()
        return outcome

    def _begin(self) -> None:
        self._times, self._reconnects = {}, 0

    def _rest(self) -> None:
        """Wait for what was not answered."""
        until = perf_counter() + 5.0
        while len(self._idle) < self.connections and perf_counter() < until:
            self._receive(0.1)

    def _outcome(self, seconds: float) -> Outcome:
        good = self._times.get(200, [])
        refused = [*self._times.get(503, []), *self._times.get(429, [])]
        other = sum(map(len, self._times.values())) - len(good) - len(refused)
        return Outcome(seconds, len(good), len(refused), other, sorted(refused), sorted(good), self._reconnects)

    def _connect(self) -> None:
        client = socket.create_connection(self.address, 10.0)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setblocking(False)  # noqa: FBT003 -- socket's own signature
        connection = _Connection(client)
        self._all.add(connection)
        self._selector.register(client, selectors.EVENT_READ, connection)
        self._idle.append(connection)

    def _send(self, due: float) -> None:
        connection = self._idle.popleft()
        connection.due, connection.received = due, b""
        try:
            connection.client.send(self.request)
        except OSError:
            self._lose(connection)

    def _lose(self, connection: _Connection) -> None:
        self._reconnects += 1
        if connection in self._idle:
            self._idle.remove(connection)
        self._selector.unregister(connection.client)
        connection.client.close()
        self._all.discard(connection)
        self._connect()

    def _receive(self, timeout_s: float) -> int:
        """Take the answers that are there; return how many."""
        answered = 0
        for key, _ in self._selector.select(timeout_s):
            connection: _Connection = key.data
            try:
                data = connection.client.recv(65536)
            except OSError:
                data = b""
            if not data:
                self._lose(connection)
                continue
            connection.received += data
            status = _status(connection.received)
            if status:
                self._times.setdefault(status, []).append(perf_counter() - connection.due)
                self._idle.append(connection)
                answered += 1
        return answered


def _status(answer: bytes) -> int:
    """Return the status of a whole answer, 0 as long as it is not whole."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return 0
    length = _LENGTH.search(head)
    if length is not None and len(body) < int(length[1]):
        return 0
    return int(head[9:12])
