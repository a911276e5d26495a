"""Who the client is: its address, scheme and host, as the connection or a trusted proxy tells them.

What a client writes into `X-Forwarded-For` is its own claim. So the fields are looked at only where the connection comes from a configured
network, and are read from the right: each proxy appends what it has seen, and the rightmost address that is none of ours is the client.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

import msgspec

from fissile_gateway._protection_settings import Network

Headers = Iterable[tuple[bytes, bytes]]

_HOST = re.compile(r"(?P<name>[A-Za-z0-9._~-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?P<port>:[0-9]{1,5})?")
_PAIR = re.compile(r'[ \t]*([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^";,\s]*)[ \t]*')
_FIELDS = {
    b"x-forwarded-for": "for",
    b"x-forwarded-proto": "proto",
    b"x-forwarded-host": "host",
}
_MOST_HOPS = 32


class Client(msgspec.Struct, frozen=True):
    """A client, as far as it is known.

    Attributes:
        address: Its address.
        scheme: `http` or `https`, as the client used it.
        host: The host that it asked, if a proxy tells it.
    """

    address: str
    scheme: str
    host: str | None = None


class Proxies:
    """Finds the client behind trusted proxies.

    Args:
        networks: The networks of the proxies.
        hops: How many proxies may stand in a row; 0: as many as are trusted.
        style: Which fields they set.
    """

    def __init__(
        self, networks: tuple[Network, ...], hops: int = 0, style: Literal["x-forwarded", "forwarded"] = "x-forwarded"
    ) -> None:
        self._networks = networks
        self._hops = hops or _MOST_HOPS
        self._style = style
        self._is_trusted = lru_cache(1024)(self._look_up)

    def trust(self, peer: str) -> bool:
        """Tell whether an address is a proxy's."""
        return bool(self._networks) and self._is_trusted(peer)

    def client(self, peer: str, scheme: str, headers: Headers) -> Client:
        """Return the client of a request.

        Args:
            peer: The address at the other end of the connection.
            scheme: What the connection speaks.
            headers: The request's fields.
        """
        if not self.trust(peer):
            return Client(peer, scheme)
        hops = self._forwarded(headers) if self._style == "forwarded" else self._x_forwarded(headers)
        address, host = peer, None
        for count, hop in enumerate(reversed(hops)):
            if count >= self._hops:
                break
            scheme = hop.get("proto", scheme)
            host = hop.get("host", host)
            told = hop.get("for")
            if told is None:
                break  # a proxy that tells nothing, or an unreadable address: the chain ends at the one before
            address = told
            if not self._is_trusted(told):
                break
        return Client(address, scheme, host)

    def _look_up(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None)
        return any((mapped or parsed) in network for network in self._networks)

    def _x_forwarded(self, headers: Headers) -> list[dict[str, str]]:
        told: dict[str, list[str]] = {"for": [], "proto": [], "host": []}
        for name, value in headers:
            kind = _FIELDS.get(name)
            if kind is not None:
                told[kind] += [part.strip() for part in value.decode("latin-1").split(",")][-_MOST_HOPS:]
        hops: list[dict[str, str]] = []
        addresses = told["for"][-_MOST_HOPS:] or [""]
        for index, text in enumerate(reversed(addresses)):
            hop = {"for": text}
            for kind in ("proto", "host"):
                # A proxy that replaces the field instead of appending to it leaves one value for the whole chain.
                values = told[kind]
                if values and (index < len(values) or len(values) == 1):
                    hop[kind] = values[-1 - index] if index < len(values) else values[0]
            hops.append(_checked(hop))
        return hops[::-1]

    def _forwarded(self, headers: Headers) -> list[dict[str, str]]:
        text = ",".join(value.decode("latin-1") for name, value in headers if name == b"forwarded")
        hops: list[dict[str, str]] = []
        for element in _split(text, ",")[-_MOST_HOPS:]:
            hop: dict[str, str] = {}
            for pair in _split(element, ";"):
                match = _PAIR.fullmatch(pair)
                if match is not None:
                    hop[match[1].lower()] = _unquoted(match[2])
            hops.append(_checked(hop))
        return hops


def _split(text: str, mark: str) -> list[str]:
    """Split at a mark outside of quoted strings."""
    parts: list[str] = []
    start, is_quoted = 0, False
    for index, character in enumerate(text):
        if character == '"' and (index == 0 or text[index - 1] != "\\"):
            is_quoted = not is_quoted
        elif character == mark and not is_quoted:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text.startswith('"') else text


def _checked(hop: dict[str, str]) -> dict[str, str]:
    """Keep what can be true."""
    checked: dict[str, str] = {}
    address = _address(hop.get("for", ""))
    if address is not None:
        checked["for"] = address
    if hop.get("proto", "").lower() in ("http", "https"):
        checked["proto"] = hop["proto"].lower()
    if _HOST.fullmatch(hop.get("host", "")):
        checked["host"] = hop["host"]
    return checked


def _address(text: str) -> str | None:
    """Return the address in `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


@lru_cache(4096)
def network_of(address: str) -> str:
    """Return what is counted as one client: an IPv4 address, but the /64 of an IPv6 address, which one subscriber has to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))


class Hosts:
    """The hosts that requests may name.

    Args:
        allowed: Names such as `api.example.com`, `api.example.com:8443` or `*.example.com`; none allows all.
    """

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._exact = frozenset(host.lower() for host in allowed if not host.startswith("*."))
        self._below = tuple(host[1:].lower() for host in allowed if host.startswith("*."))

    def refuses(self, host: str) -> int:
        """Return the status to answer with: 400 for a host that is none, 421 for another one's, 0 where it is ours."""
        match = _HOST.fullmatch(host)
        if match is None:
            return 400
        if not self._exact and not self._below:
            return 0
        name, whole = match["name"].lower(), host.lower()
        return 0 if name in self._exact or whole in self._exact or name.endswith(self._below) else 421
