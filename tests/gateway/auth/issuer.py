"""Somebody who issues tokens, the server of their keys, and a gateway that trusts them."""

from __future__ import annotations

import json
import warnings
from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any

import httpx
from attrs import define, field
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

import fissile_gateway
from fissile import App, Bus, Contract, Environment, Ids, Lifespan, Module, Process
from fissile.testing import ManualClock
from fissile_gateway import GatewaySettings, ProtectionSettings
from tests.identity.modules import billing, orders

ISSUER, AUDIENCE = "https://issuer.example", "orders-api"


@cache
def rsa(kid: str = "rsa-1") -> RSAKey:
    """A key; made once, since that takes a while."""
    return RSAKey.generate_key(2048, {"kid": kid, "use": "sig"})


@cache
def ec(kid: str = "ec-1") -> ECKey:
    return ECKey.generate_key("P-256", {"kid": kid, "use": "sig"})


@cache
def okp(kid: str = "okp-1") -> OKPKey:
    return OKPKey.generate_key("Ed25519", {"kid": kid, "use": "sig"})


def key_set(*keys: RSAKey | ECKey | OKPKey | OctKey) -> dict[str, Any]:
    """The JWK set of public keys, as an issuer publishes it."""
    return {"keys": [{**key.as_dict(private=False), "kid": key.kid} for key in keys]}


def claims(now: float, **changes: Any) -> dict[str, Any]:
    """The claims of a good token; what is changed to None is left out."""
    made = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "exp": int(now) + 600,
        "scope": "orders:write orders:read",
        **changes,
    }
    return {name: value for name, value in made.items() if value is not None}


def token(
    now: float, key: Any = None, alg: str = "RS256", head: Mapping[str, Any] | None = None, **changes: Any
) -> str:
    """A token, good unless something is changed."""
    key = rsa() if key is None else key
    header = {"alg": alg, "kid": key.kid, **(head or {})}
    header = {name: value for name, value in header.items() if value is not None}
    registry = JWSRegistry(algorithms=[alg], strict_check_header=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # EdDSA has a newer name
        return jwt.encode(header, claims(now, **changes), key, [alg], registry)


def raw(header: Any, payload: Any, signature: bytes = b"") -> str:
    """A token of which each part is as a test has it."""

    def part(value: Any) -> str:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return urlsafe_b64encode(data).rstrip(b"=").decode()

    return f"{part(header)}.{part(payload)}.{part(signature)}"


# --- the server of the keys ------------------------------------------------------------------------------------------


@define
class KeyServer:
    """What is at the URL of the keys.

    Attributes:
        url: The URL.
        document: What is there.
        status: The status of answers.
        asked: How often it was asked.
        opened: Cleared while answers are held back.
    """

    url: str = ""
    document: bytes = b""
    status: int = 200
    asked: int = 0
    opened: Event = field(factory=Event)

    def publish(self, *keys: RSAKey | ECKey | OKPKey | OctKey) -> None:
        self.document = json.dumps(key_set(*keys)).encode()


@contextmanager
def key_server() -> Iterator[KeyServer]:
    """Serve keys on this machine, in a thread."""
    state = KeyServer()
    state.opened.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked += 1
            state.opened.wait(20)
            self.send_response(state.status)
            if state.status == 302:
                self.send_header("location", f"{state.url}/elsewhere")
            self.send_header("content-length", str(len(state.document)))
            self.end_headers()
            self.wfile.write(state.document)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class has it
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}/keys"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield state
        finally:
            state.opened.set()
            server.shutdown()
            thread.join()


# --- the gateway -----------------------------------------------------------------------------------------------------


@define(eq=False)
class Desk:
    """A gateway before the two modules of `tests.identity`, and the clock by which credentials end."""

    app: App
    gateway: fissile_gateway.Gateway
    client: httpx.AsyncClient
    clock: ManualClock

    @property
    def now(self) -> float:
        return self.clock.now().timestamp()

    async def get(
        self, path: str = "/api/orders/list-orders", credential: str | None = None, **more: Any
    ) -> httpx.Response:
        headers = {} if credential is None else {"authorization": f"Bearer {credential}"}
        return await self.client.get(path, headers=headers, **more)

    def handled(self, name: str) -> int:
        return sum(each.handled.get(name, 0) for each in self.app.statistics().values())


@asynccontextmanager
async def desk(
    modules: Sequence[Module] = (orders, billing),
    *,
    clock: ManualClock | None = None,
    failures: str = "",
    **settings: Any,
) -> AsyncGenerator[Desk]:
    """Make the gateway as an ASGI application over running modules."""
    clock = clock or ManualClock()
    made: list[tuple[Bus, Process]] = []
    front = Module(Contract("gateway"))

    @front.worker
    async def take(bus: Bus, process: Process, lifespan: Lifespan) -> None:
        made.append((bus, process))
        lifespan.started()
        await lifespan.draining()

    environment = Environment(clock=clock, ids=Ids("id"), random=Random(1))
    async with App([*modules, front], environment=environment) as app:
        bus, process = made[0]
        protection = ProtectionSettings(rate_limit_failures=failures)
        gateway = fissile_gateway.create_app(
            bus, process, GatewaySettings(**settings), protection=protection, clock=clock
        )
        transport = httpx.ASGITransport(gateway)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield Desk(app, gateway, client, clock)


def trusting(folder: Path, *keys: RSAKey | ECKey | OKPKey | OctKey) -> dict[str, Any]:
    """The settings of a gateway that trusts keys in a file."""
    file = folder / "keys.json"
    file.write_text(json.dumps(key_set(*keys)))
    return {"jwt_jwks": str(file), "jwt_issuer": ISSUER, "jwt_audience": (AUDIENCE,)}


Forge = Callable[[float], str]
"""Makes a token that is not to be accepted, from the time."""
