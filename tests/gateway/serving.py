"""Starts the shop with its gateway, and speaks to it over sockets."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import msgspec
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from attrs import define, field, frozen

import fissile_gateway
from fissile import App, Bus, Check, Clock, Contract, Environment, Lifespan, Module, Process, Settings
from fissile_gateway import GatewaySettings, ProtectionSettings
from tests.gateway import shop


@define(eq=False)
class Shop:
    """A running shop: the application, a client, and what tests wait for."""

    app: App
    url: str
    client: httpx.AsyncClient
    watch: shop.Watch
    stop: anyio.Event
    ended: anyio.Event

    @property
    def address(self) -> tuple[str, int]:
        url = httpx.URL(self.url)
        assert url.port is not None
        return url.host, url.port


@asynccontextmanager
async def serving(
    *modules: Module,
    settings: Settings | None = None,
    overrides: dict[Any, Any] | None = None,
    environment: Environment | None = None,
    protection: ProtectionSettings | None = None,
    **gateway: Any,
) -> AsyncGenerator[Shop]:
    """Serve the shop on a free port."""
    watch = shop.Watch()
    url: list[str] = []
    ready, stop, ended = anyio.Event(), anyio.Event(), anyio.Event()

    def on_ready(announcements: tuple[str, ...]) -> None:
        url.extend(announcements)
        ready.set()

    app = App(
        [shop.module, *modules, fissile_gateway.module],
        settings=settings,
        name="testing",
        environment=environment,
        overrides={
            GatewaySettings: GatewaySettings(port=0, **gateway),
            ProtectionSettings: protection or ProtectionSettings(),
            shop.Watch: watch,
            **(overrides or {}),
        },
    )
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await app.run(on_ready=on_ready, stop=stop)
            ended.set()

        tasks.start_soon(run)
        with anyio.fail_after(60):
            await ready.wait()
        async with httpx.AsyncClient(base_url=url[0], timeout=10, trust_env=False) as client:
            yield Shop(app, url[0], client, watch, stop, ended)
        stop.set()


@asynccontextmanager
async def building(
    checks: Callable[[], tuple[Check, ...]] | None = None,
    *,
    modules: tuple[Module, ...] = (),
    protection: ProtectionSettings | None = None,
    clock: Clock | None = None,
    through: Callable[[Bus], Any] = lambda bus: bus,
    **gateway: Any,
) -> AsyncGenerator[tuple[fissile_gateway.Gateway, shop.Watch]]:
    """Make the gateway as an ASGI application over a running shop, without a server."""
    watch = shop.Watch()
    made: list[tuple[Bus, Process]] = []
    module = Module(Contract("gateway"))

    @module.worker
    async def take(bus: Bus, process: Process, lifespan: Lifespan) -> None:
        made.append((bus, process))
        lifespan.started()
        await lifespan.draining()

    async with App([shop.module, *modules, module], overrides={shop.Watch: watch}):
        bus, process = made[0]
        if checks is not None:
            process = msgspec.structs.replace(process, checks=checks)
        app = fissile_gateway.create_app(
            through(bus), process, GatewaySettings(**gateway), protection=protection, clock=clock
        )
        try:
            yield app, watch
        finally:
            app.forget()


@asynccontextmanager
async def guarded(
    clock: Clock | None = None, *, address: str = "192.0.2.1", gateway: dict[str, Any] | None = None, **protection: Any
) -> AsyncGenerator[Guarded]:
    """Make the gateway with some protection, and a client of it without sockets."""
    settings = ProtectionSettings(**protection)
    async with (
        building(protection=settings, clock=clock, **(gateway or {})) as (app, watch),
        client_at(app, address) as client,
    ):
        yield Guarded(app, client, watch)


@define(eq=False)
class Guarded:
    """A gateway without a server, and what tests do with it."""

    gateway: fissile_gateway.Gateway
    client: httpx.AsyncClient
    watch: shop.Watch


def client_at(app: fissile_gateway.Gateway, address: str, scheme: str = "http") -> httpx.AsyncClient:
    """Make a client that comes from an address."""
    transport = httpx.ASGITransport(app=app, client=(address, 50_000))
    return httpx.AsyncClient(transport=transport, base_url=f"{scheme}://shop.test", timeout=10)


@frozen
class Frame:
    """One server-sent event, or what else stands between two empty lines."""

    id: str | None = None
    event: str | None = None
    data: Any = None
    comment: str | None = None
    retry: str | None = None


@define(eq=False)
class Stream:
    """The client's side of one HTTP answer, read from the socket."""

    socket: SocketStream
    reader: BufferedByteReceiveStream
    status: int
    headers: dict[str, str]
    ahead: list[str] = field(factory=list[str])

    async def chunk(self) -> bytes:
        """Read one chunk; none is the end."""
        size = int(await self.reader.receive_until(b"\r\n", 100), 16)
        return (await self.reader.receive_exactly(size + 2))[:-2]

    async def frame(self) -> Frame | None:
        """Read one event; None is the end."""
        if not self.ahead:
            with anyio.fail_after(20):
                piece = (await self.chunk()).decode()
            if not piece:
                return None
            assert piece.endswith("\n\n")
            self.ahead = piece[:-2].split("\n\n")
        text = self.ahead.pop(0)
        fields = dict(line.split(": ", 1) for line in text.strip().split("\n"))
        data = fields.get("data")
        return Frame(
            fields.get("id"),
            fields.get("event"),
            None if data is None else json.loads(data),
            fields.get(""),
            fields.get("retry"),
        )


@asynccontextmanager
async def streaming(
    shop: Shop, path: str, method: str = "GET", body: bytes = b"", **headers: str
) -> AsyncGenerator[Stream]:
    """Send a request, read the head of its answer, and leave when the block ends."""
    async with await anyio.connect_tcp(*shop.address) as socket:
        fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        length = "" if "content_length" in headers else f"content-length: {len(body)}\r\n"
        head = f"{method} {path} HTTP/1.1\r\nhost: test\r\n{length}{fields}\r\n"
        await socket.send(head.encode() + body)
        reader = BufferedByteReceiveStream(socket)
        with anyio.fail_after(20):
            lines = (await reader.receive_until(b"\r\n\r\n", 20_000)).decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines[1:])
        yield Stream(socket, reader, int(lines[0].split()[1]), dict(pairs))
