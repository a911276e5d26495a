"""The transports, one a file, found by the scheme of the bus URL: `memory://` is `memory.py`."""

from __future__ import annotations

from importlib import import_module

from fissile._clock import Clock
from fissile._errors import Fault, StartupFailed
from fissile._settings import Settings
from fissile.abc import Transport, TransportFactory


def schemes() -> tuple[str, ...]:
    """Return the schemes that a bus URL may have."""
    from pkgutil import iter_modules  # not needed to import fissile

    return tuple(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))


def open_transport(settings: Settings, clock: Clock, client: str = "fissile") -> Transport:
    """Make the transport that the settings name; nothing is connected yet.

    Args:
        settings: The bus, and its own settings.
        clock: The clock of the process.
        client: What the log is told of who uses it: application and process.

    Raises:
        StartupFailed: There is no transport of that scheme.
    """
    scheme = settings.bus.partition(":")[0]
    if scheme not in schemes():
        known = ", ".join(f"{name}://" for name in schemes())
        raise StartupFailed(
            (Fault(f"There is no transport for {settings.bus!r}.", "FISSILE_BUS", f"Use one of: {known}."),)
        )
    factory: TransportFactory = import_module(f"{__name__}.{scheme}").transport
    transport = factory(settings, clock)
    transport.client = client
    return transport
