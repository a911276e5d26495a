"""The gateway as a module: one worker that serves HTTP."""

from __future__ import annotations

import math

import anyio
from attrs import evolve

from fissile import Bus, Clock, Contract, Environment, Fault, Ids, Lifespan, Module, Process, StartupFailed
from fissile_gateway._exchange import Gateway
from fissile_gateway._settings import GatewaySettings

module = Module(Contract("gateway"))


def create_app(
    bus: Bus,
    process: Process,
    settings: GatewaySettings | None = None,
    *,
    ids: Ids | None = None,
    clock: Clock | None = None,
) -> Gateway:
    """Make the gateway as an ASGI application, to be mounted in another one.

    Call its `drain()` when the server drains: event streams end then, and would keep the server waiting otherwise.

    Args:
        bus: What the routes call.
        process: Tells the contracts from which routes are derived, and whether the process is ready.
        settings: The bounds; where to listen is not looked at.
        ids: Makes the ids of requests.
        clock: The time by which credentials end and answers are forgotten.

    Raises:
        StartupFailed: The application's own routes cannot be imported, or the keys of credentials cannot be read.
    """
    from fissile_gateway._app import build

    settings = settings or GatewaySettings()
    bounded = evolve(settings, max_body_bytes=settings.max_body_bytes or process.max_message_bytes)
    return build(bus, process, bounded, ids or Ids(), clock or Environment().clock)


@module.worker
async def serve(
    bus: Bus, lifespan: Lifespan, process: Process, settings: GatewaySettings, ids: Ids, clock: Clock
) -> None:
    """Serve the gateway until the process drains.

    Raises:
        StartupFailed: It cannot listen, or the application's own routes cannot be imported.
    """
    from fissile_gateway._descriptors import allow_connections
    from fissile_gateway._request_metrics import of_server
    from fissile_gateway._server import HttpServer, PortTaken, ServerSettings
    from fissile_gateway._server import StartupFailed as ApplicationFailed

    gateway = create_app(bus, process, settings, ids=ids, clock=clock)
    finish_by = math.inf
    allow_connections(settings.connections_at_once)
    server = HttpServer(
        gateway,
        ServerSettings(
            host=settings.host,
            port=settings.port,
            max_connections=settings.connections_at_once,
            max_head_bytes=settings.max_head_bytes,
            max_body_bytes=gateway.max_body_bytes,
            keep_alive_s=settings.keep_alive_s,
            write_timeout_s=settings.write_timeout_s,
            drain_s=settings.finish_s,
            listen_fds=settings.listen_fds,
        ),
    )

    async def drain() -> None:
        nonlocal finish_by
        await lifespan.draining()
        finish_by = anyio.current_time() + settings.finish_s
        gateway.drain()
        server.drain()

    def started(address: tuple[str, int]) -> None:
        lifespan.started(_url(*address))

    failure: StartupFailed | None = None
    forget = process.metrics.add(lambda: of_server(server.statistics))
    async with anyio.create_task_group() as tasks:
        gateway.listeners = tasks
        tasks.start_soon(drain)
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


def _cannot_listen(settings: GatewaySettings, what: str) -> StartupFailed:
    other = settings.port + 1000 if settings.port < 60_000 else 8000
    cure = f"Stop what listens there, or choose another: FISSILE_PORT={other} (FISSILE_HOST for the address)."
    return StartupFailed((Fault(f"The gateway cannot start: {what}.", "FISSILE_PORT", cure),))


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
