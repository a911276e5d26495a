"""The placement that `fissile dev --split` runs. Only its text is read: which modules there are, the processes find out."""

from __future__ import annotations

from fissile._application import Application
from fissile._errors import Fault, StartupFailed
from fissile._placement import MONOLITH, Placement, read_placements
from fissile.cli._exit import CommandFailed, Exit

_SPLIT = "split"
_LAST_PORT = 65_535


def default_placement(application: Application) -> str:
    """Return the placement to split into where none is named.

    Raises:
        CommandFailed: There are several, and none is called `split`.
        StartupFailed: There is none.
    """
    names = [name for name in read_placements(application.table, ()) if name != MONOLITH]
    if _SPLIT in names:
        return _SPLIT
    if not names:
        where = f"{application.file} [tool.fissile.placements.{_SPLIT}]"
        cure = 'Say which process hosts which module, such as gateway = ["gateway"].'
        raise StartupFailed((Fault("There is no placement but the one with everything in one process.", where, cure),))
    if len(names) > 1:
        raise CommandFailed(
            f"There are several placements: {', '.join(names)}.",
            f"Name one: fissile dev --split {names[0]}.",
            code=Exit.USAGE,
        )
    return names[0]


def processes_of(application: Application, name: str) -> Placement:
    """Return the processes of a placement; which modules they host is checked by themselves.

    Raises:
        StartupFailed: There is no such placement, it has no processes, or there are too few ports for their metrics.
    """
    placements = read_placements(application.table, ())
    if not placements.get(name):
        what = (
            f"There is no placement {name!r}." if name not in placements else f"The placement {name!r} has no process."
        )
        where = f"{application.file} [tool.fissile.placements]"
        raise StartupFailed((Fault(what, where, f"Use one of: {', '.join(placements)}; or add it."),))
    port = application.settings.metrics_port
    if port and port + len(placements[name]) - 1 > _LAST_PORT:
        what = f"FISSILE_METRICS_PORT is {port}, and each of the {len(placements[name])} processes takes the next one: there are too few."
        raise StartupFailed((Fault(what, "FISSILE_METRICS_PORT", "Choose a lower one, or 0 for none."),))
    return placements[name]


def metrics_ports(application: Application, placement: Placement) -> dict[str, int]:
    """Return the port where each process of this machine tells its metrics: that of the settings, and those after it; 0 for none."""
    port = application.settings.metrics_port
    return {name: port and port + number for number, name in enumerate(placement)}
