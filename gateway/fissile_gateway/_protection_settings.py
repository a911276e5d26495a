"""The settings of what protects the gateway: limits, CORS, proxies, TLS."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Literal

from attrs import Attribute, frozen
from msgspec import Struct

from fissile import ModuleSettings, secret, setting
from fissile_gateway._rates import read_rate

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_ORIGIN = re.compile(r"https?://(\*\.)?[a-z0-9.\[\]:_-]+")
_SENT = (
    "authorization", "content-type", "idempotency-key", "if-none-match", "last-event-id", "prefer",
    "traceparent", "tracestate", "x-api-key", "x-request-id",
)  # fmt: skip
_READ = (
    "allow", "deprecation", "etag", "idempotency-replayed", "link", "location", "preference-applied",
    "ratelimit", "ratelimit-policy", "retry-after", "sunset", "www-authenticate", "x-request-id",
)  # fmt: skip
_MAY_BE_ZERO = {"requests_waiting", "trusted_hops", "hsts_s", "cors_max_age_s", "breaker_failures"}


class RouteLimits(Struct, frozen=True, forbid_unknown_fields=True):
    """What differs for one message, for all messages of a module, or for the path of a hand-written route.

    In `[tool.fissile.gateway.routes."orders.place-order"]`, `[tool.fissile.gateway.routes.orders]`, or
    `[tool.fissile.gateway.routes."/session"]`.

    Attributes:
        timeout_s: How long a request may take, in seconds; before the contract's own, and the setting for all.
        rate_limit: Requests per client, such as `10/minute`; beside the limit for all routes.
        rate_limit_address: Requests per address, whoever it is, such as `10/minute`: for what people do before it is known who they are.
        requests_at_once: How many requests may be in progress.
        max_body_bytes: The size of a body, in bytes; below the limit for all routes.
        guessable: Whether what is proved there can be guessed, as a password can and a long random token cannot: then an address that has failed
            too often is refused before anybody looks. Unless told, where a contract, or the operation of a hand-written route, names an error of
            status 401.
    """

    timeout_s: float | None = None
    rate_limit: str = ""
    rate_limit_address: str = ""
    requests_at_once: int | None = None
    max_body_bytes: int | None = None
    guessable: bool | None = None


@frozen
class ProtectionSettings(ModuleSettings):
    """What the gateway defends itself with. Like those of `GatewaySettings`, the field `rate_limit` is read from `FISSILE_RATE_LIMIT`.

    Raises:
        ValueError: A value is out of its range, or cannot be read.
    """

    route_limits: Mapping[str, RouteLimits] = setting(
        {},
        'What differs for a route or module: [tool.fissile.gateway.routes."orders.place-order"] in pyproject.toml, or JSON.',
    )
    # How many
    rate_limit: str = setting("", "Requests per client (identity, else address), such as 600/minute; empty: no limit.")
    rate_limit_address: str = setting("", "Requests per address, whoever it is, such as 1200/minute; empty: no limit.")
    rate_limit_failures: str = setting("20/minute", "Failed authentications per address; beyond, it is answered 429.")
    rate_limit_storage: str = secret(
        "memory://", "Where requests are counted; redis://host:6379 where replicas of the gateway count together."
    )
    rate_limit_keys: int = setting(100_000, "How many clients and addresses are remembered; the oldest are forgotten.")
    requests_waiting: int = setting(
        100, "How many requests may wait for a place among those in progress; one more is answered 503 at once."
    )
    wait_s: float = setting(
        0.1, "How long a request may wait for its turn in a burst, in seconds; less while there is no end of it."
    )
    # Modules that do not answer
    breaker_failures: int = setting(
        10, "After how many failures in a row a module is not called for a while; 0: it always is."
    )
    breaker_rate: float = setting(0.5, "The share of failures among the last calls from which on the same is done.")
    breaker_calls: int = setting(50, "How many calls that share is of.")
    breaker_open_s: float = setting(5.0, "For how long it is not called, in seconds; then by a few that try.")
    breaker_trials: int = setting(3, "How many try; when all of them succeed, it is called as before.")
    breaker_counts_failed: bool = setting(
        default=False, help="Whether a handler that failed counts, beside modules that cannot be reached or are late."
    )
    # What a request may be
    max_url_bytes: int = setting(8 * 1024, "The size of a request's path and query, in bytes; more is answered 414.")
    max_head_fields: int = setting(100, "How many fields a request's head may have.")
    max_query_fields: int = setting(100, "How many parameters a query string may have.")
    max_json_depth: int = setting(64, "How deeply a JSON document may be nested.")
    head_timeout_s: float = setting(10.0, "How long a client may take for a request's head, in seconds.")
    read_timeout_s: float = setting(30.0, "How long a client may take for each 64 KiB of a body, in seconds.")
    allowed_hosts: tuple[str, ...] = setting(
        (), "The hosts that requests may name, such as api.example.com or *.example.com; empty: any."
    )
    # Browsers
    cors_origins: tuple[str, ...] = setting(
        (), "The origins whose pages may read answers, such as https://app.example.com; * for all; empty: none."
    )
    cors_methods: tuple[str, ...] = setting(("GET", "HEAD", "POST", "DELETE"), "The methods that they may use.")
    cors_headers: tuple[str, ...] = setting(
        _SENT,
        "The fields that they may send.",
    )
    cors_exposed: tuple[str, ...] = setting(
        _READ,
        "The fields of answers that they may read.",
    )
    cors_credentials: bool = setting(default=False, help="Whether they may send cookies; not with the origin *.")
    cors_max_age_s: int = setting(600, "How long a browser may remember that, in seconds.")
    hsts_s: int = setting(31_536_000, "How long browsers shall use https only, in seconds; said over https; 0: never.")
    page_csp: str = setting(
        "frame-ancestors 'none'; object-src 'none'; base-uri 'self'",
        "The Content-Security-Policy of the application's own pages that set none themselves.",
    )
    # Proxies
    trusted_proxies: tuple[str, ...] = setting(
        (), "The networks of proxies that tell the client's address, such as 10.0.0.0/8; empty: none."
    )
    trusted_hops: int = setting(0, "How many proxies may stand in a row; 0: as many as are trusted.")
    forwarded: Literal["x-forwarded", "forwarded"] = setting(
        "x-forwarded",
        "How they tell: X-Forwarded-For, -Proto and -Host, or Forwarded (RFC 7239). The other is ignored.",
    )
    # TLS
    tls_certificate: str = setting("", "The file with the server's certificate chain (PEM); empty: no TLS.")
    tls_key: str = setting("", "The file with its private key (PEM), where it is not in the same file.")
    tls_key_password: str = secret("", "The password of the private key.")
    tls_handshake_s: float = setting(5.0, "How long a TLS handshake may take, in seconds.")
    http2: bool = setting(default=True, help="Whether HTTP/2 is spoken over TLS; never without.")
    http2_streams: int = setting(50, "How many requests an HTTP/2 connection may have in progress.")

    def __attrs_post_init__(self) -> None:
        fields: tuple[Attribute[Any], ...] = getattr(type(self), "__attrs_attrs__", ())
        for name, value in ((field.name, getattr(self, field.name)) for field in fields):
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                lowest = 0 if name in _MAY_BE_ZERO else None
                if value < 0 or (lowest is None and value == 0):
                    raise ValueError(f"{name} is {value}; it has to be {'positive' if lowest is None else '0 or more'}")
        rates = {name: getattr(self, name) for name in ("rate_limit", "rate_limit_address", "rate_limit_failures")}
        for name, limits in self.route_limits.items():
            rates |= {f"rate_limit of the route {name}": limits.rate_limit}
            rates |= {f"rate_limit_address of the route {name}": limits.rate_limit_address}
        for name, rate in rates.items():
            if rate and read_rate(rate) is None:
                raise ValueError(
                    f"{name} is {rate!r}; write a number and a time, such as 600/minute or 10 per 5 seconds"
                )
        for name, limits in self.route_limits.items():
            for field in ("timeout_s", "requests_at_once", "max_body_bytes"):
                number = getattr(limits, field)
                if number is not None and number <= 0:
                    raise ValueError(f"{field} of the route {name} is {number}; it has to be positive")
        self.networks()
        for origin in self.cors_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"cors_origins has {origin!r}; write an origin such as https://app.example.com")
        if self.cors_credentials and "*" in self.cors_origins:
            raise ValueError(
                "cors_origins is * with cors_credentials; any page could act as its visitor: name the origins"
            )
        if self.tls_key and not self.tls_certificate:
            raise ValueError("tls_key is set without tls_certificate; name the file with the certificate chain too")
        if self.breaker_rate > 1:
            raise ValueError(f"breaker_rate is {self.breaker_rate}; it is a share, of at most 1")

    def networks(self) -> tuple[Network, ...]:
        """Return the networks of the trusted proxies.

        Raises:
            ValueError: One cannot be read.
        """
        try:
            return tuple(ipaddress.ip_network(text) for text in self.trusted_proxies)
        except ValueError as error:
            raise ValueError(f"trusted_proxies cannot be read: {error}; write networks such as 10.0.0.0/8") from None
