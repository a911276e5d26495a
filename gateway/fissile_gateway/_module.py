"""The gateway as a module: one worker that serves HTTP."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING

import anyio
from attrs import evolve

from fissile import Bus, Clock, Contract, Environment, Fault, Ids, Lifespan, Module, Process, StartupFailed
from fissile_gateway._gateway import Gateway
from fissile_gateway._protection_settings import ProtectionSettings
from fissile_gateway._settings import GatewaySettings

if TYPE_CHECKING:
    import ssl

    from fissile_gateway._server import HttpServer

module = Module(Contract("gateway"))


def create_app(
    bus: Bus,
    process: Process,
    settings: GatewaySettings | None = None,
    *,
    protection: ProtectionSettings | None = None,
    ids: Ids | None = None,
    clock: Clock | None = None,
) -> Gateway:
    """Make the gateway as an ASGI application, to be mounted in another one.

    Call its `drain()` when the server drains: event streams end then, and would keep the server waiting otherwise.

    Args:
        bus: What the routes call.
        process: Tells the contracts from which routes are derived, and whether the process is ready.
        settings: The bounds; where to listen is not looked at.
        protection: What it defends itself with; what only a server can do, such as TLS, is not looked at.
        ids: Makes the ids of requests.
        clock: The time by which credentials end, answers are forgotten, and requests are counted.

    Raises:
        StartupFailed: The application's own routes cannot be imported, the keys of credentials cannot be read, or a limit cannot be used.
    """
    from fissile_gateway._app import build

    settings = settings or GatewaySettings()
    bounded = evolve(settings, max_body_bytes=settings.max_body_bytes or process.max_message_bytes)
    clock = clock or Environment().clock
    return build(bus, process, bounded, protection or ProtectionSettings(), ids or Ids(), clock)


class Libraries:
    """Tells that Quart and Hypercorn are imported."""


@module.resource
@asynccontextmanager
async def libraries() -> AsyncGenerator[Libraries]:
    """Import the framework and the server. The event loop stands still for that long, so it is done before anything else runs on it."""
    for name in ("_app", "_server"):
        import_module(f"fissile_gateway.{name}")
    yield Libraries()


@module.worker
async def serve(
    bus: Bus,
    lifespan: Lifespan,
    process: Process,
    settings: GatewaySettings,
    protection: ProtectionSettings,
    ids: Ids,
    clock: Clock,
) -> None:
    """Serve the gateway until the process drains.

    Raises:
        StartupFailed: It cannot listen, or the application's own routes cannot be imported.
    """
    from fissile_gateway._descriptors import allow_connections
    from fissile_gateway._request_metrics import of_server
    from fissile_gateway._server import PortTaken
    from fissile_gateway._server import StartupFailed as ApplicationFailed

    gateway = create_app(bus, process, settings, protection=protection, ids=ids, clock=clock)
    finish_by = math.inf
    allow_connections(settings.connections_at_once)
    server = _server(gateway, settings, protection)

    async def drain() -> None:
        nonlocal finish_by
        await lifespan.draining()
        finish_by = anyio.current_time() + settings.finish_s
        gateway.drain()
        server.drain()

    def started(address: tuple[str, int]) -> None:
        lifespan.started(_url(*address, scheme="https" if protection.tls_certificate else "http"))

    failure: StartupFailed | None = None
    forget = process.metrics.add(lambda: of_server(server.statistics))
    async with anyio.create_task_group() as tasks:
        gateway.listeners = tasks
        tasks.start_soon(drain)
        if gateway.siblings is not None:
            await tasks.start(gateway.siblings.serve)
        try:
            await server.serve(started=started)
            with anyio.CancelScope(deadline=finish_by):
                await gateway.finish()
        except ApplicationFailed as error:
            fault = Fault(f"The gateway cannot start: {error}.", settings.routes, "See the log of that application.")
            failure = StartupFailed((fault,))
        except PortTaken:
            failure = _cannot_listen(settings, f"the port {settings.port} of {settings.host} is taken")
        except OSError as error:
            if lifespan.is_started:
                raise
            failure = _cannot_listen(
                settings, f"{settings.host}:{settings.port} cannot be listened on ({error.strerror or error})"
            )
        finally:
            forget()
            gateway.forget()
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _server(gateway: Gateway, settings: GatewaySettings, protection: ProtectionSettings) -> HttpServer:
    from fissile_gateway._server import HttpServer, ServerSettings

    return HttpServer(
        gateway,
        ServerSettings(
            host=settings.host,
            port=settings.port,
            max_connections=settings.connections_at_once,
            max_connections_per_address=settings.connections_per_address,
            max_head_bytes=settings.max_head_bytes,
            max_body_bytes=gateway.max_body_bytes,
            keep_alive_s=settings.keep_alive_s,
            keep_alive_requests=settings.keep_alive_requests,
            write_timeout_s=settings.write_timeout_s,
            drain_s=settings.finish_s,
            listen_fds=settings.listen_fds,
            max_target_bytes=protection.max_url_bytes,
            max_head_fields=protection.max_head_fields,
            head_timeout_s=protection.head_timeout_s,
            read_timeout_s=protection.read_timeout_s,
            tls=_tls(protection),
            tls_handshake_s=protection.tls_handshake_s,
            http2_streams=protection.http2_streams,
        ),
        gatekeeper=gateway.gatekeeper,
    )


def _cannot_listen(settings: GatewaySettings, what: str) -> StartupFailed:
    other = settings.port + 1000 if settings.port < 60_000 else 8000
    cure = f"Stop what listens there, or choose another: FISSILE_PORT={other} (FISSILE_HOST for the address)."
    return StartupFailed((Fault(f"The gateway cannot start: {what}.", "FISSILE_PORT", cure),))


def _tls(protection: ProtectionSettings) -> ssl.SSLContext | None:
    if not protection.tls_certificate:
        return None
    from fissile_gateway._http_tls import server_context

    try:
        return server_context(
            protection.tls_certificate, protection.tls_key, protection.tls_key_password, http2=protection.http2
        )
    except (OSError, ValueError) as error:
        what = f"The certificate in {protection.tls_certificate} cannot be used: {error}."
        cure = "Name files in PEM: FISSILE_TLS_CERTIFICATE with the chain, FISSILE_TLS_KEY with its private key."
        raise StartupFailed((Fault(what, "FISSILE_TLS_CERTIFICATE", cure),)) from None


def _url(host: str, port: int, *, scheme: str) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
