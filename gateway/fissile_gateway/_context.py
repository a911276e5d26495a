"""What a hand-written route asks the gateway for. Inside of a request only."""

from __future__ import annotations

from typing import cast

from fissile import Bus, Process
from fissile_gateway._routes import Route

EXTENSION = "fissile"
"""Where the Quart application has its `Context`."""


class Context:
    """What the gateway's routes share.

    Attributes:
        bus: The bus of the gateway.
        process: The process it runs in.
        routes: The routes derived from contracts.
    """

    def __init__(self, bus: Bus, process: Process, routes: tuple[Route, ...]) -> None:
        self.bus = bus
        self.process = process
        self.routes = routes


def current_bus() -> Bus:
    """Return the bus that a route of the application calls modules with."""
    return _context().bus


def current_process() -> Process:
    """Return the process that the gateway runs in."""
    return _context().process


def current_routes() -> tuple[Route, ...]:
    """Return the routes that were derived from contracts."""
    return _context().routes


def _context() -> Context:
    from quart import current_app

    return cast("Context", current_app.extensions[EXTENSION])
