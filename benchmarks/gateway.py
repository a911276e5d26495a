"""The row of a gateway request: requests per second over keep-alive connections, against a bare Quart route."""

from __future__ import annotations

import re
import selectors
import socket
from time import perf_counter

from benchmarks._process import Server, serving
from benchmarks._rows import ROOT, CannotRun, Row, Spec, by_turns, python
from benchmarks.startup import READY

SPEC = Spec("gateway request, co-located module", "a bare Quart route on Hypercorn", "requests/s", 0.85, at_least=True)
FLOOR_READY = re.compile(r"http://(127\.0\.0\.1:\d+)\n")
CONNECTIONS = 8
REQUESTS = 400
"""In one round."""
BODY = b'{"language": "python", "source": "print(6*7)"}'


def rows(rounds: int) -> list[Row]:
    """Measure both servers by turns; each is a process of its own, on one event loop of the same kind."""
    try:
        with (
            serving(
                python("-m", "fissile", "run"), ROOT / "benchmarks" / "application", READY, FISSILE_PORT="0"
            ) as ours,
            serving(python("-m", "benchmarks.floors.quart_route"), ROOT, FLOOR_READY) as floor,
        ):
            clients = Client(ours), Client(floor)
            return [SPEC.row(by_turns(rounds, clients[0].requests_per_s, clients[1].requests_per_s))]
    except (CannotRun, OSError) as error:
        return [SPEC.cannot(str(error))]


class Client:
    """Sends requests over several connections; on each the next one when the last was answered.

    It knows just enough of HTTP for these two servers, so that it takes little of the processor that they share with it.

    Args:
        server: Where to send them.
    """

    def __init__(self, server: Server) -> None:
        host, _, port = server.host.rpartition(":")
        self._request = (
            b"POST /api/executor/run-code HTTP/1.1\r\n"
            b"host: " + server.host.encode() + b"\r\n"
            b"content-type: application/json\r\n"
            b"content-length: " + str(len(BODY)).encode() + b"\r\n\r\n" + BODY
        )
        self._address = host, int(port)

    def requests_per_s(self) -> float:
        """Make a round of requests.

        Raises:
            CannotRun: An answer was not 200.
        """
        with selectors.DefaultSelector() as selector:
            connections = [socket.create_connection(self._address, 30.0) for _ in range(CONNECTIONS)]
            try:
                return self._round(selector, connections)
            finally:
                for connection in connections:
                    connection.close()

    def _round(self, selector: selectors.BaseSelector, connections: list[socket.socket]) -> float:
        received = dict.fromkeys(connections, b"")
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ)
        began = perf_counter()
        sent = answered = 0
        for connection in connections:
            connection.sendall(self._request)
            sent += 1
        while answered < REQUESTS:
            ready = selector.select(30.0)
            if not ready:
                raise CannotRun("a request was not answered in 30 s")
            for key, _ in ready:
                client = key.fileobj
                assert isinstance(client, socket.socket)
                received[client] += client.recv(65536)
                if not _is_whole(received[client]):
                    continue
                received[client] = b""
                answered += 1
                if sent < REQUESTS:
                    client.sendall(self._request)
                    sent += 1
        return REQUESTS / (perf_counter() - began)


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        if not answer:
            raise CannotRun("the server closed a connection")
        return False
    if not head.startswith(b"HTTP/1.1 200"):
        raise CannotRun(answer.decode(errors="replace")[:300])
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    if length is None:
        raise CannotRun("an answer has no content-length")
    return len(body) >= int(length[1])
