"""The rows of a gateway request: requests per second over keep-alive connections, against a bare Quart route."""

from __future__ import annotations

import re
import selectors
import socket
import tempfile
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

from benchmarks._process import Server, serving
from benchmarks._rows import ROOT, CannotRun, Row, Spec, by_turns, python
from benchmarks.startup import READY
from fissile._api_keys import new_key

SPEC = Spec("gateway request, co-located module", "a bare Quart route on Hypercorn", "requests/s", 0.85, at_least=True)
GUARDED = Spec(
    "gateway request, co-located module, with an API key and a rate limit",
    "a bare Quart route on Hypercorn",
    "requests/s",
    0.75,
    at_least=True,
)
RATE_LIMIT = "100000000/minute"
"""It is counted and never reached."""
FLOOR_READY = re.compile(r"http://(127\.0\.0\.1:\d+)\n")
CONNECTIONS = 8
REQUESTS = 400
"""In one round."""
BODY = b'{"language": "python", "source": "print(6*7)"}'


def rows(rounds: int) -> list[Row]:
    """Measure each server in turn with the floor; each is a process of its own, on one event loop of the same kind."""
    key, sha256 = new_key("benchmark")
    try:
        with ExitStack() as stack:
            keys = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "keys.toml"
            keys.write_text(f'[[key]]\nid = "benchmark"\nsha256 = "{sha256}"\n')
            keys.chmod(0o600)
            application = ROOT / "benchmarks" / "application"
            run = python("-m", "fissile", "run")
            plain = Client(stack.enter_context(serving(run, application, READY, FISSILE_PORT="0")))
            guards = {"FISSILE_API_KEYS_FILE": str(keys), "FISSILE_RATE_LIMIT": RATE_LIMIT}
            guarded = Client(stack.enter_context(serving(run, application, READY, FISSILE_PORT="0", **guards)), key)
            floor = Client(
                stack.enter_context(serving(python("-m", "benchmarks.floors.quart_route"), ROOT, FLOOR_READY))
            )
            return [
                spec.row(by_turns(rounds, client.requests_per_s, floor.requests_per_s))
                for spec, client in ((SPEC, plain), (GUARDED, guarded))
            ]
    except (CannotRun, OSError) as error:
        return [spec.cannot(str(error)) for spec in (SPEC, GUARDED)]


class Client:
    """Sends requests over several connections; on each the next one when the last was answered.

    It knows just enough of HTTP for these two servers, so that it takes little of the processor that they share with it.

    Args:
        server: Where to send them.
        key: The API key that they carry, if they do.
    """

    def __init__(self, server: Server, key: str = "") -> None:
        host, _, port = server.host.rpartition(":")
        self._request = (
            b"POST /api/executor/run-code HTTP/1.1\r\n"
            b"host: "
            + server.host.encode()
            + b"\r\n"
            + (f"x-api-key: {key}\r\n".encode() if key else b"")
            + b"content-type: application/json\r\n"
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
