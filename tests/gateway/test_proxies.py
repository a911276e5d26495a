"""Who the client is, where proxies stand before the gateway; and which hosts are ours."""

from __future__ import annotations

import ipaddress
import logging
from typing import Any, Literal

import pytest

from fissile.testing import ManualClock
from fissile_gateway._client import Client, Proxies
from tests.gateway.serving import client_at, guarded
from tests.gateway.test_problems import is_problem

LIVE, FIND = "/livez", "/api/shop/find"
OURS = ("10.0.0.0/8", "192.0.2.10/32", "2001:db8:ffff::/48")


def client_of(
    peer: str, *fields: tuple[str, str], hops: int = 0, style: Literal["x-forwarded", "forwarded"] = "x-forwarded"
) -> Client:
    proxies = Proxies(tuple(ipaddress.ip_network(network) for network in OURS), hops, style)
    return proxies.client(peer, "http", [(name.encode(), value.encode("latin-1")) for name, value in fields])


FOR, PROTO, HOST = "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"

CHAINS: dict[str, tuple[str, list[tuple[str, str]], Client]] = {
    "no proxy": ("203.0.113.1", [], Client("203.0.113.1", "http")),
    "a claim from nowhere": ("203.0.113.1", [(FOR, "1.1.1.1"), (PROTO, "https")], Client("203.0.113.1", "http")),
    "one proxy": ("10.0.0.1", [(FOR, "203.0.113.1"), (PROTO, "https")], Client("203.0.113.1", "https")),
    "a client that lies in front": ("10.0.0.1", [(FOR, "127.0.0.1, 203.0.113.1")], Client("203.0.113.1", "http")),
    "a client that claims to be a proxy": (
        "10.0.0.1",
        [(FOR, "8.8.8.8, 10.9.9.9, 203.0.113.1")],
        Client("203.0.113.1", "http"),
    ),
    "two proxies": ("10.0.0.1", [(FOR, "203.0.113.1, 10.0.0.2")], Client("203.0.113.1", "http")),
    "two proxies in two fields": ("10.0.0.1", [(FOR, "203.0.113.1"), (FOR, "10.0.0.2")], Client("203.0.113.1", "http")),
    "nobody but proxies": ("10.0.0.1", [(FOR, "10.0.0.3, 10.0.0.2")], Client("10.0.0.3", "http")),
    "a proxy that says nothing": ("10.0.0.1", [], Client("10.0.0.1", "http")),
    "nonsense": ("10.0.0.1", [(FOR, "203.0.113.1, unknown")], Client("10.0.0.1", "http")),
    "an attack on the log": ("10.0.0.1", [(FOR, "<script>, 203.0.113.1")], Client("203.0.113.1", "http")),
    "ports": ("10.0.0.1", [(FOR, "203.0.113.1:4711")], Client("203.0.113.1", "http")),
    "IPv6 with a port": ("10.0.0.1", [(FOR, "[2001:db8::7]:4711")], Client("2001:db8::7", "http")),
    "IPv6 proxies": ("2001:db8:ffff::1", [(FOR, "2001:db8::7")], Client("2001:db8::7", "http")),
    "an IPv4 proxy on an IPv6 socket": ("::ffff:10.0.0.1", [(FOR, "203.0.113.1")], Client("203.0.113.1", "http")),
    "a scheme that is none": ("10.0.0.1", [(FOR, "203.0.113.1"), (PROTO, "gopher")], Client("203.0.113.1", "http")),
    "a host": (
        "10.0.0.1",
        [(FOR, "203.0.113.1"), (HOST, "shop.example")],
        Client("203.0.113.1", "http", "shop.example"),
    ),
    "a host that is none": ("10.0.0.1", [(FOR, "203.0.113.1"), (HOST, "a b\\c")], Client("203.0.113.1", "http")),
    "the other style": ("10.0.0.1", [("forwarded", "for=203.0.113.1")], Client("10.0.0.1", "http")),
    "a path that never ends": ("10.0.0.1", [(FOR, "10.0.0.2, " * 5000 + "10.0.0.2")], Client("10.0.0.2", "http")),
}


@pytest.mark.parametrize(("peer", "fields", "client"), CHAINS.values(), ids=CHAINS)
def test_the_client_is_the_rightmost_address_that_is_none_of_ours(
    peer: str, fields: list[tuple[str, str]], client: Client
) -> None:
    assert client_of(peer, *fields) == client


