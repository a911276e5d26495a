"""Clients of event streams, many in one process: `python -m benchmarks.sse_clients HOST:PORT PATH COUNT`.

It does what it is told, a line each, and answers with a line: `open` opens the streams and waits for the first event of each, `hear N` waits
until each has had N events more, `end` ends. It knows just enough of HTTP to find the ends of events.
"""

from __future__ import annotations

import selectors
import socket
import sys
from time import perf_counter

_WAIT_S = 60.0
_OPENING = 200
"""How many connections are being opened at once: more than the server's backlog would be refused."""


class Client:
    """One stream."""

    __slots__ = ("events", "is_open", "socket")

    def __init__(self, address: tuple[str, int], request: bytes) -> None:
        self.socket = socket.create_connection(address, 30.0)
        self.socket.sendall(request)
        self.events = 0
        self.is_open = False

    def read(self) -> None:
        """Take what has come, and count the ends of events."""
        data = self.socket.recv(65536)
        if not data:
            raise SystemExit("the server closed a stream")
        if not self.is_open:
            if not data.startswith(b"HTTP/1.1 200"):
                raise SystemExit(" ".join(data.decode(errors="replace").split())[-300:])
            self.is_open = True
        self.events += data.count(b"\ndata: ") + data.count(b"\nid: ") - data.count(b"\nevent: ")


class Clients:
    """All streams of this process."""

    def __init__(self, host: str, path: str, count: int) -> None:
        name, _, port = host.rpartition(":")
        self._address = name, int(port)
        self._request = f"GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: text/event-stream\r\n\r\n".encode()
        self._count = count
        self._selector = selectors.DefaultSelector()
        self._clients: list[Client] = []

    def open(self) -> None:
        """Open the streams, some at a time."""
        while len(self._clients) < self._count:
            for _ in range(min(_OPENING, self._count - len(self._clients))):
                client = Client(self._address, self._request)
                self._clients.append(client)
                self._selector.register(client.socket, selectors.EVENT_READ, client)
            self.hear(1, dict.fromkeys(self._clients, 0))

    def hear(self, more: int, since: dict[Client, int] | None = None) -> None:
        """Wait until each stream has had so many events more."""
        since = since or {client: client.events for client in self._clients}
        waiting = {client for client in self._clients if client.events < since[client] + more}
        until = perf_counter() + _WAIT_S
        while waiting:
            if perf_counter() > until:
                raise SystemExit(f"{len(waiting)} of {len(self._clients)} streams have heard nothing for {_WAIT_S:g} s")
            for key, _ in self._selector.select(1.0):
                client: Client = key.data
                client.read()
                if client.events >= since[client] + more:
                    waiting.discard(client)


def main() -> None:
    """Do what is told."""
    host, path, count = sys.argv[1:]
    clients = Clients(host, path, int(count))
    for line in sys.stdin:
        what, _, number = line.strip().partition(" ")
        if what == "open":
            clients.open()
        elif what == "hear":
            clients.hear(int(number))
        else:
            return
        sys.stdout.write(f"{what}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
