"""What the server asks before it reads a request: whether to read it at all.

Under a flood most requests are refused, and then what a refusal costs is what is left to the others. Reading a head, making a task and an
answer takes ten times as long as this: one look at the bytes, and an answer that lies ready. It is taken only where the bytes are one whole
request of the plainest kind, so that nobody can be of two minds about where it ends; all others go the long way.
"""

from __future__ import annotations

import logging
import math
import re
from time import time
from typing import TYPE_CHECKING
from wsgiref.handlers import format_date_time

import msgspec

from fissile_gateway._client import network_of
from fissile_gateway._problems import MEDIA_TYPE, RETRY_AFTER_S

if TYPE_CHECKING:
    from fissile_gateway._admission import Gate, Ticket
    from fissile_gateway._protection import Protection

PROBES = frozenset(("/livez", "/readyz"))
"""Answered whatever happens: who asks is the machinery that would restart the process."""

WAITED = "fissile.waited_s"
"""Where a scope tells how long the request waited for the event loop, if that was long."""

_TELL_WAIT_S = 0.02
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,7})[ \t]*\r\n")
_UNUSUAL = (b"transfer-encoding", b"upgrade", b"expect:", b"\r\n ", b"\r\n\t", b"connection: close")
_PROBES = frozenset(probe.encode() for probe in PROBES)
_LARGEST_HEAD = 16 * 1024

_logger = logging.getLogger("fissile.gateway")


class Gatekeeper:
    """Refuses requests that were not read, and measures how long the others wait for the event loop.

    Attributes:
        turned_back: How many requests it has refused.

    Args:
        protection: Decides.
    """

    def __init__(self, protection: Protection) -> None:
        self.turned_back = 0
        self._protection = protection
        self._arrivals = protection.arrivals
        self._requests = protection.requests
        self._all = (protection.requests,)
        self._patience = protection.patience
        self._gates = {path.encode(): gates for path, gates in protection.gates.items()}
        # A page of another origin reads an answer only with CORS's fields; those are made later.
        self._unusual = (*_UNUSUAL, b"\r\norigin:") if protection.settings.cors_origins else _UNUSUAL
        self._told_at = -math.inf
        self._untold = 0
        self._answers: dict[tuple[int, int], tuple[int, bytes]] = {}

    def client_of(self, peer: str) -> str:
        """Return for whom a connection from an address is counted: a proxy's are its clients'."""
        return "" if self._protection.proxies.trust(peer) else network_of(peer)

    # --- how long requests wait --------------------------------------------------------------------------------------

    def arrived(self, data: bytes = b"") -> Ticket | None:
        """Note a request that is let in; return what `started` or `forget` want to know of it.

        Args:
            data: Its first bytes, if they are at hand; where they hold no whole head, None is returned, and it is noted later.
        """
        if data and b"\r\n\r\n" not in data:
            return None
        return self._arrivals.arrived((self._requests, *self._gates_of(data)) if self._gates else self._all)

    def started(self, ticket: Ticket) -> float | None:
        """Note that its application begins; return how long it waited, in seconds, if that was long."""
        waited_s = self._arrivals.started(ticket)
        return waited_s if waited_s > _TELL_WAIT_S else None

    def forget(self, ticket: Ticket) -> None:
        """Note that its application will never begin."""
        self._arrivals.forget(ticket)

    # --- refusing ----------------------------------------------------------------------------------------------------

    def refuse(self, data: bytes, peer: str) -> bytes | None:
        """Return the answer to bytes from a client where they are a request that is refused; None lets them in.

        Args:
            data: What was read, at the beginning of a request.
            peer: The address at the other end of the connection.
        """
        protection = self._protection
        wait_s = protection.locked_out_s(peer) if protection.has_locked_out else 0.0
        if not wait_s:
            if not (self._gates or self._arrivals.pending or self._requests.running >= self._requests.limit):
                return None
            gate = self._hopeless(data)
            if gate is None:
                return None
        else:
            gate = None
        if not _is_plain(data, self._unusual):
            return None
        if gate is not None:
            gate.refuse()
        else:
            protection.limited += 1
        self.turned_back += 1
        self._tell()
        return self._answer(429, max(1, math.ceil(wait_s))) if wait_s else self._answer(503, RETRY_AFTER_S)

    def _hopeless(self, data: bytes) -> Gate | None:
        if self._arrivals.is_hopeless() or self._requests.is_hopeless():
            return self._requests
        for gate in self._gates_of(data) if self._gates else ():
            if gate.is_hopeless():
                return gate
        return None

    def _gates_of(self, data: bytes) -> tuple[Gate, ...]:
        """Return the bounds of the route that a request line names, beside the bound of all."""
        target = data[: data.find(b"\r\n")].split(b" ", 2)[1:2]
        return self._gates.get(target[0].partition(b"?")[0], ()) if target else ()

    def _tell(self) -> None:
        """Say in the log what is going on, once a second: a line for each would cost more than refusing it."""
        self._untold += 1
        now = self._protection.clock()
        if now - self._told_at >= 1.0:
            _logger.warning("%s requests were refused before they were read", self._untold)
            self._told_at, self._untold = now, 0

    def _answer(self, status: int, retry_s: int) -> bytes:
        second = int(time())
        made = self._answers.get((status, retry_s))
        if made is None or made[0] != second:
            if len(self._answers) > 1000:
                self._answers.clear()
            made = self._answers[status, retry_s] = (second, _write(status, retry_s, second))
        return made[1]


def _is_plain(data: bytes, unusual: tuple[bytes, ...]) -> bool:
    """Tell whether bytes are exactly one request whose end is beyond doubt, and that is no probe."""
    end = data.find(b"\r\n\r\n")
    if end < 0 or end > _LARGEST_HEAD or data.startswith((b"HEAD ", b"OPTIONS ")):
        return False
    head = data[: end + 4].lower()
    line = head[: head.find(b"\r\n")].split(b" ")
    if len(line) != 3 or line[2] != b"http/1.1" or not line[1].startswith(b"/"):
        return False
    if line[1].partition(b"?")[0] in _PROBES or head.count(b"\n") != head.count(b"\r\n"):
        return False
    if any(word in head for word in unusual):
        return False
    lengths = head.count(b"content-length")
    if not lengths:
        return len(data) == end + 4
    match = _LENGTH.search(head)
    return lengths == 1 and match is not None and len(data) == end + 4 + int(match[1])


def _write(status: int, retry_s: int, second: int) -> bytes:
    name = "overloaded" if status == 503 else "too-many-requests"
    detail = f"Too many requests have come. It did not happen; try again in {retry_s} s."
    document = {
        "type": f"/problems/{name}",
        "title": name.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
    }
    body = msgspec.json.encode(document)
    phrase = "Service Unavailable" if status == 503 else "Too Many Requests"
    head = (
        f"HTTP/1.1 {status} {phrase}\r\n"
        f"date: {format_date_time(second)}\r\n"
        f"content-type: {MEDIA_TYPE}\r\n"
        f"content-length: {len(body)}\r\n"
        f"retry-after: {retry_s}\r\n"
        "cache-control: no-store\r\n"
        "x-content-type-options: nosniff\r\n\r\n"
    )
    return head.encode() + body