def test_so_many_proxies_may_stand_in_a_row() -> None:
    chain = (FOR, "203.0.113.1, 10.0.0.3, 10.0.0.2")
    assert client_of("10.0.0.1", chain, hops=1).address == "10.0.0.2"
    assert client_of("10.0.0.1", chain, hops=2).address == "10.0.0.3"
    assert client_of("10.0.0.1", chain, hops=3).address == "203.0.113.1"


FORWARDED = {
    "one": ('for=203.0.113.1;proto=https;host="shop.example"', Client("203.0.113.1", "https", "shop.example")),
    "a lie in front": ("for=1.1.1.1, for=203.0.113.1", Client("203.0.113.1", "http")),
    "two proxies": ("for=203.0.113.1;proto=https, For=10.0.0.2;Proto=http", Client("203.0.113.1", "https")),
    "IPv6": ('for="[2001:db8::7]:4711"', Client("2001:db8::7", "http")),
    "a hidden client": ("for=_hidden", Client("10.0.0.1", "http")),
    "commas in quotes": ('for="1.1.1.1, for=2.2.2.2", for=203.0.113.1', Client("203.0.113.1", "http")),
    "a quote that does not end": ('for=203.0.113.1, for="1.1.1.1', Client("10.0.0.1", "http")),
}


@pytest.mark.parametrize(("value", "client"), FORWARDED.values(), ids=FORWARDED)
def test_the_standard_field_is_read_alike(value: str, client: Client) -> None:
    assert client_of("10.0.0.1", ("forwarded", value), style="forwarded") == client


def test_the_field_that_is_not_configured_is_ignored() -> None:
    assert client_of("10.0.0.1", (FOR, "203.0.113.1"), style="forwarded").address == "10.0.0.1"


async def test_the_client_behind_a_proxy_is_what_is_limited_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fissile.gateway.access")
    async with guarded(ManualClock(), address="10.0.0.1", trusted_proxies=OURS, rate_limit_address="1/minute") as here:
        for address, status in (("203.0.113.1", 200), ("203.0.113.2", 200), ("203.0.113.1", 429)):
            assert (await here.client.get(FIND, headers={FOR: address})).status_code == status
        async with client_at(here.gateway, "198.51.100.1") as stranger:
            assert (await stranger.get(FIND, headers={FOR: "203.0.113.3"})).status_code == 200
            assert (await stranger.get(FIND, headers={FOR: "203.0.113.4"})).status_code == 429
    seen: list[Any] = [getattr(record, "client", None) for record in caplog.records if record.name.endswith("access")]
    assert seen == ["203.0.113.1", "203.0.113.2", "203.0.113.1", "198.51.100.1", "198.51.100.1"]


async def test_browsers_are_told_to_use_https_only_where_it_is_used() -> None:
    async with guarded(address="10.0.0.1", trusted_proxies=OURS) as here:
        plain = await here.client.get(LIVE, headers={FOR: "203.0.113.1", PROTO: "http"})
        secure = await here.client.get(LIVE, headers={FOR: "203.0.113.1", PROTO: "https"})
        assert "strict-transport-security" not in plain.headers
        assert secure.headers["strict-transport-security"] == "max-age=31536000"
        async with client_at(here.gateway, "198.51.100.1") as liar:
            assert "strict-transport-security" not in (await liar.get(LIVE, headers={PROTO: "https"})).headers
        async with client_at(here.gateway, "198.51.100.1", "https") as direct:
            assert "strict-transport-security" in (await direct.get(LIVE)).headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("shop.test", 200),
        ("SHOP.test:8000", 200),
        ("a.example.com", 200),
        ("a.b.example.com", 200),
        ("example.com", 421),
        ("evil.test", 421),
        ("shop.test.evil.test", 421),
        ("evilexample.com", 421),
        ("shop.test:80:80", 400),
        ("shop.test/path", 400),
        ("user@shop.test", 400),
        ("", 400),
    ],
)
async def test_only_our_hosts_are_served(host: str, status: int) -> None:
    async with guarded(allowed_hosts=("shop.test", "*.example.com")) as here:
        answer = await here.client.get(FIND, headers={"host": host})
        assert answer.status_code == status
        if status != 200:
            is_problem(answer, status, "misdirected-request" if status == 421 else "invalid-host")
        assert (await here.client.get(LIVE, headers={"host": host})).status_code == 200
